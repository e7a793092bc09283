"""Masks of a DICOM series, one picture per slice, as a volume on the grid of the loaded series.

In CHAOS nothing but the file names says which mask belongs to which slice, and the names run from head to
foot in some series and from foot to head in others. So masks and slices are paired by the rank of their
names, and then ordered together by where the slices lie.
Axes: X Y Z as MONAI's loader orders a series: columns, rows, slices along their normal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from monai.config import PathLike

from common.data.dicom import dicom_files, single_series
from common.data.image_files import existing_folder, list_images
from common.data.label_codes import shown
from common.data.picture_reader import PictureReader
from common.errors import InputError, raise_problems


def mask_files(folder: PathLike) -> list[Path]:
    """PNG files directly in a folder, in the order of their names; hidden ones are left out.

    Raises:
        InputError: no such folder.
    """
    return in_name_order(list_images(existing_folder(folder), (".png",)))


def in_name_order(files: Sequence[Path]) -> list[Path]:
    """Files by name; if names differ in length, numbers in them count as numbers (``9`` before ``10``)."""
    if len({len(path.name) for path in files}) <= 1:
        return sorted(files, key=lambda path: path.name)
    return sorted(
        files,
        key=lambda path: [
            (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)
        ],
    )


def mask_of_slice(image_folder: PathLike, mask_folder: PathLike) -> dict[Path, Path]:
    """The mask of every slice: rank i among the names of one folder belongs to rank i of the other.

    Numbers in the names are not compared, as they need not agree (``IMG-0004-00002`` and ``mask_000``).

    Args:
        image_folder: with the DICOM files of one series.
        mask_folder: with one PNG file per slice.

    Returns:
        DICOM file -> PNG file, in the order of the names.

    Raises:
        InputError: no such folder, no DICOM files, or another number of masks than of slices.

    Source: our choice, as CHAOS does not say it; checked on a series whose masks are known to fit.
    """
    slices = in_name_order(dicom_files(existing_folder(image_folder)))
    masks = mask_files(mask_folder)
    if not slices or len(slices) != len(masks):
        raise InputError(
            f"{mask_folder}: expected one PNG mask for every DICOM file in {image_folder}, "
            f"found {len(masks)} masks and {len(slices)} DICOM files"
        )
    return dict(zip(slices, masks))


def read_mask(path: PathLike) -> np.ndarray:
    """Gray values of a mask, (X, Y): uint8, 1-bit masks as 0 and 255; int32 if it has more than 8 bits.

    Raises:
        InputError: no readable picture, or a colored or transparent one.
    """
    reader = PictureReader(channels=1)
    values = reader.get_data(reader.read(path))[0]
    return values if values.dtype == np.uint8 else values.astype(np.int32)


def read_mask_stack(mask_folder: PathLike, image_folder: PathLike, size: Sequence[int]) -> np.ndarray:
    """Masks of a series as one volume, with its slices in the order in which MONAI loads the series.

    Args:
        mask_folder: with one PNG file per slice.
        image_folder: with the DICOM files of the series.
        size: columns X and rows Y of the loaded slices, in pixels.

    Returns:
        Gray values as stored, (X, Y, Z): uint8, int32 if a mask has more than 8 bits.

    Raises:
        InputError: refused by :func:`mask_of_slice`, :func:`~common.data.dicom.single_series` or
            :func:`read_mask`, or a mask of another size.
    """
    mask_of = mask_of_slice(image_folder, mask_folder)
    slices = []
    for path in single_series(image_folder):
        values = read_mask(mask_of[path])
        if values.shape != tuple(size):
            raise InputError(
                f"{mask_of[path]}: expected {size[0]} x {size[1]} pixels as in {path}, "
                f"found {' x '.join(map(str, values.shape))}"
            )
        slices.append(values)
    return np.stack(slices, axis=-1)


def refuse_unknown_values(mask_folder: PathLike, class_of: Mapping[int, int]) -> None:
    """Refuse masks with values that have no meaning.

    Args:
        mask_folder: with PNG files.
        class_of: value -> class index.

    Raises:
        InputError: no such folder, or masks with other values, one line per mask.
    """
    unknown = {
        path: [value for value in np.unique(read_mask(path)).tolist() if value not in class_of]
        for path in mask_files(mask_folder)
    }
    raise_problems(
        f"{mask_folder}: expected mask values {shown(sorted(class_of), limit=300)}",
        [f"{path}: found also {shown(values)}" for path, values in unknown.items() if values],
    )
