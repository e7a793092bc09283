"""What the speed measurements share: forms of one network take turns, and their outputs are compared."""

from __future__ import annotations

import copy
import functools
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

TIME_COLUMNS = ("minimum, s", "median, s", "times faster")


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


def settled(build: Callable[[], nn.Module], shape: Sequence[int], batches: int) -> nn.Module:
    """A network with random weights, and statistics from passes in training mode over random images.

    Statistics that do not fit the weights let the numbers inside, and with them their rounding, grow or
    vanish.

    Args:
        build: makes the network.
        shape: of a batch, (B, C, H, W).
        batches: number of passes.

    Returns:
        float32, in evaluation mode; always the same weights.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = build().train()
        for _ in range(batches):
            network(torch.randn(*shape))
    return network.eval()


def take_turns(runs: Sequence[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Time several ways to do something, so that whatever else the machine does meets all of them.

    Args:
        runs: each is called once per repeat, in their order.
        repeats: rounds.

    Returns:
        For each of ``runs`` the process time of each repeat, in seconds, of all threads together.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for taken, run in zip(seconds, runs):
            start_s = time.process_time()
            run()
            taken.append(time.process_time() - start_s)
    return seconds


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
    runs = [functools.partial(form.network, given) for form, given in zip(forms, images)]
    seconds = take_turns(runs, repeats)
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
    rows = []
    for timing in timings:
        differences = [f"{timing.to_first:.1e}", f"{timing.to_exact:.1e}"]
        times = time_cells(timing.seconds, timings[0].seconds)
        rows.append([timing.title, *times, *differences, f"{timing.logit:.1f}"])
    return markdown(["form", *TIME_COLUMNS, "off the first", "off float64", "logits to"], rows)


def time_cells(seconds: Sequence[float], first: Sequence[float]) -> list[str]:
    """Cells for ``TIME_COLUMNS``, of one row and compared to the first one."""
    return [f"{min(seconds):.3f}", f"{median(seconds):.3f}", f"{min(first) / min(seconds):.2f}"]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """Processor, threads and version of PyTorch, in one line."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name} ({capability}), {torch.get_num_threads()} thread(s), PyTorch {torch.__version__}"
