"""Which files count as images, what their ids are, and how they are read: one answer for all modules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from monai.config import PathLike
from monai.data import ImageReader, MetaTensor
from monai.transforms import LoadImage
from monai.utils import ensure_tuple

from common.errors import InputError

NIFTI_SUFFIXES = (".nii.gz", ".nii")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
IMAGE_SUFFIXES = NIFTI_SUFFIXES + PICTURE_SUFFIXES


def image_id(path: PathLike) -> str:
    """File name without folder and image suffix: ``a/case.1.nii.gz`` gives ``case.1``."""
    name = Path(path).name
    suffix = next((s for s in IMAGE_SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


def is_nifti(path: PathLike) -> bool:
    """Whether the name ends like that of a NIfTI file."""
    return Path(path).name.lower().endswith(NIFTI_SUFFIXES)


def existing_folder(path: PathLike) -> Path:
    """Absolute path of a folder.

    Raises:
        InputError: there is no such folder.
    """
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder, found {'a file' if folder.exists() else 'nothing'}")
    return folder


def list_images(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """Image files directly in a folder, by name; hidden files (``._case.nii.gz`` of macOS) are left out."""
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in files if path.name.lower().endswith(suffixes))


def read_image(path: PathLike | Sequence[PathLike], reader: ImageReader | None = None) -> MetaTensor:
    """Read one image the way ``LoadImaged`` does for training.

    Args:
        path: NIfTI file, picture, or folder with one DICOM series; or several files of one case, such as the
            masks of several lesions, that become channels.
        reader: as for ``LoadImaged``; None lets the file's name decide.

    Returns:
        float32 (C, spatial...) with its affine in RAS millimeters.

    Raises:
        InputError: a file is missing, truncated or not of the kind its name says, or refused by ``reader``;
            or no file is given.
    """
    files = ensure_tuple(path)
    missing = [file for file in files if not Path(file).exists()]
    if missing or not files:
        raise InputError(
            f"{joined(missing)}: no such file" if missing else "expected an image file, found none"
        )
    try:
        return LoadImage(reader=reader, image_only=True, ensure_channel_first=True)(files)
    except InputError:
        raise
    except Exception as error:  # readers raise zlib, EOF, PIL, nibabel, ITK and runtime errors alike
        raise InputError(f"{joined(files)}: expected a readable image, found {reason(error)}") from error


def joined(items: Iterable[object], limit: int = 10) -> str:
    """Comma-separated list, cut after ``limit`` entries with the number left out."""
    names = [str(item) for item in items]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def image_problems(image: torch.Tensor, name: str, in_channels: int, spatial_dims: int) -> list[str]:
    """What is wrong with an image that has been read.

    Args:
        image: (C, spatial...).
        name: how to call it in the message, usually its path.
        in_channels: expected C.
        spatial_dims: expected number of spatial axes.

    Returns:
        One line per problem, beginning with ``name``; empty if there is none.
    """
    problems = []
    if image.ndim - 1 != spatial_dims:
        problems.append(
            f"{name}: expected {spatial_dims} spatial axes, found {image.ndim - 1} {tuple(image.shape[1:])}"
        )
    if image.shape[0] != in_channels:
        problems.append(f"{name}: expected {in_channels} channel(s), found {image.shape[0]}")
    finite = torch.isfinite(torch.as_tensor(image))
    if not finite.all():
        problems.append(f"{name}: expected finite values, found {int((~finite).sum())} NaN or Inf voxel(s)")
    return problems


def reason(error: Exception) -> str:
    """Kind of an exception and the last line of its message, for messages of our own."""
    last_line = str(error).strip().splitlines()[-1:] or ["no explanation"]
    return f"{type(error).__name__}: {last_line[0].strip()}"
