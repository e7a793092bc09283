"""Anti-aliasing of long scans a few slices at a time: MONAI's smoothing never sees all of them.

Axes: C channel, X Y in the plane, Z across the slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from monai.transforms import Resize, Resized
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Four slices of 512 x 512: fewer take longer, as smoothing pads each slab by a slice on either side.
SLAB_VOXELS = 2**20


class SmoothedInSlabs(TorchFunctionMode):
    """As a context: ``interpolate`` smooths an image before, and both never see more than a slab of it.

    Slabs are groups of slices, if the image has slices and keeps all of them; else the image is one slab.

    Args:
        sigma: of the smoothing, as for MONAI's ``Resize``.
        slab_voxels: about the most voxels at a time; at least one slice.
    """

    def __init__(self, sigma: Sequence[float] | float | None, slab_voxels: int) -> None:
        super().__init__()
        self.sigma = sigma
        self.slab_voxels = slab_voxels

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer this function; PyTorch answers all others."""
        answer = self._interpolate if func is F.interpolate else func
        return answer(*args, **kwargs or {})

    def _interpolate(
        self, images: Tensor, size: Sequence[int], mode: str, align_corners: bool | None, **_: Any
    ) -> Tensor:
        """An image in a batch of one, by MONAI's ``Resize``."""
        (image,) = images
        resized = image.new_empty((len(image), *size), dtype=torch.float32)
        slices = size[2] if len(size) == 3 and size[2] == image.shape[3] else 1
        # Slabs of equal size: a short rest might be multiplied by other means, and rounded otherwise.
        count = min(math.ceil(image.numel() / self.slab_voxels), slices)
        how = {"mode": mode, "align_corners": align_corners, "dtype": image.dtype}
        how |= {"anti_aliasing": True, "anti_aliasing_sigma": self.sigma}
        for slab, target in zip(image.tensor_split(count, dim=-1), resized.tensor_split(count, dim=-1)):
            target.copy_(Resize(target.shape[1:], **how)(slab))
        return resized[None]


class ResizeInSlabsd(Resized):
    """MONAI's ``Resized``, with the same values and the same traces, in the memory of the result and a slab.

    For anti-aliasing ``Resized`` takes more than 80 bytes per voxel on a CPU, most of them in convolutions,
    which set one channel among 15 empty ones. Where Z keeps its size, slices are not mixed, so groups of them
    give the same values bit by bit. All other images take the memory that they take in MONAI's; so does
    the inverse, which has no anti-aliasing and needs little more than its result. For arguments and errors
    see there.
    """

    def __call__(self, data: Mapping[Hashable, Tensor], lazy: bool | None = None) -> dict[Hashable, Tensor]:
        """Resize each image.

        Args:
            data: images, any dtype, (C, X, Y, Z) or (C, X, Y), of finite values: MONAI multiplies the slices
                next to each by 0, so that NaN and Inf would spread.
            lazy: in place of what the constructor was told; true only notes what to do, as MONAI's does.

        Returns:
            The data with float32 images.
        """
        lazy = self.lazy if lazy is None else lazy
        if lazy:
            return super().__call__(data, lazy)
        resized = dict(data)
        for key, mode, align_corners, anti_aliasing, sigma, dtype in self.key_iterator(
            resized, self.mode, self.align_corners, self.anti_aliasing, self.anti_aliasing_sigma, self.dtype
        ):
            how = {"mode": mode, "align_corners": align_corners, "dtype": dtype, "lazy": lazy}
            with SmoothedInSlabs(sigma, SLAB_VOXELS) if anti_aliasing else nullcontext():
                resized[key] = self.resizer(resized[key], **how)
        return resized
