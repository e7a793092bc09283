"""Spacing of long scans without coordinates of all voxels at once: they are made and sampled slab by slab.

Axes: N batch, C channel, D H W space; the same with two axes of space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from monai.transforms import Spacingd
from torch import Tensor
from torch.overrides import TorchFunctionMode

# 4 MB of coordinates: what fits the caches of a processor is faster, too.
SLAB_VOXELS = 2**16


class AffineGrid(NamedTuple):
    """What ``torch.nn.functional.affine_grid`` was asked for, in place of the points.

    Attributes:
        theta: float (N, 3, 4), or (N, 2, 3) with two axes of space.
        size: of the output, (N, C, D, H, W).
        align_corners: whether -1 and 1 are the centers of the outermost voxels, not their outer edges.
    """

    theta: Tensor
    size: Sequence[int]
    align_corners: bool | None = None


class AffineGridsInSlabs(TorchFunctionMode):
    """As a context: ``affine_grid`` and the ``grid_sample`` of it never hold the points of more than a slab.

    Each voxel gets the value that it has without, bit by bit: its point is the same product of the same
    numbers, and no other point matters to it. Grids that ``affine_grid`` did not make are sampled as ever.

    Args:
        slab_voxels: about the most points at a time; at least one plane across the first axis of space.
    """

    def __init__(self, slab_voxels: int) -> None:
        super().__init__()
        self.slab_voxels = slab_voxels

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer these two functions; PyTorch answers all others."""
        kwargs = kwargs or {}
        if func is F.affine_grid:
            return AffineGrid(*args, **kwargs)
        if func is F.grid_sample and isinstance(args[1], AffineGrid):
            return self._sample(*args, **kwargs)
        return func(*args, **kwargs)

    def _sample(self, image: Tensor, grid: AffineGrid, **how: Any) -> Tensor:
        """Samples in float32, which is what MONAI's transforms turn them into in any case."""
        theta, (batch, channels, *sizes), align_corners = grid
        first, *others = (_coordinates(size, theta, align_corners) for size in sizes)
        sampled = image.new_empty((batch, channels, *sizes), dtype=torch.float32)
        # Slabs of equal size: a short rest might be multiplied by other means, and rounded otherwise.
        count = min(math.ceil(math.prod(sizes) / self.slab_voxels), len(first))
        start = 0
        for part in first.tensor_split(count):
            points = _points(theta, [part, *others])
            sampled[:, :, start : start + len(part)] = F.grid_sample(image, points, **how)
            start += len(part)
        return sampled


class SpacingInSlabsd(Spacingd):
    """MONAI's ``Spacingd``, with the same values and the same traces, in a quarter of the memory or less.

    ``Spacingd`` takes up to 80 bytes per voxel above the image, most of them for coordinates of all voxels.
    What is left here is the image in ``dtype`` (float64 unless told otherwise, 8 bytes per voxel), the result
    and one slab; the same in the inverse. Executed lazily it only notes what to do, as MONAI's does, and
    who does it later may need the memory. For arguments and errors see there.
    """

    def __call__(self, data: Mapping[Hashable, Tensor], lazy: bool | None = None) -> dict[Hashable, Tensor]:
        """Resample each image to the spacing.

        Args:
            data: images, any dtype, (C, D, H, W).
            lazy: in place of what the constructor was told.

        Returns:
            The data with float32 images.
        """
        with AffineGridsInSlabs(SLAB_VOXELS):
            return super().__call__(data, lazy)

    def inverse(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Resample each image back to the grid that it had.

        Args:
            data: images, any dtype, (C, D, H, W), with the traces of the call.

        Returns:
            The data with float32 images.
        """
        with AffineGridsInSlabs(SLAB_VOXELS):
            return super().inverse(data)


def _coordinates(size: int, theta: Tensor, align_corners: bool | None) -> Tensor:
    """Where ``affine_grid`` sees the voxels of an axis before it multiplies, (size,)."""
    identity = torch.eye(2, 3, dtype=theta.dtype, device=theta.device)[None]
    return F.affine_grid(identity, [1, 1, size, 2], align_corners)[0, :, 0, 1]


def _points(theta: Tensor, axes: Sequence[Tensor]) -> Tensor:
    """Points of a box, multiplied as ``affine_grid`` does it.

    Args:
        theta: (N, 3, 4).
        axes: coordinates along D, H and W before the product.

    Returns:
        (N, D, H, W, 3), with the coordinate along W first.
    """
    sizes = [len(axis) for axis in axes]
    homogeneous = theta.new_ones(*sizes, len(axes) + 1)
    for number, coordinates in enumerate(torch.meshgrid(*axes, indexing="ij")):
        homogeneous[..., len(axes) - 1 - number] = coordinates
    flat = homogeneous.view(1, -1, len(axes) + 1).expand(len(theta), -1, -1)
    return flat.bmm(theta.mT).view(len(theta), *sizes, len(axes))
