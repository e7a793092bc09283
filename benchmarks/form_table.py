"""Forms of a network side by side: times with their spread, difference of the outputs, and memory."""

from __future__ import annotations

import ctypes
import functools
import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.side_by_side import Form, markdown, take_turns

SPREAD_COLUMNS = ("minimum, s", "median, s", "largest, s", "times faster")
MIB = 2**20


def averaging(network: nn.Module) -> nn.Module:
    """Let the statistics of a network be means over all batches it sees, so that few batches settle them.

    Args:
        network: changed.

    Returns:
        ``network``.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None
    return network


def peak_bytes(run: Callable[[], Any]) -> int:
    """Most memory that this process holds while something runs, above what it holds before.

    Args:
        run: called once; runs before it have filled caches.

    Returns:
        Bytes of resident memory; Linux with glibc alone tells them.
    """
    gc.collect()
    # Else memory that earlier runs have freed would be taken again without a trace.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = held_bytes("VmRSS")
    run()
    return max(held_bytes("VmHWM") - before, 0)


def held_bytes(entry: str) -> int:
    """Memory of this process: ``VmRSS``, held now, or ``VmHWM``, the most since it was last cleared."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:"))


def spread_cells(seconds: Sequence[float], first: Sequence[float]) -> list[str]:
    """Cells for ``SPREAD_COLUMNS``; the ratio is that of the minima.

    Args:
        seconds: of one row.
        first: of the row that it is compared to.
    """
    times = (min(seconds), median(seconds), max(seconds))
    return [*(f"{value:.3f}" for value in times), f"{min(first) / min(seconds):.2f}"]


@torch.no_grad()
def form_table(forms: Sequence[Form], image: Tensor, repeats: int) -> str:
    """Run all forms in turns, then each once more for its memory.

    Args:
        forms: at least one; the outputs of the first are what the others are compared to.
        image: float (B, C, [D,] H, W).
        repeats: timed runs of each form, after one that is not timed.

    Returns:
        Lines of a table in Markdown: times, the largest difference of a logit, pixels with another label, the
        largest logit, and peak memory above image and weights.
    """
    runs = [
        functools.partial(form.network, image.contiguous(memory_format=form.memory_format)) for form in forms
    ]
    outputs = [run() for run in runs]
    times = take_turns(runs, repeats)
    rows = []
    for form, run, seconds, output in zip(forms, runs, times, outputs):
        difference = (output - outputs[0]).abs().max().item()
        changed = int((output.argmax(1) != outputs[0].argmax(1)).sum())
        cells = [f"{difference:.1e}", f"{changed} of {output[:, 0].numel()}"]
        cells += [f"{output.abs().max().item():.1f}", f"{peak_bytes(run) / MIB:.0f}"]
        rows.append([form.title, *spread_cells(seconds, times[0]), *cells])
    return markdown(
        ["form", *SPREAD_COLUMNS, "off the first", "other labels", "logits to", "peak, MiB"], rows
    )
