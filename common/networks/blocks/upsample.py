"""Linear upsampling by a whole factor, the same call in 2D and 3D, and resizing to another tensor's size."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def upsample(features: Tensor, factor: int) -> Tensor:
    """Bilinear or trilinear upsampling with pixel centres kept (``align_corners=False``).

    Args:
        features: float (B, C, [D,] H, W).
        factor: whole factor per axis; 1 returns the tensor itself.
    """
    if factor == 1:
        return features
    mode = "trilinear" if features.dim() == 5 else "bilinear"
    return F.interpolate(features, scale_factor=float(factor), mode=mode, align_corners=False)


def resize_like(features: Tensor, other: Tensor) -> Tensor:
    """Bilinear resizing to the size of another tensor; nothing is computed where the sizes agree.

    Args:
        features: float (B, C, h, w).
        other: (..., H, W).

    Returns:
        (B, C, H, W).
    """
    size = [other.shape[-2], other.shape[-1]]
    if features.shape[-2] == size[0] and features.shape[-1] == size[1]:
        return features
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)
