"""Reads the masks of a bundle with other readers than wrote them, and compares them voxel by voxel.

DICOM SEG: pydicom alone. NIfTI: nibabel. Pictures: Pillow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image

from common.data.dicom import dicom_files
from common.errors import InputError
from common.metrics.overlap import dice
from common.metrics.threshold_curves import mask_counts
from tools.dicom_round_trip import compared

AFFINE_TOLERANCE_MM = 1e-3
POSITION_TOLERANCE_MM = 1e-3


@dataclass(frozen=True)
class Comparison:
    """Two masks of one image.

    Attributes:
        voxels: of all classes, in the mask that is compared.
        different: voxels that do not have the same value.
        lines: what to tell about it.
    """

    voxels: int
    different: int
    lines: list[str]


def check_seg(seg_path: Path, mask_path: Path, series: Path) -> Comparison:
    """A DICOM SEG against the NIfTI mask of the same run, and its frames against the slices themselves.

    Raises:
        InputError: a frame does not lie where the slice lies that it refers to.
    """
    seg, mask = pydicom.dcmread(seg_path), nib.load(mask_path)
    lines, different = compared(seg, mask)
    found = frames_on_slices(seg, series)
    if found != seg.NumberOfFrames:
        raise InputError(
            f"{seg_path}: expected {seg.NumberOfFrames} frames where the slices lie that they refer to, "
            f"found {found}"
        )
    lines.append(f"{found} of {seg.NumberOfFrames} frames lie where the slice lies that they refer to")
    return Comparison(int((np.asarray(mask.dataobj) > 0).sum()), different, lines)


def frames_on_slices(seg: pydicom.Dataset, series: Path) -> int:
    """Frames of a SEG whose position and orientation are those of the slice that they refer to.

    Args:
        seg: with the functional groups of its frames.
        series: folder with the slices.
    """
    slices = {str(header.SOPInstanceUID): header for header in map(_header, dicom_files(series))}
    shared, count = seg.SharedFunctionalGroupsSequence[0], 0
    for own in seg.PerFrameFunctionalGroupsSequence:
        (source,) = own.DerivationImageSequence[0].SourceImageSequence
        header = slices.get(str(source.ReferencedSOPInstanceUID))
        if header is None:
            continue
        plane = (own if "PlaneOrientationSequence" in own else shared).PlaneOrientationSequence[0]
        found = [*own.PlanePositionSequence[0].ImagePositionPatient, *plane.ImageOrientationPatient]
        expected = [*header.ImagePositionPatient, *header.ImageOrientationPatient]
        count += np.allclose(np.array(found, float), np.array(expected, float), atol=POSITION_TOLERANCE_MM)
    return count


def read_mask(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Values of a NIfTI mask and its affine, axes turned towards RAS; of a picture (H, W) and None."""
    if path.name.endswith((".nii", ".nii.gz")):
        image = nib.as_closest_canonical(nib.load(path))
        return np.asarray(image.dataobj), image.affine
    with Image.open(path) as opened:
        return np.asarray(opened.convert("L")), None


def compare_masks(expected_path: Path, found_path: Path) -> Comparison:
    """Two masks on one grid; those of pictures count as object or not, whatever the numbers.

    Raises:
        InputError: they are on two grids.
    """
    expected, found = _on_one_grid(expected_path, found_path)
    different = int((expected != found).sum())
    voxels = int((expected > 0).sum())
    return Comparison(voxels, different, [f"{voxels} voxels, {different} differ"])


def dice_to_reference(mask_path: Path, reference_path: Path, class_names: Sequence[str]) -> dict[str, float]:
    """Dice of each class between a mask and a reference with the same numbers.

    Args:
        mask_path: what a bundle made.
        reference_path: NIfTI, or a picture whose object is brighter than the middle.
        class_names: of 1, 2, ...

    Raises:
        InputError: they are on two grids.
    """
    mask, reference = _on_one_grid(mask_path, reference_path)
    return {
        name: dice(mask_counts(mask == value, reference == value))
        for value, name in enumerate(class_names, start=1)
    }


def _on_one_grid(first_path: Path, second_path: Path) -> list[np.ndarray]:
    (first, first_affine), (second, second_affine) = read_mask(first_path), read_mask(second_path)
    same = first.shape == second.shape and (first_affine is None) == (second_affine is None)
    if same and first_affine is not None:
        same = np.allclose(first_affine, second_affine, atol=AFFINE_TOLERANCE_MM)
    if not same:
        raise InputError(
            f"{second_path}: expected the grid of {first_path}, shape {first.shape} and affine\n"
            f"{first_affine}, found {second.shape} and\n{second_affine}"
        )
    if first_affine is None:
        return [_is_object(array) for array in (first, second)]
    return [first, second]


def _is_object(picture: np.ndarray) -> np.ndarray:
    # MONAI Label writes 1 for the first label, the bundles and data sets 255; JPEG blurs edges.
    return picture > picture.max() / 2


def _header(file: Path) -> pydicom.Dataset:
    return pydicom.dcmread(file, stop_before_pixels=True)
