"""One switch between a fixed intensity window and per-image standardization."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, NormalizeIntensity, ScaleIntensityRange

from common.errors import InputError


class NormalizeIntensityRanged(MapTransform):
    """Map a window of intensities to [-1, 1], or standardize each channel of each image.

    Args:
        keys: images, any dtype, (C, spatial...).
        intensity_range: [low, high] in the unit of the image (HU for CT, 0-255 for pictures): clipped, low
            maps to -1 and high to 1. None: mean 0 and standard deviation 1 per channel over the whole image,
            for images without a fixed scale such as MR.
        allow_missing_keys: skip absent keys.

    Returns:
        On call, the data with float32 images of the same shape; a constant channel becomes zeros if
        ``intensity_range`` is None.

    Raises:
        InputError: ``intensity_range`` is not two finite numbers in ascending order.
    """

    def __init__(
        self,
        keys: KeysCollection,
        intensity_range: Sequence[float] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.normalize = _standardize if intensity_range is None else _window(intensity_range)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Normalize each image."""
        normalized = dict(data)
        for key in self.key_iterator(normalized):
            normalized[key] = self.normalize(normalized[key])
        return normalized


def _window(intensity_range: Sequence[float]) -> ScaleIntensityRange:
    low, high = intensity_range if len(intensity_range) == 2 else (math.nan, math.nan)
    if not -math.inf < low < high < math.inf:
        raise InputError(f"intensity_range: expected [low, high] with low < high, found {intensity_range}")
    return ScaleIntensityRange(a_min=low, a_max=high, b_min=-1.0, b_max=1.0, clip=True)


def _standardize(image: torch.Tensor) -> torch.Tensor:
    standardized = NormalizeIntensity(channel_wise=True)(image)
    voxels = image.flatten(start_dim=1)
    # Rounding of the mean leaves a constant channel with a tiny deviation, which division would blow up to 1.
    standardized[voxels.amin(dim=1) == voxels.amax(dim=1)] = 0
    return standardized
