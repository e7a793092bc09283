"""Folders with one DICOM series: what has to hold before its slices may be stacked to a volume."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import itk
import numpy as np
import pydicom
from monai.config import PathLike
from pydicom.misc import is_dicom

from common.data.image_files import existing_folder, joined
from common.errors import InputError, raise_problems

_SPACING_TOLERANCE_MM = 0.05
_SHIFT_TOLERANCE_MM = 0.5
_TAGS = (
    "SeriesInstanceUID",
    "SeriesDescription",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
)
# Decoded by the GDCM inside ITK, which is what MONAI's loader uses for a folder.
_READABLE_SYNTAXES = {
    "1.2.840.10008.1.2": "uncompressed, implicit",
    "1.2.840.10008.1.2.1": "uncompressed, explicit",
    "1.2.840.10008.1.2.1.99": "deflated",
    "1.2.840.10008.1.2.2": "uncompressed, big endian",
    "1.2.840.10008.1.2.4.50": "JPEG baseline",
    "1.2.840.10008.1.2.4.51": "JPEG extended",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless, first order",
    "1.2.840.10008.1.2.4.80": "JPEG-LS lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS near lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.5": "RLE",
}


def package_of_extra(name: str) -> ModuleType:
    """Import a package that only the extra ``dicom`` brings: ``highdicom`` or ``dicomweb_client``.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{name.replace('_', '-')}: expected this package to be installed ({error}); get it with "
            'pip install -e ".[dicom]" -c constraints.txt'
            f" (in a package: pip install {name.replace('_', '-')} -c requirements.txt)"
        ) from error


def dicom_files(folder: Path) -> list[Path]:
    """Files with a DICOM preamble directly in a folder, whatever their suffix, without hidden ones."""
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in files if is_dicom(path))


def single_series(folder: PathLike) -> list[Path]:
    """Slices of the one series in a folder, ordered along the normal of the slices.

    Positions are ``ImagePositionPatient`` projected on the normal; ``SliceThickness`` and ``InstanceNumber``
    are never used, as they need not agree with where the slices lie.

    Args:
        folder: with the slices, one per file; other files are ignored.

    Returns:
        Paths, at least 2.

    Raises:
        InputError: no DICOM files, several series, fewer than 2 slices, a slice without geometry or with
            several frames, different orientations, sizes or pixel spacings, two slices at one position, a
            gap, a tilted gantry, pixels in a compression that cannot be decoded, or slices that the
            loader would take for different series.
    """
    folder = existing_folder(folder)
    files = dicom_files(folder)
    if not files:
        raise InputError(f"{folder}: expected DICOM files, found none")
    slices = {path: _header(path) for path in files}
    _refuse_several_series(folder, slices)
    if len(files) < 2:
        raise InputError(f"{folder}: expected a series of at least 2 slices, found 1")
    raise_problems(
        f"{folder}: DICOM slices", [line for path in files for line in _slice_problems(path, slices[path])]
    )
    _refuse_different_grids(folder, slices)
    normal = _normal(slices[files[0]])
    corners = {path: np.array(slices[path].ImagePositionPatient, float) for path in files}
    ordered = sorted(files, key=lambda path: float(normal @ corners[path]))
    corners_mm = np.array([corners[path] for path in ordered])
    _refuse_uneven(folder, ordered, corners_mm @ normal)
    _refuse_tilt(folder, corners_mm, normal)
    _refuse_split_by_loader(folder, len(files))
    return ordered


def _header(path: Path) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    except Exception as error:  # a damaged header fails in many ways
        raise InputError(
            f"{path}: expected a readable DICOM file ({type(error).__name__}: {error})"
        ) from error


def _refuse_several_series(folder: Path, slices: dict[Path, pydicom.Dataset]) -> None:
    series: dict[str, list[pydicom.Dataset]] = defaultdict(list)
    for header in slices.values():
        series[str(header.get("SeriesInstanceUID", ""))].append(header)
    if len(series) > 1:
        found = [
            f"{headers[0].get('SeriesDescription') or 'no name'} ({len(headers)} slices, UID {uid})"
            for uid, headers in series.items()
        ]
        raise InputError(
            f"{folder}: expected one DICOM series, found {len(series)}: {joined(found)}; "
            "put each into its own folder"
        )


def _slice_problems(path: Path, header: pydicom.Dataset) -> list[str]:
    geometry = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
    missing = [name for name in geometry if not header.get(name)]
    problems = [f"{path}: expected {', '.join(missing)}, found nothing"] if missing else []
    if int(header.get("NumberOfFrames") or 1) > 1:
        problems.append(f"{path}: expected one slice per file, found {header.NumberOfFrames} frames")
    syntax = header.file_meta.TransferSyntaxUID
    if syntax not in _READABLE_SYNTAXES:
        problems.append(
            f"{path}: compressed as {syntax.name}, which ITK cannot decode; {_decoder_hint(syntax)}"
        )
    return problems


def _decoder_hint(syntax: pydicom.uid.UID) -> str:
    """How to get rid of a compression, naming the packages that pydicom would need for it."""
    try:
        from pydicom.pixels import get_decoder  # pydicom 3; the environment of MONAI Label has 2

        packages = get_decoder(syntax).missing_dependencies
    except NotImplementedError:
        return "convert the series to an uncompressed one"
    return f"decompress with pydicom and one of the packages {'; '.join(packages) or '(all there)'}"


def _refuse_different_grids(folder: Path, slices: dict[Path, pydicom.Dataset]) -> None:
    first = next(iter(slices))
    problems = []
    for name, tolerance in {
        "ImageOrientationPatient": 1e-4,
        "PixelSpacing": 1e-4,
        "Rows": 0,
        "Columns": 0,
    }.items():
        expected = np.array(slices[first][name].value, float)
        for path, header in slices.items():
            found = np.array(header[name].value, float)
            if found.shape != expected.shape or np.abs(found - expected).max() > tolerance:
                problems.append(f"{path}: expected {name} {expected.tolist()}, found {found.tolist()}")
    raise_problems(f"{folder}: slices that differ from {first.name}", problems)


def _normal(header: pydicom.Dataset) -> np.ndarray:
    """Unit vector (3,) across the slices, in patient coordinates (LPS)."""
    row, column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(row, column)
    return normal / np.linalg.norm(normal)


def _refuse_uneven(folder: Path, ordered: Sequence[Path], positions_mm: np.ndarray) -> None:
    """Raise where two neighbors coincide or lie farther apart, or closer, than the others."""
    steps_mm = np.diff(positions_mm)
    usual_mm = float(np.median(steps_mm))
    problems = []
    for before, after, step_mm, position_mm in zip(ordered, ordered[1:], steps_mm, positions_mm):
        where = f"between {before.name} (at {position_mm:.2f} mm) and {after.name}"
        if step_mm < _SPACING_TOLERANCE_MM:
            problems.append(f"{before.name} and {after.name}: both at {position_mm:.2f} mm")
        elif abs(step_mm - usual_mm) > _SPACING_TOLERANCE_MM:
            lost = round(step_mm / usual_mm) - 1 if usual_mm > 0 else 0
            hint = f", about {lost} slice(s) missing" if lost > 0 else ""
            problems.append(f"{where}: expected steps of {usual_mm:.2f} mm, found {step_mm:.2f} mm{hint}")
    raise_problems(f"{folder}: positions of the slices", problems)


def _refuse_tilt(folder: Path, corners_mm: np.ndarray, normal: np.ndarray) -> None:
    """Raise if the slices are shifted against each other: the loader would straighten the stack silently."""
    offsets = corners_mm - corners_mm[0]
    shift_mm = np.linalg.norm(offsets - np.outer(offsets @ normal, normal), axis=1).max()
    if shift_mm > _SHIFT_TOLERANCE_MM:
        raise InputError(
            f"{folder}: expected slices stacked along their normal, found a shift of {shift_mm:.2f} mm "
            "across it (tilted gantry?); resample the series first"
        )


def _refuse_split_by_loader(folder: Path, num_files: int) -> None:
    """Raise if MONAI's loader would read only some of the slices.

    It lets GDCM group files by more than the series UID (slice thickness, sequence name, date) and takes the
    first group with a mere warning; the settings here are those of ``monai.data.ITKReader``.
    """
    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")
    names.SetDirectory(str(folder))
    sizes = [len(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()]
    if sizes != [num_files]:
        raise InputError(
            f"{folder}: expected {num_files} slices that agree in slice thickness, sequence name and date, "
            f"found groups of {joined(sizes)} slices; separate or rewrite them"
        )
