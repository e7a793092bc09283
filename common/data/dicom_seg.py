"""Segmentations as DICOM SEG objects that refer to the slices they were made from.

Slices are matched to the mask by where they lie in the patient, never by the order of files; positions and
orientation in the SEG are those of the slices themselves.
Axes: X Y Z of the mask in any order and direction that its affine says; N slices along their normal.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from monai.config import PathLike
from pydicom.sr.codedict import codes

from common import __version__
from common.data.dicom import package_of_extra, single_series
from common.data.image_files import reason
from common.data.label_codes import shown
from common.data.segment_terms import SegmentTerm
from common.data.writers import atomic_path
from common.errors import InputError

logger = logging.getLogger(__name__)

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_IN_PLANE_TOLERANCE_VOX = 0.1
_FIRST_SERIES_NUMBER = 1000  # beyond those of scanners, so that viewers list a segmentation after its images
# What DICOM lets be empty but not absent (type 2); anonymizers often take the whole element away.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)


@dataclass(frozen=True)
class Segment:
    """A class as it appears in a mask.

    Attributes:
        value: of its voxels in the mask, above 0.
        name: shown by viewers.
        term: what it is, in codes.
    """

    value: int
    name: str
    term: SegmentTerm


@dataclass(frozen=True)
class Algorithm:
    """What made a mask.

    Attributes:
        name: of the bundle.
        version: of the bundle.
    """

    name: str
    version: str


def write_dicom_seg(
    mask: np.ndarray,
    affine: np.ndarray,
    series_folder: PathLike,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    path: PathLike,
) -> bool:
    """Write a mask as a binary DICOM SEG, whole or not at all; one segment per class that occurs in it.

    Args:
        mask: integers (X, Y, Z) on the grid of the series, 0 is background.
        affine: (4, 4), from voxels of the mask to RAS millimeters.
        series_folder: with the one series that the mask belongs to.
        segments: all classes that may occur; numbered from 1 in this order, those without voxels left out.
        algorithm: what made the mask.
        path: file to write.

    Returns:
        Whether a file was written: an entirely empty mask gives none, because a SEG needs a segment. The log
        says so.

    Raises:
        InputError: highdicom is not installed; a value that is no segment's; a mask on another grid than the
            series; headers that DICOM forbids; or ``path`` cannot be written.
    """
    highdicom = package_of_extra("highdicom")
    logging.getLogger("highdicom").setLevel(logging.WARNING)  # else a line for each module that it copies
    present = _present(mask, segments, series_folder)
    if not present:
        logger.warning(
            "%s: the mask is empty, so no DICOM segmentation is written to %s", series_folder, path
        )
        return False
    headers = [_complete_header(file) for file in single_series(series_folder)]
    numbers = np.zeros(int(mask.max()) + 1, np.uint8)
    for number, segment in enumerate(present, start=1):
        numbers[segment.value] = number
    frames = slices_of_mask(numbers[mask], affine, headers)
    try:
        dataset = _segmentation(highdicom, frames, headers, present, algorithm)
    except (ValueError, TypeError, AttributeError) as error:  # what highdicom raises for odd headers
        raise InputError(
            f"{series_folder}: expected headers from which a DICOM segmentation can be made, "
            f"found {reason(error)}"
        ) from error
    with atomic_path(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return True


def slices_of_mask(mask: np.ndarray, affine: np.ndarray, headers: Sequence[pydicom.Dataset]) -> np.ndarray:
    """The part of a mask that lies on each slice of a series.

    Args:
        mask: (X, Y, Z), any dtype.
        affine: (4, 4), from voxels of the mask to RAS millimeters.
        headers: N slices with their geometry, in any order.

    Returns:
        (N, rows, columns) in the order of ``headers``.

    Raises:
        InputError: the voxels of the mask are not the pixels of the slices.
    """
    lps_to_mask = np.linalg.inv(_LPS_FROM_RAS @ np.asarray(affine, float))
    first = headers[0]
    to_right, down = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    between_rows_mm, between_columns_mm = map(float, first.PixelSpacing)
    # In voxels of the mask: one column further, one row further, and the first pixel of each slice.
    steps = np.stack([to_right * between_columns_mm, down * between_rows_mm]) @ lps_to_mask[:3, :3].T
    corners_mm = np.array([header.ImagePositionPatient for header in headers], float)
    corners = corners_mm @ lps_to_mask[:3, :3].T + lps_to_mask[:3, 3]
    whole_steps, whole_corners = np.rint(steps).astype(int), np.rint(corners).astype(int)
    size = np.array([first.Columns, first.Rows])
    if not _is_same_grid(mask.shape, steps, corners, size):
        raise InputError(
            f"mask: expected the grid of its DICOM series, {size[0]} x {size[1]} pixels in {len(headers)} "
            f"slices, found {tuple(mask.shape)} voxels, or elsewhere in the patient"
        )
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    in_plane = columns[..., None] * whole_steps[0] + rows[..., None] * whole_steps[1]
    return np.stack([mask[tuple(np.moveaxis(corner + in_plane, -1, 0))] for corner in whole_corners])


def _is_same_grid(shape: Sequence[int], steps: np.ndarray, corners: np.ndarray, size: np.ndarray) -> bool:
    """Whether every voxel is exactly one pixel.

    Along the normal, slices only have to be nearest to different voxels: their positions may be rounded,
    while the affine knows their mean distance alone.
    """
    axes = np.abs(steps).argmax(axis=1)
    across = 3 - axes.sum()
    whole_steps, whole_corners = np.rint(steps), np.rint(corners)
    drift = (np.abs(steps - whole_steps) * (size - 1)[:, None]).max()
    shift = np.abs(corners - whole_corners)[:, axes].max()
    is_unit = axes[0] != axes[1] and np.array_equal(np.abs(whole_steps), np.eye(3)[axes])
    if not is_unit or max(drift, shift) > _IN_PLANE_TOLERANCE_VOX:
        return False
    ends = whole_corners[:, None] + np.array([[0, 0], size - 1]) @ whole_steps
    return (
        [shape[axis] for axis in axes] == size.tolist()
        and bool((ends >= 0).all() and (ends < shape).all())
        and sorted(whole_corners[:, across].tolist()) == list(range(shape[across]))
    )


def _present(mask: np.ndarray, segments: Sequence[Segment], folder: PathLike) -> list[Segment]:
    found: set[int] = set()
    for index in range(mask.shape[-1]):  # at once, numpy would sort a copy of the volume
        found |= set(np.unique(mask[..., index]).tolist())
    found.discard(0)
    unknown = sorted(found - {segment.value for segment in segments})
    if unknown:
        expected = shown([segment.value for segment in segments])
        raise InputError(f"{folder}: expected a mask of the values {expected}, found also {shown(unknown)}")
    return [segment for segment in segments if segment.value in found]


def _complete_header(path: Path) -> pydicom.Dataset:
    header = pydicom.dcmread(path, stop_before_pixels=True)
    missing = [
        name for name in ("FrameOfReferenceUID", "StudyInstanceUID", "SOPInstanceUID") if not header.get(name)
    ]
    if missing:
        raise InputError(f"{path}: a DICOM segmentation needs {', '.join(missing)}, found nothing")
    for name in _MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, "")
    return header


def _segmentation(
    highdicom: object,
    frames: np.ndarray,
    headers: Sequence[pydicom.Dataset],
    segments: Sequence[Segment],
    algorithm: Algorithm,
) -> pydicom.Dataset:
    dataset = highdicom.seg.Segmentation(
        source_images=headers,
        pixel_array=frames,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(highdicom, number, segment, algorithm)
            for number, segment in enumerate(segments, start=1)
        ],
        series_instance_uid=highdicom.UID(),
        series_number=_FIRST_SERIES_NUMBER + int(headers[0].get("SeriesNumber") or 0) % 1000,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="medseg-bundles",
        manufacturer_model_name=algorithm.name,
        software_versions=[algorithm.version, f"medseg-bundles {__version__}"],
        device_serial_number="none",
        content_label="SEGMENTATION",
        content_description=f"Automatic segmentation by {algorithm.name} {algorithm.version}"[:64],
        series_description=f"Segmentation by {algorithm.name} {algorithm.version}"[:64],
    )
    for item, segment in zip(dataset.SegmentSequence, segments):
        item.SegmentDescription = f"value {segment.value} in the mask as a NIfTI file"
        if segment.term.side is not None:
            side = highdicom.sr.CodedConcept.from_code(segment.term.side)
            item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return dataset


def _description(highdicom: object, number: int, segment: Segment, algorithm: Algorithm) -> pydicom.Dataset:
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:64],
        segmented_property_category=segment.term.category,
        segmented_property_type=segment.term.kind,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=f"{algorithm.name} {algorithm.version}"[:64],
            family=codes.DCM.ArtificialIntelligence,
            version=algorithm.version[:64],
        ),
        anatomic_regions=segment.term.regions or None,
    )
