"""Curves of time and memory on a CPU against volume length, classes, patch, batch and number of cases.

    python -m benchmarks.growth --curves length,classes,patch,batch,cases --repeats 2 --folder growth

Each row has the slope to the row before it in a doubly logarithmic picture: 1 means that twice as much takes
twice as long (or twice the memory), 0 that it takes the same, above 1 that something bends. Length and
classes have a network of one convolution, so that what is done with its outputs dominates.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from monai.data import CacheDataset
from monai.inferers import SlidingWindowInferer
from monai.utils import ensure_tuple
from torch import Tensor

from benchmarks.data_pipeline import cases_and_transforms
from benchmarks.form_table import MIB, peak_bytes
from benchmarks.long_scan import small_network
from benchmarks.side_by_side import machine, markdown, take_turns
from common.data.checks import check_cases
from common.data.phantoms import write_mmwhs
from common.data.splits import seeded_split
from common.engines.label_inferer import LabelInferer
from common.networks.kcbac import KCBACNet

COLUMNS = ["median, s", "largest, s", "slope", "peak, MiB", "slope"]
_WINDOW = (32, 32, 32)
_PLANE = (96, 96)
_LABEL_CODES = (500, 600, (420, 421), 550, 205, 820, 850)


class Point(NamedTuple):
    """One place on a curve.

    Attributes:
        value: what grows.
        seconds: process time of each repeat.
        peak: most memory held above what was held before, in bytes.
    """

    value: int
    seconds: list[float]
    peak: int


class Curve(NamedTuple):
    """Measured points.

    Attributes:
        quantity: what grows, with its unit.
        ways: points by the name of what is measured.
    """

    quantity: str
    ways: dict[str, list[Point]]


def measured(runs: dict[int, Callable[[], Any]], repeats: int) -> list[Point]:
    """Points of a curve; its runs take turns, after one of each that is not timed but gives the memory.

    Args:
        runs: what to run for each value.
        repeats: timed runs of each.
    """
    for run in runs.values():
        run()
    peaks = [peak_bytes(run) for run in runs.values()]
    times = take_turns(list(runs.values()), repeats)
    return [Point(value, seconds, peak) for value, seconds, peak in zip(runs, times, peaks)]


@torch.no_grad()
def inference_curves(quantity: str, values: Sequence[int], repeats: int) -> Curve:
    """Labels of volumes of growing length, or of growing numbers of classes, in two ways.

    Args:
        quantity: ``slices`` or ``classes``.
        values: of it.
        repeats: of each.
    """
    windows = SlidingWindowInferer(_WINDOW, overlap=0.25)

    def by_monai(image: Tensor, classes: int) -> Tensor:
        return windows(image, small_network(classes)).argmax(1, keepdim=True).to(torch.uint8)

    def by_labels(image: Tensor, classes: int) -> Tensor:
        return LabelInferer(windows)(image, small_network(classes))

    sizes = {value: (value, 4) if quantity == "slices" else (96, value) for value in values}
    ways = {}
    for title, way in (("SlidingWindowInferer, argmax", by_monai), ("LabelInferer", by_labels)):
        runs = {
            value: functools.partial(way, torch.randn(1, 1, *_PLANE, slices), classes)
            for value, (slices, classes) in sizes.items()
        }
        ways[title] = _without_grad(runs, repeats)
    return Curve(quantity, ways)


def patch_curve(values: Sequence[int], repeats: int) -> Curve:
    """A small kCBAC-Net in its deployment form, on cubes of growing edge."""
    network = _small_kcbac()
    runs = {edge: functools.partial(network, torch.randn(1, 1, edge, edge, edge)) for edge in values}
    return Curve("edge of the patch, voxels", {"deployment form": _without_grad(runs, repeats)})


def batch_curve(values: Sequence[int], repeats: int) -> Curve:
    """The same network on growing batches of windows, and a training step of its training form."""
    network, trained = _small_kcbac(), _small_kcbac(fused=False).train()
    images = {batch: torch.randn(batch, 1, *_WINDOW) for batch in values}

    def step(image: Tensor) -> None:
        trained.zero_grad()
        trained(image).square().mean().backward()

    deployed = {batch: functools.partial(network, image) for batch, image in images.items()}
    steps = {batch: functools.partial(step, image) for batch, image in images.items() if batch > 1}
    ways = {"deployment form": _without_grad(deployed, repeats), "training step": measured(steps, repeats)}
    return Curve("images at a time", ways)


def cases_curve(values: Sequence[int], repeats: int) -> Curve:
    """What a data set of growing size costs before its first step: check, split, filling the cache."""
    with tempfile.TemporaryDirectory() as name:
        write_mmwhs(name, num_cases=max(values), num_test=0, size=_WINDOW)
        cases, transforms = cases_and_transforms(Path(name))
        check = functools.partial(check_cases, num_classes=8, label_codes=_LABEL_CODES)
        receipt, split_file = f"{name}/receipt.json", Path(name) / "split.json"
        check(cases, receipt_file=receipt)

        def split(some: list[dict[str, Any]]) -> None:
            split_file.unlink(missing_ok=True)
            seeded_split(some, split_file)

        parts: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
            "check that reads all files": check,
            "check with a receipt": functools.partial(check, receipt_file=receipt),
            "split": split,
            "cache filled": functools.partial(
                CacheDataset, transform=transforms, num_workers=0, progress=False
            ),
        }
        ways = {
            title: measured({count: functools.partial(part, cases[:count]) for count in values}, repeats)
            for title, part in parts.items()
        }
    return Curve("cases", ways)


def _small_kcbac(fused: bool = True) -> KCBACNet:
    return KCBACNet(3, 1, 8, base_width=4, num_scales=3, fused=fused).eval()


def _without_grad(runs: dict[int, Callable[[], Any]], repeats: int) -> list[Point]:
    with torch.no_grad():
        return measured(runs, repeats)


CURVES: dict[str, tuple[Callable[[Sequence[int], int], Curve], tuple[int, ...]]] = {
    "length": (functools.partial(inference_curves, "slices"), (64, 128, 256, 512)),
    "classes": (functools.partial(inference_curves, "classes"), (2, 4, 8, 16, 32)),
    "patch": (patch_curve, (16, 32, 48, 64, 96)),
    "batch": (batch_curve, (1, 2, 4, 8)),
    "cases": (cases_curve, (5, 10, 20, 40)),
}


def slopes(points: Sequence[Point], of: Callable[[Point], float]) -> list[str]:
    """For each point the slope to the one before it, logarithm against logarithm; a dash for the first."""
    found = ["-"]
    for before, after in zip(points, points[1:]):
        lower, upper = of(before), of(after)
        growth = math.log(after.value / before.value)
        found.append(f"{math.log(upper / lower) / growth:.2f}" if min(lower, upper) > 0 else "-")
    return found


def curve_table(curve: Curve) -> str:
    """Lines of a table in Markdown."""
    rows = []
    for title, points in curve.ways.items():
        in_time = slopes(points, lambda point: median(point.seconds))
        in_memory = slopes(points, lambda point: point.peak)
        for point, time_slope, memory_slope in zip(points, in_time, in_memory):
            times = [f"{median(point.seconds):.4f}", f"{max(point.seconds):.4f}"]
            rows.append(
                [title, str(point.value), *times, time_slope, f"{point.peak / MIB:.1f}", memory_slope]
            )
    return markdown(["what", curve.quantity, *COLUMNS], rows)


def draw(curve: Curve, path: Path) -> None:
    """Write a picture of a curve, time and memory beside each other.

    Args:
        curve: measured.
        path: of the picture; its ending tells the kind, such as ``.svg``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("time, s", "peak, MiB")):
        for title, points in curve.ways.items():
            is_time = name.startswith("time")
            heights = [median(point.seconds) if is_time else point.peak / MIB for point in points]
            axes.loglog([point.value for point in points], heights, marker="o", label=title)
        axes.set(xlabel=curve.quantity, ylabel=name)
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path)


def growth(
    curves: str | Sequence[str] = tuple(CURVES),
    repeats: int = 2,
    threads: int = 1,
    folder: str | None = None,
    values: Sequence[int] | None = None,
) -> str:
    """Measure curves.

    Args:
        curves: names of ``CURVES``.
        repeats: timed runs of each point.
        threads: of PyTorch. Times are those of the processor, summed over the threads.
        folder: where ``<curve>.svg`` are written; None to write none.
        values: in place of those of ``CURVES``, growing.

    Returns:
        The machine and a table for each curve, as text.
    """
    torch.set_num_threads(threads)
    parts = [machine()]
    for name in ensure_tuple(curves):
        measure, default = CURVES[name]
        curve = measure(default if values is None else ensure_tuple(values), repeats)
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            draw(curve, Path(folder) / f"{name}.svg")
        parts.append(f"{name}, {repeats} repeats\n\n{curve_table(curve)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    import fire

    fire.Fire(growth)
