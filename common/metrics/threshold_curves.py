"""Scores of thresholded maps, at one threshold or at 256 at once, from pixel counts.

One histogram per map replaces 256 passes over its pixels: every score here, the E-measure included, depends
on the four counts of the binary mask alone.

Paper: Zhao et al., "M2SNet: Multi-scale in Multi-scale Subtraction Network for Medical Image Segmentation",
arXiv 2303.10894.
Implements: Dice, IoU and E-measure of its tables (E-measure: Fan et al., IJCAI 2018) and the mean over 256
thresholds of the PraNet evaluation, the usual protocol for polyps; precision to Jaccard as for ultrasound.
Differs from the paper: its "max" E-measure is taken at one adaptive threshold; all three kinds are here.
Axes: H W space, T thresholds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from common.metrics.saliency import check_maps

THRESHOLDS = np.arange(256) / 255
# Gray values of 8 bits stored as float32 miss their multiple of 1/255 by less, their neighbors by far more.
TOLERANCE = 1e-6


class PixelCounts(NamedTuple):
    """Counts of a binary prediction against a reference, float64 scalars or one per threshold (T,).

    Attributes:
        tp: object pixels found.
        fp: background pixels marked.
        fn: object pixels missed.
        tn: background pixels left alone.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray


def mask_counts(mask: np.ndarray, reference: np.ndarray) -> PixelCounts:
    """Counts of a binary mask.

    Args:
        mask: bool, any shape, e.g. ``prediction > 0.5``.
        reference: bool, same shape.

    Returns:
        Scalars.
    """
    tp, marked, objects = (np.float64(np.count_nonzero(m)) for m in (mask & reference, mask, reference))
    return PixelCounts(tp, marked - tp, objects - tp, mask.size - marked - objects + tp)


def curve_counts(prediction: np.ndarray, reference: np.ndarray) -> PixelCounts:
    """Counts at the thresholds 0, 1/255, ..., 1; a pixel at or above a threshold, less 1e-6, is marked.

    Args:
        prediction: float (H, W) in [0, 1], not only multiples of 1/255.
        reference: bool (H, W).

    Returns:
        Arrays (256,), lowest threshold first.

    Raises:
        ValueError: see :func:`common.metrics.saliency.check_maps`.
    """
    check_maps(prediction, reference)
    highest_passed = np.searchsorted(THRESHOLDS - TOLERANCE, prediction.ravel(), side="right") - 1
    inside = reference.ravel()
    tp, fp = (_at_or_above(highest_passed[part]) for part in (inside, ~inside))
    return PixelCounts(tp, fp, tp[0] - tp, fp[0] - fp)


def _at_or_above(bins: np.ndarray) -> np.ndarray:
    histogram = np.bincount(bins, minlength=len(THRESHOLDS))
    return histogram[::-1].cumsum()[::-1].astype(np.float64)


def adaptive_threshold(prediction: np.ndarray) -> float:
    """Twice the mean of a map, at most 1; pixels at or above it are marked.

    Args:
        prediction: float (H, W) in [0, 1].

    Returns:
        Number in [0, 1].
    """
    return min(2 * float(prediction.mean()), 1.0)


def _share(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Part / total, 0 where the part is 0."""
    return np.divide(part, total, out=np.zeros_like(np.asarray(total)), where=part > 0)


def dice(counts: PixelCounts) -> np.ndarray:
    """Dice, 2 tp / (2 tp + fp + fn); 0 without a hit, so also if both masks are empty."""
    return _share(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def jaccard(counts: PixelCounts) -> np.ndarray:
    """IoU, tp / (tp + fp + fn); 0 without a hit, so also if both masks are empty."""
    return _share(counts.tp, counts.tp + counts.fp + counts.fn)


def smooth_jaccard(counts: PixelCounts, smooth: float = 1e-5) -> np.ndarray:
    """IoU as the authors' script takes it: 1e-5 pixels more in part and total, so 1 if both are empty."""
    return (counts.tp + smooth) / (counts.tp + counts.fp + counts.fn + smooth)


def precision(counts: PixelCounts) -> np.ndarray:
    """Share of the marked pixels that are object; 0 without a hit."""
    return _share(counts.tp, counts.tp + counts.fp)


def recall(counts: PixelCounts) -> np.ndarray:
    """Share of the object that is marked (sensitivity); 0 without a hit."""
    return _share(counts.tp, counts.tp + counts.fn)


def specificity(counts: PixelCounts) -> np.ndarray:
    """Share of the background left alone; 1 if there is no background to mark wrongly."""
    background = counts.tn + counts.fp
    return np.where(background > 0, counts.tn / np.maximum(background, 1), 1.0)


def hit_specificity(counts: PixelCounts) -> np.ndarray:
    """Specificity as the PraNet evaluation takes it: 0 without a hit."""
    return np.where(counts.tp > 0, specificity(counts), 0.0)


def e_measure(counts: PixelCounts) -> np.ndarray:
    """Enhanced-alignment measure: do mask and reference deviate from their means in the same way?

    Args:
        counts: of a binary mask; scalars or (T,).

    Returns:
        Same shape. The sum over n pixels is divided by n - 1 as in all published scripts, so a perfect mask
        scores n / (n - 1). Without object in the reference the number of pixels left alone, without
        background the number marked takes the place of the sum.

    Source: Fan 2018. Alignment takes one of four values, by what a pixel is in mask and reference.
    """
    counts = PixelCounts(*(np.asarray(count, dtype=np.float64) for count in counts))
    size = sum(counts)
    mean_mask = (counts.tp + counts.fp) / size
    mean_reference = (counts.tp + counts.fn) / size
    # Pixels by their value in mask and reference.
    kinds = ((counts.tp, 1, 1), (counts.fp, 1, 0), (counts.fn, 0, 1), (counts.tn, 0, 0))
    total = np.zeros_like(size)
    for count, in_mask, in_reference in kinds:
        first, second = in_mask - mean_mask, in_reference - mean_reference
        squares = first**2 + second**2
        alignment = np.divide(2 * first * second, squares, out=np.zeros_like(squares), where=squares > 0)
        total = total + count * (alignment + 1) ** 2 / 4
    total = np.where(mean_reference == 0, counts.tn, np.where(mean_reference == 1, counts.tp, total))
    return total / np.maximum(size - 1, 1)
