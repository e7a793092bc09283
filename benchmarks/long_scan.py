"""Memory and time of labels of a long scan: MONAI's inferer and an argmax, against labels while windows run.

    python -m benchmarks.long_scan --size 512,512,1000 --classes 14

Both ways have the same small network, so that what they do with its outputs dominates; the windows without
either are timed, too. Each runs in a process of its own, on Linux, whose peak of memory is counted from what
it holds with the image and the network. MONAI's way holds all classes of the whole scan: the size above
takes 20 GB.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.utils import ensure_tuple, ensure_tuple_rep
from torch import Tensor, nn

from benchmarks.side_by_side import machine, markdown
from common.engines.label_inferer import LabelInferer
from common.engines.label_slabs import WindowGrid

COLUMNS = ["way", "processor, s", "wall, s", "share of the first", "peak above the image, GB", "same labels"]
_BYTES = 1e9


class Scan(NamedTuple):
    """What is computed.

    Attributes:
        size: of the image, in voxels.
        classes: of the network.
        roi_size: of a window.
        overlap: of windows.
        mode: of blending.
        threads: of PyTorch.
    """

    size: tuple[int, ...]
    classes: int
    roi_size: tuple[int, ...]
    overlap: float
    mode: str
    threads: int


class Outcome(NamedTuple):
    """What one way took.

    Attributes:
        processor_s: process time, of all threads together.
        wall_s: elapsed time.
        peak_bytes: most memory held at a time, above what was held before.
    """

    processor_s: float
    wall_s: float
    peak_bytes: int


def small_network(classes: int) -> nn.Module:
    """One convolution at half the resolution, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv3d(1, classes, 3, stride=2, padding=1), nn.Upsample(scale_factor=2)
        ).eval()


def _inferer(scan: Scan) -> SlidingWindowInferer:
    return SlidingWindowInferer(scan.roi_size, overlap=scan.overlap, mode=scan.mode)


def _monai(scan: Scan, image: Tensor, network: nn.Module) -> Tensor:
    return _inferer(scan)(image, network).argmax(1, keepdim=True).to(torch.uint8)


def _labels(scan: Scan, image: Tensor, network: nn.Module) -> Tensor:
    return LabelInferer(_inferer(scan))(image, network)


def _windows_alone(scan: Scan, image: Tensor, network: nn.Module) -> None:
    grid = WindowGrid(scan.size, scan.roi_size, ensure_tuple_rep(scan.overlap, len(scan.size)))
    for index in grid:
        network(image[(slice(None), slice(None), *grid.window(index))])


WAYS: dict[str, Callable[[Scan, Tensor, nn.Module], Tensor | None]] = {
    "SlidingWindowInferer, argmax": _monai,
    "LabelInferer": _labels,
    "windows alone": _windows_alone,
}


@torch.no_grad()
def run_way(title: str, scan: Scan, path: Path) -> Outcome:
    """Time one way, and measure its memory; for a fresh process.

    Args:
        title: of ``WAYS``.
        scan: what to compute.
        path: ``.npy`` file that is written with the labels, if the way has any.
    """
    torch.set_num_threads(scan.threads)
    image = torch.empty(1, 1, *scan.size).normal_(generator=torch.Generator().manual_seed(0))
    network = small_network(scan.classes)
    network(torch.zeros(1, 1, *scan.roi_size))
    # Peak memory is counted from here. What ``getrusage`` tells would begin with that of the parent process.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    held_bytes = _held_bytes("VmRSS")
    start_s = time.process_time(), time.perf_counter()
    labels = WAYS[title](scan, image, network)
    end_s = time.process_time(), time.perf_counter()
    outcome = Outcome(end_s[0] - start_s[0], end_s[1] - start_s[1], _held_bytes("VmHWM") - held_bytes)
    if labels is not None:
        np.save(path, labels.numpy()[0, 0])
    return outcome


def _held_bytes(entry: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:"))


def in_own_process(title: str, scan: Scan, path: Path) -> Outcome | None:
    """Outcome of :func:`run_way` in a fresh process, or None if that was ended from outside."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(run_way, title, scan, path).result()
        except BrokenProcessPool:
            return None


def agreement(first: Path, second: Path) -> float:
    """Share of voxels with the same label in two ``.npy`` files."""
    arrays = [np.load(path, mmap_mode="r") for path in (first, second)]
    same = sum(int((plane == other).sum()) for plane, other in zip(*arrays))
    return same / arrays[0].size


def table(outcomes: dict[str, Outcome | None], agreements: dict[str, float]) -> str:
    """Lines of a table in Markdown.

    Args:
        outcomes: by way; the first is what the others are compared to.
        agreements: by way, share of voxels that have the same label as that of the first.
    """
    first = next(iter(outcomes.values()))
    rows = []
    for title, outcome in outcomes.items():
        if outcome is None:
            rows.append([title, *["ended by the system"] * (len(COLUMNS) - 1)])
            continue
        share = f"{outcome.processor_s / first.processor_s:.2f}" if first else "-"
        same = f"{agreements[title]:.6f}" if title in agreements else "-"
        peak = f"{outcome.peak_bytes / _BYTES:.2f}"
        rows.append([title, f"{outcome.processor_s:.1f}", f"{outcome.wall_s:.1f}", share, peak, same])
    return markdown(COLUMNS, rows)


def long_scan(
    size: Sequence[int] = (512, 512, 1000),
    classes: int = 14,
    roi_size: int | Sequence[int] = 128,
    overlap: float = 0.5,
    mode: str = "gaussian",
    threads: int = 1,
) -> str:
    """Compare the ways to labels of one scan.

    Args:
        size: of the scan, in voxels.
        classes: of the network.
        roi_size: of a window, in voxels; even, and no more than the scan along any axis.
        overlap: of windows.
        mode: of blending, ``gaussian`` or ``constant``.
        threads: of PyTorch. The time of the processor is summed over the threads.

    Returns:
        The machine and a table, as text. A way whose process was ended, as for want of memory, has no
        numbers.
    """
    torch.set_num_threads(threads)
    size = ensure_tuple(size)
    scan = Scan(size, classes, ensure_tuple_rep(roi_size, len(size)), overlap, mode, threads)
    with tempfile.TemporaryDirectory() as folder:
        files = {title: Path(folder) / f"{number}.npy" for number, title in enumerate(WAYS)}
        outcomes = {title: in_own_process(title, scan, path) for title, path in files.items()}
        first = next(iter(files.values()))
        agreements = {
            title: agreement(first, path) for title, path in files.items() if first.exists() and path.exists()
        }
    of_windows = f"windows of {' x '.join(map(str, scan.roi_size))}, overlap {overlap}, {mode}"
    title = f"{' x '.join(map(str, size))} voxels, {classes} classes, {of_windows}"
    return f"{machine()}\n\n{title}\n\n{table(outcomes, agreements)}"


if __name__ == "__main__":
    import fire

    fire.Fire(long_scan)
