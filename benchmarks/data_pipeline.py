"""Time of an epoch of preprocessing: everything anew, kept in memory, kept on disk; and slices of volumes.

    python -m benchmarks.data_pipeline --cases 4 --epochs 3

The transforms are those of ``kcbac_mmwhs`` on generated hearts, the laptop's preset after ``train.json``. The
naive way applies all of them whenever a case is drawn; MONAI's ``CacheDataset``, which the bundle uses, and
``PersistentDataset`` keep what the first, deterministic ones have made. For each the first epoch is timed by
itself, as it fills what is kept. Besides, one slice of each volume as :mod:`common.data.volume_slices` reads
it, and by reading the whole volume.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.transforms import Compose, LoadImage, Orientation
from torch import Tensor

from benchmarks.form_table import MIB, SPREAD_COLUMNS, peak_bytes, spread_cells
from benchmarks.side_by_side import machine, markdown, take_turns
from common.data.phantoms import write_mmwhs
from common.data.volume_slices import read_slice, slice_grid

CONFIGS = Path("bundles/kcbac_mmwhs/configs")
COLUMNS = ["way", "first epoch, s", "later, median, s", "later, largest, s", "times faster", "same samples"]


def cases_and_transforms(dataset_dir: Path) -> tuple[list[dict[str, Any]], Compose]:
    """Cases of a folder, and the transforms of the bundle's training.

    Args:
        dataset_dir: in the layout of MM-WHS 2017.
    """
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in ("train.json", "preset_laptop.json")])
    parser.update({"dataset_dir": str(dataset_dir)})
    return parser.get_parsed_content("cases"), parser.get_parsed_content("train::preprocessing")


def _ways(cases: list[dict[str, Any]], transforms: Compose, folder: Path) -> dict[str, Callable[[], Dataset]]:
    cached = functools.partial(CacheDataset, cases, transforms, num_workers=0, progress=False)
    on_disk = functools.partial(PersistentDataset, cases, transforms, folder / "cache")
    return {
        "everything anew": functools.partial(Dataset, cases, transforms),
        "kept in memory": cached,
        "kept on disk": on_disk,
    }


def epoch_of(dataset: Dataset, transforms: Compose, epoch: int) -> Tensor:
    """All samples of an epoch, the random ones as everywhere in that epoch.

    Args:
        dataset: of these transforms.
        transforms: whose random state is set.
        epoch: its number, from 0.

    Returns:
        float (cases, 1, D, H, W), the patches of the images.
    """
    transforms.set_random_state(seed=epoch)
    return torch.stack([dataset[index][0]["image"] for index in range(len(dataset))])


def epoch_table(cases: list[dict[str, Any]], transforms: Compose, folder: Path, epochs: int) -> str:
    """Time the ways to draw one patch of each case.

    Args:
        cases: of the data set.
        transforms: see :func:`cases_and_transforms`.
        folder: for what is kept on disk.
        epochs: at least 2; the first one is timed with what building the data set takes.

    Returns:
        Lines of a table in Markdown.
    """
    rows: list[list[str]] = []
    naive_s, naive = 0.0, []
    for title, build in _ways(cases, transforms, folder).items():
        seconds, samples = [], []
        dataset = None
        for epoch in range(epochs):
            start_s = time.process_time()
            dataset = build() if dataset is None else dataset
            samples.append(epoch_of(dataset, transforms, epoch))
            seconds.append(time.process_time() - start_s)
        later_s = median(seconds[1:])
        naive_s, naive = naive_s or later_s, naive or samples
        is_same = all(map(torch.equal, samples, naive))
        times = [f"{value:.3f}" for value in (seconds[0], later_s, max(seconds[1:]))]
        rows.append([title, *times, f"{naive_s / later_s:.1f}", "yes" if is_same else "no"])
    return markdown(COLUMNS, rows)


def slice_table(files: Sequence[str], repeats: int) -> str:
    """One slice of each file, by reading the volume and by reading the slice.

    Args:
        files: NIfTI volumes.
        repeats: timed runs of each way.

    Returns:
        Lines of a table in Markdown; peak memory is that of one run over all files.
    """
    load, turn = LoadImage(image_only=True, ensure_channel_first=True), Orientation("RAS", labels=None)
    middles = [slice_grid(file).num_slices // 2 for file in files]
    runs: dict[str, Callable[[], list[Tensor]]] = {
        "volume": lambda: [turn(load(file))[..., index] for file, index in zip(files, middles)],
        "slice": lambda: [read_slice(file, index) for file, index in zip(files, middles)],
    }
    found = [[image.as_tensor() for image in run()] for run in runs.values()]
    times = take_turns(list(runs.values()), repeats)
    rows = []
    for (title, run), images, seconds in zip(runs.items(), found, times):
        same = "yes" if all(map(torch.equal, images, found[0])) else "no"
        cells = spread_cells(seconds, times[0])
        rows.append([title, *cells, f"{peak_bytes(run) / MIB:.1f}", same])
    return markdown(["read", *SPREAD_COLUMNS, "peak, MiB", "same slices"], rows)


def data_pipeline(
    cases: int = 4, epochs: int = 3, size: Sequence[int] = (96, 96, 64), threads: int = 1
) -> str:
    """Compare the ways to preprocess, and to read slices.

    Args:
        cases: generated.
        epochs: over all of them, at least 2.
        size: of the volumes, in voxels.
        threads: of PyTorch. Times are those of the processor, summed over the threads.

    Returns:
        The machine and two tables, as text.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mmwhs(folder / "data", num_cases=cases, num_test=0, size=size)
        found, transforms = cases_and_transforms(folder / "data")
        epoch_lines = epoch_table(found, transforms, folder, epochs)
        slice_lines = slice_table([case["image"] for case in found], epochs)
    title = f"{cases} volumes of {' x '.join(map(str, size))} voxels"
    return f"{machine()}\n\n{title}\n\n{epoch_lines}\n\n{slice_lines}"


if __name__ == "__main__":
    import fire

    fire.Fire(data_pipeline)
