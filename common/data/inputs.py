"""Images to segment, from one path: files, folders, DICOM series in folders, ZIP files or on a server."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import nibabel as nib
from monai.config import PathLike
from PIL import Image

from common.data.dicom import dicom_files, single_series
from common.data.dicom_sources import local_path
from common.data.image_files import (
    IMAGE_SUFFIXES,
    PICTURE_SUFFIXES,
    image_id,
    is_nifti,
    joined,
    list_images,
    read_image,
)
from common.data.picture_reader import picture_problem
from common.errors import InputError, raise_problems

logger = logging.getLogger(__name__)


def find_images(
    input_path: PathLike, in_channels: int = 1, spatial_dims: int = 3, series_uid: str | None = None
) -> list[dict[str, str]]:
    """Find the images that a path stands for, and open each as far as its header.

    Args:
        input_path: NIfTI file or picture; folder of such files; folder with one DICOM series; folder whose
            subfolders each hold one DICOM series; ZIP file with a DICOM study; or the address of a study or
            series on a DICOMweb server, see :mod:`common.data.dicom_sources`.
        in_channels: channels the network expects. For 1 and 3, pictures only have to be of a kind that
            :class:`~common.data.picture_reader.PictureReader` turns into gray or RGB.
        spatial_dims: spatial axes the network expects, 2 or 3.
        series_uid: SeriesInstanceUID of the one to take from a DICOM study with several series.

    Returns:
        ``{"id": ..., "image": path}`` by name; for DICOM the path is the folder, for ``LoadImaged`` to read,
        a temporary one if it had to be fetched.

    Raises:
        InputError: nothing there, no images, images and DICOM mixed, two images that would be saved under one
            name, a file that is unreadable or has the wrong number of axes or channels, or a DICOM series
            refused by :func:`common.data.dicom.single_series`; a ZIP file or server refused by
            :func:`common.data.dicom_sources.local_path`.
    """
    path = local_path(input_path, series_uid)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    images = [path] if path.is_file() else _in_folder(path)
    _refuse_same_name(images)
    problems = []
    for image in images:
        try:
            _check(image, in_channels, spatial_dims)
        except InputError as error:
            problems.append(str(error))
    raise_problems(f"{path}: images", problems)
    return [{"id": _saved_name(image), "image": str(image)} for image in images]


def _in_folder(folder: Path) -> list[Path]:
    """Image files, or else the folder itself or its subfolders if they hold DICOM."""
    files, has_dicom = list_images(folder), bool(dicom_files(folder))
    if files and has_dicom:
        raise InputError(f"{folder}: expected images or DICOM files, found both; separate them")
    if files:
        return files
    if has_dicom:
        return [folder]
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    series = [path for path in subfolders if dicom_files(path)]
    if not series:
        raise InputError(
            f"{folder}: expected images ({', '.join(IMAGE_SUFFIXES)}), DICOM files or subfolders with DICOM "
            "files, found none"
        )
    if len(series) < len(subfolders):
        left_out = joined(path.name for path in subfolders if path not in series)
        logger.warning("%s: subfolders without DICOM files are left out: %s", folder, left_out)
    return series


def _saved_name(path: Path) -> str:
    """The name under which ``SaveImaged`` saves a result, which cuts a folder's name at its last dot."""
    return path.stem if path.is_dir() else image_id(path)


def _refuse_same_name(images: list[Path]) -> None:
    first: dict[str, Path] = {}
    raise_problems(
        "images that would be saved under one name; rename them",
        [
            f"{path}: same name as {first[_saved_name(path)].name}"
            for path in images
            if first.setdefault(_saved_name(path), path) != path
        ],
    )


def _check(path: Path, in_channels: int, spatial_dims: int) -> None:
    """Raise if an image cannot be opened or does not fit the network, without reading its voxels."""
    if path.is_dir():
        if (in_channels, spatial_dims) != (1, 3):
            raise InputError(
                f"{path}: expected {in_channels} channel(s) and {spatial_dims} spatial axes, found DICOM"
            )
        single_series(path)
    elif is_nifti(path):
        _check_nifti(path, in_channels, spatial_dims)
    elif path.name.lower().endswith(PICTURE_SUFFIXES):
        _check_picture(path, in_channels, spatial_dims)
    else:
        raise InputError(
            f"{path}: expected an image ({', '.join(IMAGE_SUFFIXES)}) or, for DICOM, the folder of the series"
            " or a ZIP file"
        )


def _check_nifti(path: Path, in_channels: int, spatial_dims: int) -> None:
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel, gzip and the system raise different ones
        raise InputError(f"{path}: expected a NIfTI file ({error})") from error
    shape = image.shape
    has_channels = shape[spatial_dims:] == (in_channels,) or (in_channels == 1 and len(shape) == spatial_dims)
    if not has_channels:
        raise InputError(
            f"{path}: expected {spatial_dims} spatial axes and {in_channels} channel(s), found {shape}"
        )
    expected_bytes = image.dataobj.offset + math.prod(shape) * image.get_data_dtype().itemsize
    if _content_bytes(path) < expected_bytes % 2**32:
        read_image(path)  # truncated, unless it is a gzip file of several members: reading decides


def _content_bytes(path: Path) -> int:
    """Size of a file, or what a gzip file notes at its end about its content, modulo 2^32."""
    if path.suffix.lower() != ".gz":
        return path.stat().st_size % 2**32
    with path.open("rb") as file:
        file.seek(-4, 2)
        return int.from_bytes(file.read(), "little")


def _check_picture(path: Path, in_channels: int, spatial_dims: int) -> None:
    if spatial_dims == 2 and in_channels in (1, 3):
        problem = picture_problem(path, in_channels)
        if problem is not None:
            raise InputError(problem)
        return
    try:
        with Image.open(path) as picture:
            found = len(picture.getbands())
    except Exception as error:  # PIL raises many kinds
        raise InputError(f"{path}: expected a picture ({error})") from error
    if (found, 2) != (in_channels, spatial_dims):
        raise InputError(
            f"{path}: expected {in_channels} channel(s) and {spatial_dims} spatial axes, found {found} and 2"
        )
