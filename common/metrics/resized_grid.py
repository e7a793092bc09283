"""Dice and surface distance as a line of semi-supervised papers counts them, on a common resized grid.

Every scan is resized to one shape, and distances are in voxels of it, so they are no millimeters and cannot
be compared with papers that measure in the scan's own grid.

Paper: Zhang et al., "A Semantic Knowledge Complementarity based Decoupling Framework for Semi-supervised
Class-imbalanced Medical Image Segmentation" (SKCDF), CVPR 2025. The methods DHC and GenericSSL, with which it
compares, count in the same way.
Implements: the columns Dice and ASD of its tables, and the score that chooses the best epoch, as in the
released code.
Differs from the paper: nothing. It does not tell how empty masks count; the released code does.
Axes: D H W space.
"""

from __future__ import annotations

import numpy as np

from common.metrics.surface import mask_distances
from common.metrics.threshold_curves import PixelCounts, mask_counts

# Distance of a structure that only one of two masks has.
LOST_ASD_VOX = 128.0
# Dice of a structure that neither mask has, in percent: 1, not 100.
ABSENT_DICE_PERCENT = 1.0
SELECTION_SMOOTH = 1e-8


def dice_percent(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice of two masks in percent; a structure that neither has counts 1.

    Args:
        prediction: bool (D, H, W), the mask to judge.
        reference: bool, same shape.

    Returns:
        200 tp / (2 tp + fp + fn); 0 if exactly one mask is empty, 1 (not 100) if both are.

    Raises:
        ValueError: the shapes differ.

    Source: Zhang 2025, released code.
    """
    counts = _counts(prediction, reference)
    total = 2 * counts.tp + counts.fp + counts.fn
    return 200 * float(counts.tp) / float(total) if total else ABSENT_DICE_PERCENT


def surface_distance_vox(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Mean distance from the border of the prediction to that of the reference, one way, in voxels (ASD).

    The way back does not count, so an organ of which only a part is predicted has a small distance. Borders
    are voxels with background across a face, or at the end of the grid. The same number as MONAI's
    ``compute_average_surface_distance(symmetric=False)``.

    Args:
        prediction: bool (D, H, W), the mask to judge.
        reference: bool, same shape.

    Returns:
        Distance in edges of a voxel, all taken as 1; 0 if both masks are empty, 128 if exactly one is.

    Raises:
        ValueError: the shapes differ.

    Source: Zhang 2025, released code.
    """
    _check(prediction, reference)
    empty = [not mask.any() for mask in (prediction, reference)]
    if any(empty):
        return 0.0 if all(empty) else LOST_ASD_VOX
    return float(mask_distances(prediction, reference).border[0].mean())


def selection_dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice that chooses the best epoch, between 0 and 1; a structure that neither mask has counts one half.

    Args:
        prediction: bool (D, H, W), the mask to judge; the paper takes the central patch of a scan.
        reference: bool, same shape.

    Returns:
        (2 tp + s) / (2 tp + fp + fn + 2 s) with s = 1e-8.

    Raises:
        ValueError: the shapes differ.

    Source: Zhang 2025, released code.
    """
    counts = _counts(prediction, reference)
    both = 2 * float(counts.tp)
    return (both + SELECTION_SMOOTH) / (both + float(counts.fp + counts.fn) + 2 * SELECTION_SMOOTH)


def _counts(prediction: np.ndarray, reference: np.ndarray) -> PixelCounts:
    _check(prediction, reference)
    return mask_counts(prediction, reference)


def _check(prediction: np.ndarray, reference: np.ndarray) -> None:
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction and reference: expected equal shapes, got {prediction.shape}, {reference.shape}"
        )
