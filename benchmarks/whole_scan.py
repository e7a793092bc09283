"""Time and memory of labels of a real scan: MONAI's inferer on the training form, and our inference.

    python -m benchmarks.whole_scan --scan chaos_ct_case3/DICOM_anon --spacing_mm 2.5,2.5,2.5

Both sides have the same weights (random ones) and the same windows, MONAI's default overlap and blending
unless told otherwise, and start from the same preprocessed scan. MONAI's side: the network as it was trained,
``SlidingWindowInferer`` and an argmax. Ours: the deployment form and ``LabelInferer``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from benchmarks.form_table import MIB, averaging, peak_bytes
from benchmarks.side_by_side import machine, markdown
from common.bundle_config import inference_config
from common.engines.label_inferer import LabelInferer

BUNDLE = Path("bundles/kcbac_mmwhs")


def preprocessed(scan: str, spacing_mm: Sequence[float], preset: str) -> tuple[Tensor, nn.Module]:
    """A scan on the grid of the network, and the network of a preset in evaluation mode.

    Args:
        scan: file or DICOM series, as ``dataset_dir`` of inference.
        spacing_mm: of the grid.
        preset: overlay of the bundle.

    Returns:
        float (1, 1, D, H, W), and the network with random weights.
    """
    parser = inference_config(BUNDLE, [preset], dataset_dir=scan, spacing_mm=list(spacing_mm))
    image = parser.get_parsed_content("dataset")[0]["image"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = parser.get_parsed_content("network_def")
    return image.as_tensor()[None], network.eval()


@torch.no_grad()
def settle(network: nn.Module, image: Tensor, roi_size: Sequence[int]) -> None:
    """Give a network the statistics of two windows of an image.

    Args:
        network: left in evaluation mode.
        image: (1, 1, D, H, W).
        roi_size: of the windows.
    """
    margins = [max(edge - size, 0) for edge, size in zip(roi_size, image.shape[2:])]
    padded = nn.functional.pad(image, [value for edge in reversed(margins) for value in (0, edge)])
    first = padded[(..., *(slice(edge) for edge in roi_size))]
    last = padded[(..., *(slice(-edge, None) for edge in roi_size))]
    averaging(network).train()(torch.cat([first, last]))
    network.eval()


def scan_table(image: Tensor, network: nn.Module, windows: SlidingWindowInferer) -> str:
    """Run both sides once.

    Args:
        image: (1, 1, D, H, W).
        network: in its training form, with a method ``fuse``; left as it is.
        windows: of both sides.

    Returns:
        Lines of a table in Markdown; peak memory is that above image and weights.
    """
    fused = copy.deepcopy(network)
    fused.fuse()
    ways: dict[str, Callable[[], Tensor]] = {
        "training form, SlidingWindowInferer, argmax": lambda: windows(image, network).argmax(1, True),
        "deployment form, LabelInferer": lambda: LabelInferer(windows)(image, fused),
    }
    rows: list[list[str]] = []
    first_s, first = 0.0, torch.empty(0)
    for title, way in ways.items():
        labels, seconds, peak = _watched(way)
        first_s, first = first_s or seconds, first if len(first) else labels
        changed = int((labels != first).sum())
        cells = [f"{seconds:.1f}", f"{first_s / seconds:.2f}", f"{peak / MIB:.0f}"]
        rows.append([title, *cells, f"{changed} of {labels.numel()}"])
    return markdown(["way", "processor, s", "times faster", "peak, MiB", "other labels"], rows)


@torch.no_grad()
def _watched(way: Callable[[], Tensor]) -> tuple[Tensor, float, int]:
    found: list[Tensor] = []
    seconds: list[float] = []

    def run() -> None:
        start_s = time.process_time()
        found.append(way())
        seconds.append(time.process_time() - start_s)

    peak = peak_bytes(run)
    return found[0], seconds[0], peak


def whole_scan(
    scan: str,
    spacing_mm: Sequence[float] = (2.5, 2.5, 2.5),
    roi_size: Sequence[int] = (64, 64, 64),
    overlap: float = 0.25,
    mode: str = "constant",
    preset: str = "preset_laptop.json",
    threads: int = 1,
) -> str:
    """Compare both sides on one scan.

    Args:
        scan: file or DICOM series.
        spacing_mm: of the network's grid.
        roi_size: of the windows, in voxels.
        overlap: of windows.
        mode: of blending.
        preset: overlay of ``kcbac_mmwhs``.
        threads: of PyTorch. Times are those of the processor, summed over the threads.

    Returns:
        The machine and a table, as text.
    """
    torch.set_num_threads(threads)
    image, network = preprocessed(scan, spacing_mm, preset)
    settle(network, image, roi_size)
    windows = SlidingWindowInferer(tuple(roi_size), overlap=overlap, mode=mode, padding_mode="replicate")
    size = " x ".join(map(str, image.shape[2:]))
    title = f"{size} voxels, windows of {' x '.join(map(str, roi_size))}, overlap {overlap}, {mode}"
    return f"{machine()}\n\n{title}\n\n{scan_table(image, network, windows)}"


if __name__ == "__main__":
    import fire

    fire.Fire(whole_scan)
