"""Time of M2SNet on a CPU: as released, and with the exact speed-ups of this collection, side by side.

    python -m benchmarks.m2snet_speed --sizes 256,352 --repeats 7 --threads 1

The released network convolves with kernels of ones; ours sums over channels and windows. All forms have the
same weights, and take turns in one run, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from monai.utils import ensure_tuple
from torch import Tensor, nn

from common.networks.blocks.subtraction import MultiScaleDifference
from common.networks.m2snet import M2SNet

_TRAINING_BATCHES = 10
_BATCH_SHAPE = (2, 3, 128, 128)


class Form(NamedTuple):
    """One way to compute the same network.

    Attributes:
        title: what is done to it.
        network: in evaluation mode.
        memory_format: of the image that it gets.
    """

    title: str
    network: nn.Module
    memory_format: torch.memory_format


class Timing(NamedTuple):
    """What one form took, and how far its logits are off.

    Attributes:
        title: of the form.
        seconds: process time of each repeat, of all threads together.
        to_first: largest absolute difference to the first form.
        to_exact: largest absolute difference to the first form in float64.
        logit: largest absolute logit.
    """

    title: str
    seconds: list[float]
    to_first: float
    to_exact: float
    logit: float


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
    """The published network with random weights, and statistics from passes in training mode.

    Statistics that do not fit the weights let the numbers inside, and with them their rounding, grow or
    vanish. The images are random.

    Returns:
        float32, in evaluation mode; always the same weights.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = M2SNet().train()
        for _ in range(_TRAINING_BATCHES):
            network(torch.randn(_BATCH_SHAPE))
    return network.eval()


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


@torch.no_grad()
def measure(forms: Sequence[Form], image: Tensor, repeats: int) -> list[Timing]:
    """Run all forms in turns.

    Args:
        forms: at least one; the outputs of the first are what the others are compared to.
        image: float (B, C, H, W).
        repeats: runs of each form, after one that is not timed.

    Returns:
        One timing per form, in their order.
    """
    exact = copy.deepcopy(forms[0].network).double()(image.double())
    images = [image.contiguous(memory_format=form.memory_format) for form in forms]
    outputs = [form.network(given) for form, given in zip(forms, images)]
    seconds: list[list[float]] = [[] for _ in forms]
    for _ in range(repeats):
        for index, form in enumerate(forms):
            start_s = time.process_time()
            form.network(images[index])
            seconds[index].append(time.process_time() - start_s)
    return [
        Timing(form.title, taken, _largest(output - outputs[0]), _largest(output - exact), _largest(output))
        for form, taken, output in zip(forms, seconds, outputs)
    ]


def _largest(values: Tensor) -> float:
    return values.abs().max().item()


def table(timings: Sequence[Timing]) -> str:
    """Lines of a table in Markdown; the ratio is that of the minima, to the first row.

    Args:
        timings: of one image.
    """
    first = timings[0]
    columns = ("form", "minimum, s", "median, s", "times faster", "off the first", "off float64", "logits to")
    rows = [columns, ["---"] * len(columns)]
    for timing in timings:
        least_s = min(timing.seconds)
        times = [f"{least_s:.3f}", f"{median(timing.seconds):.3f}", f"{min(first.seconds) / least_s:.2f}"]
        differences = [f"{timing.to_first:.1e}", f"{timing.to_exact:.1e}"]
        rows.append([timing.title, *times, *differences, f"{timing.logit:.1f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine() -> str:
    """Processor, threads and version of PyTorch, in one line."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name} ({capability}), {torch.get_num_threads()} thread(s), PyTorch {torch.__version__}"


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
