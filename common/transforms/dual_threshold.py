"""Dual-threshold post-processing of a lesion probability map.

A high threshold finds where the lesion is, a low one finds how far it reaches.

Paper: Gu et al., "kCBAC-Net: Deeply Supervised Complete Bipartite Networks with Asymmetric Convolutions for
Medical Image Segmentation", MICCAI 2021, doi:10.1007/978-3-030-87193-2_32, names it for ISIC 2017, after
Yuan et al. 2017. Its definition is known to us at second hand.
Differs from the paper: all enclosed holes are filled, whatever their size. The answers for ties and for empty
masks are our choice, as the paper is silent.
Axes: K class, H W space.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_numpy
from scipy import ndimage

_EIGHT_NEIGHBORS = np.ones((3, 3), dtype=bool)


def dual_threshold(
    probability: np.ndarray, high: float = 0.8, low: float = 0.5, fill_holes: bool = True
) -> np.ndarray:
    """The one region above ``low`` that holds the center of the heaviest region above ``high``.

    Regions are 8-connected, their mass is the sum of the probability, their center the plain mean of their
    pixel coordinates, rounded. If the center lies in no region above ``low`` (a curved lesion), the region
    that holds the heaviest region itself is taken; if nothing reaches ``high``, the region above ``low`` with
    the most pixels. Of equal masses the first in scan order wins.

    Args:
        probability: float (H, W), probability of the lesion.
        high: dimensionless threshold that finds the lesion.
        low: dimensionless threshold that gives its extent.
        fill_holes: whether background enclosed by the mask above ``low`` becomes foreground.

    Returns:
        Bool (H, W); all False if nothing reaches ``low``.

    Raises:
        ValueError: not two axes, or not 0 < low <= high.

    Source: Yuan 2017, post-processing.
    """
    if probability.ndim != 2 or not 0 < low <= high:
        raise ValueError(
            f"expected a 2D probability and 0 < low <= high, got {probability.ndim}D, {low} and {high}"
        )
    mask = probability >= low
    if fill_holes:
        mask = ndimage.binary_fill_holes(mask)
    regions, _ = ndimage.label(mask, _EIGHT_NEIGHBORS)
    core = _heaviest(probability, probability >= high)
    if not core.any():
        return _heaviest(np.ones_like(probability), mask)
    coordinates = np.argwhere(core)
    center = regions[tuple(np.rint(coordinates.mean(axis=0)).astype(int))]
    # low <= high, so the core lies inside exactly one region.
    chosen = center or regions[tuple(coordinates[0])]
    return regions == chosen


def _heaviest(probability: np.ndarray, mask: np.ndarray) -> np.ndarray:
    regions, count = ndimage.label(mask, _EIGHT_NEIGHBORS)
    if count == 0:
        return mask
    masses = ndimage.sum_labels(probability, regions, range(1, count + 1))
    return regions == 1 + np.argmax(masses)


class DualThresholdd(MapTransform):
    """Dictionary version of :func:`dual_threshold`: from class probabilities to a label map of one structure.

    Args:
        keys: entries with probabilities, float (K, H, W).
        class_index: channel of the structure.
        high: see :func:`dual_threshold`.
        low: see :func:`dual_threshold`.
        fill_holes: see :func:`dual_threshold`.
        allow_missing_keys: whether absent entries are passed over.
    """

    def __init__(
        self,
        keys: KeysCollection,
        class_index: int = 1,
        high: float = 0.8,
        low: float = 0.5,
        fill_holes: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.class_index = class_index
        self.thresholds = {"high": high, "low": low, "fill_holes": fill_holes}

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Replace probabilities by label maps.

        Args:
            data: dictionary with float (K, H, W) at the keys.

        Returns:
            Copy with (1, H, W) at the keys: 1 in the structure, else 0; type, dtype and meta data as given.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            probability = convert_to_numpy(result[key][self.class_index])
            mask = dual_threshold(probability, **self.thresholds)
            result[key] = convert_to_dst_type(mask[None], dst=result[key])[0]
        return result
