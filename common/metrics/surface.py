"""Surface and region distances between two masks.

One distance map per direction is computed for a structure; every measure is a small reduction of it.

Paper: Gu et al., "kCBAC-Net: Deeply Supervised Complete Bipartite Networks with Asymmetric Convolutions for
Medical Image Segmentation", MICCAI 2021, doi:10.1007/978-3-030-87193-2_32.
Implements: the columns "Hausdorff" and "ADB" of the MM-WHS table.
Differs from the paper: ADB is not defined there. Its numbers are ten times too small for an average over the
surface and fit an average over the region, hence ``region_distance``; ``assd`` is the usual surface average.
Axes: D H W space.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class MaskDistances:
    """All distances between a prediction and a reference, in the unit of the spacing they were made with.

    The first array of each pair runs from the prediction to the reference, the second the other way round.

    Attributes:
        border: float64 (n,) and (m,), from every border voxel of one mask to the border of the other.
        region: float64 (p,) and (q,), from every foreground voxel of one mask to the other mask; 0 inside it.
    """

    border: tuple[np.ndarray, np.ndarray]
    region: tuple[np.ndarray, np.ndarray]


def mask_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float] | None = None
) -> MaskDistances:
    """Distances between two masks, both ways.

    A border voxel is a foreground voxel with a background voxel, or the end of the array, across one of its
    faces (MONAI's rule). Distances run between voxel centers.

    Args:
        prediction: bool (D, H, W) or (H, W), the mask to judge.
        reference: bool, same shape as ``prediction``.
        spacing: edge length of a voxel along each array axis, in the unit wanted; ``None``: voxels.

    Returns:
        The distances. Arrays that start at an empty mask are empty, arrays that lead to one hold ``inf``.

    Raises:
        ValueError: the shapes differ, or ``spacing`` and the arrays disagree on the number of axes.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction and reference: expected equal shapes, got {prediction.shape}, {reference.shape}"
        )
    if spacing is not None and len(spacing) != prediction.ndim:
        raise ValueError(f"spacing: expected {prediction.ndim} numbers, got {list(spacing)}")
    box = ndimage.find_objects((prediction | reference).astype(np.uint8), max_label=1)[0] or ()
    masks = prediction[box], reference[box]
    borders = tuple(mask & ~ndimage.binary_erosion(mask) for mask in masks)
    to_prediction, to_reference = (_distance_map(border, spacing) for border in borders)
    # The foreground voxel nearest to a point outside a mask is always on its border, so the map to the border
    # serves the region as well once the inside is set to zero.
    return MaskDistances(
        border=(to_reference[borders[0]], to_prediction[borders[1]]),
        region=(
            np.where(masks[1], 0.0, to_reference)[masks[0]],
            np.where(masks[0], 0.0, to_prediction)[masks[1]],
        ),
    )


def _distance_map(border: np.ndarray, spacing: Sequence[float] | None) -> np.ndarray:
    if not border.any():
        return np.full(border.shape, np.inf)
    return ndimage.distance_transform_edt(~border, sampling=spacing)


def _of_two_masks(reduce: Callable[[MaskDistances], float]) -> Callable[[MaskDistances], float]:
    """Answer ``nan`` if both masks are empty and ``inf`` if one is, else reduce."""

    @functools.wraps(reduce)
    def measure(distances: MaskDistances) -> float:
        empty = [side.size == 0 for side in distances.border]
        if any(empty):
            return np.nan if all(empty) else np.inf
        return float(reduce(distances))

    return measure


@_of_two_masks
def hausdorff(distances: MaskDistances) -> float:
    """Largest distance from any border voxel to the other border.

    Returns:
        Distance in the unit of ``distances``; ``nan`` if both masks are empty, ``inf`` if exactly one is.
    """
    return max(side.max() for side in distances.border)


@_of_two_masks
def hausdorff_95(distances: MaskDistances) -> float:
    """Larger of the two directed 95th percentiles of the border distances.

    Returns:
        Distance in the unit of ``distances``; ``nan`` if both masks are empty, ``inf`` if exactly one is,
        where MONAI's ``compute_hausdorff_distance(percentile=95)`` answers ``nan``.
    """
    return max(np.percentile(side, 95) for side in distances.border)


@_of_two_masks
def assd(distances: MaskDistances) -> float:
    """Average symmetric surface distance, pooled over both directions.

    Every border voxel of either mask counts once, so the longer border weighs more. The same number as
    MONAI's ``compute_average_surface_distance(symmetric=True)``.

    Returns:
        Distance in the unit of ``distances``; ``nan`` if both masks are empty, ``inf`` if exactly one is.
    """
    return np.concatenate(distances.border).mean()


@_of_two_masks
def region_distance(distances: MaskDistances) -> float:
    """Mean of the two directed averages over all foreground voxels ("ADB").

    A directed average is the mean, over every foreground voxel of one mask, of the distance to the other
    mask, which is zero inside it. Much smaller than :func:`assd`, as the voxels of the overlap count.

    Returns:
        Distance in the unit of ``distances``; ``nan`` if both masks are empty, ``inf`` if exactly one is.

    Source: Gu 2021, MM-WHS table; the definition is inferred from the size of its numbers.
    """
    return sum(side.mean() for side in distances.region) / 2
