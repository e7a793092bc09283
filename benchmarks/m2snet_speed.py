"""Time of M2SNet on a CPU: as released, and with the exact speed-ups of this collection, side by side.

    python -m benchmarks.m2snet_speed --sizes 256,352 --repeats 7 --threads 1

The released network convolves with kernels of ones; ours sums over channels and windows. All forms have the
same weights, and take turns in one run, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from monai.utils import ensure_tuple
from torch import Tensor

from benchmarks.side_by_side import Form, machine, measure, settled, table
from common.networks.blocks.subtraction import MultiScaleDifference
from common.networks.m2snet import M2SNet

_TRAINING_BATCHES = 10
_BATCH_SHAPE = (2, 3, 128, 128)


class DenseDifference(MultiScaleDifference):
    """The difference of the released units, its filters computed as convolutions with kernels of ones.

    Args:
        difference: of form ``released``; the normalizations are shared with it.
    """

    def __init__(self, difference: MultiScaleDifference) -> None:
        super().__init__(1)
        self.filters = difference.filters
        self.adds = difference.adds
        for size, ones_filter in self.filters.items():
            channels, edge = ones_filter.channels, ones_filter.kernel_size
            self.register_buffer(f"ones_{size}", torch.ones(channels, channels, edge, edge), persistent=False)

    def forward(self, upper: Tensor, lower: Tensor) -> Tensor:
        """Two float (B, C, H, W) to the sum of their differences, the same shape."""
        total = self._compare(upper, lower)
        for size, ones_filter in self.filters.items():
            kernel, margin = self.get_buffer(f"ones_{size}"), ones_filter.kernel_size // 2
            filtered = [
                F.relu(ones_filter.norm(F.conv2d(features, kernel, padding=margin)))
                for features in (upper, lower)
            ]
            total = total + self._compare(filtered[0], filtered[1])
        return total


def dense_form(network: M2SNet) -> M2SNet:
    """A copy of a network that convolves with kernels of ones, as the released code does.

    Args:
        network: M2SNet of unit ``released`` with at least two orders, not fused.

    Returns:
        The copy, in the mode of ``network``.
    """
    dense = copy.deepcopy(network)
    dense.pyramid.difference = DenseDifference(dense.pyramid.difference).to(dense.head.weight.dtype)
    return dense.train(network.training)


def settled_network() -> M2SNet:
    """The published network with random weights, see :func:`benchmarks.side_by_side.settled`."""
    return settled(M2SNet, _BATCH_SHAPE, _TRAINING_BATCHES)


def forms_of(network: M2SNet) -> list[Form]:
    """The forms to compare, the released one first; none shares a tensor with ``network``.

    Args:
        network: as for :func:`dense_form`.
    """
    folded = copy.deepcopy(network)
    folded.fuse()
    rearranged = copy.deepcopy(folded).to(memory_format=torch.channels_last)
    plain = torch.contiguous_format
    return [
        Form("as released", dense_form(network), plain),
        Form("box filters", copy.deepcopy(network), plain),
        Form("+ folded", folded, plain),
        Form("+ channels_last", rearranged, torch.channels_last),
    ]


def m2snet_speed(sizes: int | Sequence[int] = (256, 352), repeats: int = 7, threads: int = 1) -> str:
    """Compare the forms of M2SNet, one image at a time, in evaluation mode.

    Args:
        sizes: edge lengths of the square image, in pixels.
        repeats: timed runs of each form at each size.
        threads: of PyTorch. Times are those of the processor, summed over the threads.

    Returns:
        The machine and one table per size, as text.
    """
    torch.set_num_threads(threads)
    forms = forms_of(settled_network())
    parts = [machine()]
    for size in ensure_tuple(sizes):
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(size))
        parts.append(f"{size} x {size} pixels, {repeats} repeats\n\n{table(measure(forms, image, repeats))}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    import fire

    fire.Fire(m2snet_speed)
