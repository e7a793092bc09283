"""Warns of scans that a window in Hounsfield units does not fit: MR, or CT stored with an offset."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import ensure_tuple

from common.data.checks import read_all
from common.data.image_files import is_nifti, joined, read_image

logger = logging.getLogger(__name__)


def check_hounsfield_window(
    cases: Sequence[Mapping[str, Any]],
    intensity_range: Sequence[float] | None,
    image_reader: ImageReader | None = None,
) -> None:
    """Warn of images whose values cannot be Hounsfield units although they are windowed as such.

    One line names the cases that are known to be MR, and another the remaining ones without any value below
    0, which air and fat have in CT. Both are a warning: the method's authors train on such MR scans as well.

    Reading takes milliseconds for a CT scan in NIfTI, of which the first slice usually tells. Other images
    are read whole.

    Args:
        cases: with ``image`` (a path, or several that become channels) and, if known, ``modality``, whose
            first letters are MR in MR.
        intensity_range: [low, high] of the window; None, or a low end of 0 and above, which is no window in
            Hounsfield units, leaves nothing to check.
        image_reader: for images that are read whole, as for ``LoadImaged``.

    Raises:
        InputError: an image that has to be read whole is unreadable.
    """
    if intensity_range is None or intensity_range[0] >= 0:
        return
    known = [case for case in cases if _is_mr(case)]
    others = [case for case in cases if not _is_mr(case)]
    found = read_all(others, lambda case: _has_negative(case["image"], image_reader), "units check")
    without = [case for case, has_negative in zip(others, found) if not has_negative]
    window = f"intensity_range {list(intensity_range)} is a window in Hounsfield units"
    if known:
        logger.warning("%s, but %d case(s) are MR: %s", window, len(known), _names(known))
    if without:
        logger.warning(
            "%s, but %d case(s) have no value below 0, so they are MR or have another zero point: %s",
            window,
            len(without),
            _names(without),
        )


def _is_mr(case: Mapping[str, Any]) -> bool:
    return str(case.get("modality", "")).upper().startswith("MR")


def _has_negative(image: PathLike | Sequence[PathLike], reader: ImageReader | None) -> bool:
    return any(
        _begins_below_zero(path) or bool((read_image(path, reader) < 0).any()) for path in ensure_tuple(image)
    )


def _begins_below_zero(path: PathLike) -> bool:
    """Whether the first slice of a NIfTI file, with which the file begins, holds a value below 0."""
    if not is_nifti(path):
        return False
    try:
        return bool((nib.load(path).dataobj[..., 0] < 0).any())
    except (
        Exception
    ):  # nibabel, gzip and the system raise different ones; reading it whole tells what is wrong
        return False


def _names(cases: Sequence[Mapping[str, Any]]) -> str:
    return joined(joined(ensure_tuple(case["image"])) for case in cases)
