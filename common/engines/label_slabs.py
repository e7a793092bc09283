"""Sums over overlapping windows that hold only the part of a volume that windows still change.

Axes: K class, D H W space; the same with two axes of space.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations, product
from typing import NamedTuple

import torch
from torch import Tensor

Index = tuple[int, ...]
Slices = tuple[slice, ...]


class Part(NamedTuple):
    """Stretch of an axis whose voxels are finished together.

    Attributes:
        start: first voxel.
        stop: voxel after the last one.
        last_window: number of the last window along the axis that reaches into it.
    """

    start: int
    stop: int
    last_window: int


class WindowGrid:
    """Where the windows of a volume lie, in the order in which they are computed, and when voxels are done.

    Windows lie where MONAI's ``sliding_window_inference`` puts them. The axes take such an order that
    the least is unfinished at any time; as a rule the longest one changes slowest. Volumes are cut into
    blocks: along each axis but the fastest at the starts of windows, and, so that a block is never much
    longer than what is unfinished of it, at their ends where windows overlap by less than a half.

    Args:
        image_size: of the volume, in voxels.
        roi_size: of a window; an axis of the image that is shorter is padded on both sides.
        overlap: share of a window that the next one repeats, for each axis, at least 0 and below 1.
        axis: the one that changes slowest; None to choose.

    Attributes:
        roi_size: as given.
        padding: voxels before and after the image, for each axis.
        order: axes, the one that changes slowest first.
        starts: first voxels of the windows along each axis, in the padded image.
        parts: edges of the blocks along each axis.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        roi_size: Sequence[int],
        overlap: Sequence[float],
        axis: int | None = None,
    ) -> None:
        missing = [max(roi - size, 0) for size, roi in zip(image_size, roi_size)]
        self.roi_size = tuple(roi_size)
        self.padding = [(lack // 2, lack - lack // 2) for lack in missing]
        sizes = [size + lack for size, lack in zip(image_size, missing)]
        self.starts = [_starts(*given) for given in zip(sizes, roi_size, overlap)]
        self.order = self._cheapest_order(sizes, axis)
        self.parts = [_parts(*given) for given in zip(roi_size, self.starts)]
        fastest = self.order[-1]
        self.parts[fastest] = [Part(0, sizes[fastest], len(self.starts[fastest]) - 1)]

    def _cheapest_order(self, sizes: Sequence[int], first: int | None) -> Index:
        """Order of axes, by default that with the fewest unfinished voxels; among equals that of MONAI."""
        shared = [
            max((start + roi - following for start, following in zip(starts, starts[1:])), default=size)
            for size, roi, starts in zip(sizes, self.roi_size, self.starts)
        ]

        def unfinished(order: Index) -> int:
            # What two rows of windows share, and, as far as the windows at work reach, the rest of a row.
            slow, middle, *fast = order
            rest = (self.roi_size[slow] - shared[slow]) * self.roi_size[middle]
            return (shared[slow] * sizes[middle] + rest) * math.prod(sizes[number] for number in fast)

        axes = range(len(sizes))
        orders = [order for order in permutations(axes) if first is None or order[0] == axes[first]]
        return min(orders, key=unfinished)

    def __len__(self) -> int:
        return math.prod(map(len, self.starts))

    def __iter__(self) -> Iterator[Index]:
        for numbers in product(*(range(len(self.starts[axis])) for axis in self.order)):
            yield tuple(number for _, number in sorted(zip(self.order, numbers)))

    def window(self, index: Index) -> Slices:
        """Place of a window in the padded image.

        Args:
            index: number of the window along each axis.
        """
        corner = [starts[number] for starts, number in zip(self.starts, index)]
        return tuple(slice(start, start + roi) for start, roi in zip(corner, self.roi_size))

    def touched(self, index: Index) -> Iterator[Index]:
        """Blocks that a window reaches into, as the number of the part along each axis."""
        return product(
            *(
                [n for n, part in enumerate(parts) if part.start < place.stop and part.stop > place.start]
                for place, parts in zip(self.window(index), self.parts)
            )
        )

    def finished(self, index: Index) -> Iterator[Index]:
        """Blocks that no window after this one reaches into, and that were not finished before."""
        return product(
            *(
                [n for n, part in enumerate(parts) if part.last_window == number]
                for number, parts in zip(index, self.parts)
            )
        )

    def block(self, key: Index) -> Slices:
        """Place of a block in the padded image."""
        parts = [parts[number] for number, parts in zip(key, self.parts)]
        return tuple(slice(part.start, part.stop) for part in parts)


class RollingSums:
    """Weighted sums of the outputs of windows, held in blocks that live only while they are unfinished.

    Args:
        grid: of the windows.
        weights: importance of the voxels of a window, (D, H, W) or, where all count the same, None.
        with_weights: whether to sum the weights, too, which averages need.
        dtype: of the sums.
        device: of the sums and of what is added.
    """

    def __init__(
        self,
        grid: WindowGrid,
        weights: Tensor | None,
        with_weights: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.grid = grid
        self.weights = weights
        self.with_weights = with_weights
        self.dtype = dtype
        self.device = device
        self._blocks: dict[Index, Tensor] = {}
        self._free: list[Tensor] = []

    def nbytes(self) -> int:
        """Memory that is held at this moment, in bytes."""
        return sum(block.nbytes for block in (*self._blocks.values(), *self._free))

    def add(self, index: Index, values: Tensor) -> None:
        """Add the output of one window.

        Args:
            index: number of the window along each axis.
            values: (K, D, H, W) of the size of a window.
        """
        place = self.grid.window(index)
        for key in self.grid.touched(index):
            target, source = _common(self.grid.block(key), place)
            block = self._block(key, len(values))
            part = values[(slice(None), *source)].to(self.dtype)
            sums = block[(slice(0, len(values)), *target)]
            if self.weights is None:
                sums += part
            else:
                sums.addcmul_(part, self.weights[source])
            if self.with_weights:
                block[(-1, *target)] += 1 if self.weights is None else self.weights[source]

    def finish(self, index: Index, num_classes: int) -> Iterator[tuple[Slices, Tensor, Tensor | None]]:
        """Give the blocks that nothing is added to after a window; each is void once the next is asked for.

        Args:
            index: number of the window along each axis.
            num_classes: K, for blocks that nothing was ever added to.

        Yields:
            Place in the padded image, sums (K, ...) and, if kept, sums of the weights (...).
        """
        keys = list(self.grid.finished(index))
        if keys:
            # What the windows since the last time have not taken up is not needed soon.
            self._free.clear()
        for key in keys:
            block = self._block(key, num_classes)
            yield self.grid.block(key), block[:num_classes], block[-1] if self.with_weights else None
            self._free.append(self._blocks.pop(key))

    def _block(self, key: Index, num_classes: int) -> Tensor:
        """Sums of a block, with those of the weights as last channel; zeros at first."""
        if key not in self._blocks:
            sizes = [place.stop - place.start for place in self.grid.block(key)]
            shape = (num_classes + self.with_weights, *sizes)
            # Fresh memory would cost more than adding to it, as the system hands it out page by page.
            fitting = [n for n, memory in enumerate(self._free) if memory.numel() == math.prod(shape)]
            if fitting:
                self._blocks[key] = self._free.pop(fitting[0]).view(shape).zero_()
            else:
                self._blocks[key] = torch.zeros(shape, dtype=self.dtype, device=self.device)
        return self._blocks[key]


def _starts(size: int, roi: int, overlap: float) -> list[int]:
    """MONAI's rule: steps of a whole number of voxels, and the last window ends with the image."""
    step = max(int(roi * (1 - overlap)), 1)
    return [*range(0, size - roi, step), size - roi]


def _parts(roi: int, starts: Sequence[int]) -> list[Part]:
    is_sparse = len(starts) > 1 and 2 * (starts[1] - starts[0]) > roi
    # Behind the last start nothing but ends can cut, and without a cut that block would be a window long.
    ends = {start + roi for start in starts if is_sparse or start + roi > starts[-1]}
    cuts = sorted(ends.union(starts))
    return [
        Part(cut, stop, max(number for number, start in enumerate(starts) if start <= cut))
        for cut, stop in zip(cuts, cuts[1:])
    ]


def _common(block: Slices, window: Slices) -> tuple[Slices, Slices]:
    """What two boxes share, as seen from the corner of each."""
    shared = [(max(b.start, w.start), min(b.stop, w.stop)) for b, w in zip(block, window)]
    in_block = tuple(slice(lo - b.start, hi - b.start) for (lo, hi), b in zip(shared, block))
    in_window = tuple(slice(lo - w.start, hi - w.start) for (lo, hi), w in zip(shared, window))
    return in_block, in_window
