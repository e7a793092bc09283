"""Multi-scale training: every batch is resized to one size, drawn at random.

Paper: Zhao et al., "M2SNet: Multi-scale in Multi-scale Subtraction Network for Medical Image Segmentation",
arXiv 2303.10894.
Implements: the multi-scale training of its implementation details; sizes as in the released code.
Differs from the paper: nothing; the released code draws the size while it collates a batch, here it is drawn
where the batch arrives on the device, so that a GPU does the resizing.
Axes: B batch, C channels, H W space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from monai.engines import default_prepare_batch
from torch import Tensor

from common.errors import InputError


class RandomSizeBatch:
    """Prepare a batch for MONAI's trainers (``prepare_batch``), resized to one of several sizes.

    Image and label are resized bilinearly, without smoothing first; label maps stay soft at their edges. The
    size comes from torch's random state on the CPU.

    Args:
        sizes: edge lengths in pixels, or pairs (height, width); equally likely. One entry: always that size.

    Raises:
        InputError: no sizes, or one that is not positive.

    Source: Zhao 2023, released code.
    """

    def __init__(self, sizes: Sequence[int | Sequence[int]]) -> None:
        self.sizes = [(size, size) if isinstance(size, int) else tuple(size) for size in sizes]
        if not self.sizes or any(len(size) != 2 or min(size) < 1 for size in self.sizes):
            raise InputError(f"sizes: expected edge lengths or pairs above 0, found {list(sizes)}")

    @property
    def smallest(self) -> tuple[int, ...]:
        """The size with the fewest pixels."""
        return min(self.sizes, key=math.prod)

    def __call__(
        self,
        batchdata: Mapping[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Move a batch to the device and resize it.

        Args:
            batchdata: ``image`` float (B, C, H, W) and ``label`` float (B, K, H, W).
            device: target.
            non_blocking: see ``Tensor.to``.
            **kwargs: further arguments of ``Tensor.to``.

        Returns:
            Image and label of the drawn size.
        """
        image, label = default_prepare_batch(batchdata, device, non_blocking, **kwargs)
        size = self.sizes[int(torch.randint(len(self.sizes), (1,)))]
        return _resized(image, size), _resized(label, size)


def _resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(maps.shape[2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
