"""Where the time of a first case goes: imports, configuration, checks and reading, or the network.

    python -m benchmarks.cold_start --size 64,64,64 --repeats 2

A fresh process does what ``python -m monai.bundle run inferring`` does, with weights that are made for it,
and takes the time at each stage. Nothing here may import PyTorch before that process does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

BUNDLE = Path("bundles/kcbac_mmwhs")
PRESET = "preset_laptop.json"
STAGES = (
    "start of Python",
    "import of PyTorch",
    "import of MONAI",
    "configuration, its imports, checks of settings",
    "network and pipeline built",
    "reading, preprocessing, saving, pictures",
    "weights read and fused",
    "network on the case",
)


def prepare(folder: Path, size: Sequence[int], preset: str) -> None:
    """Write a case and the weights of a network.

    Args:
        folder: written are ``case.nii.gz`` and ``model.pt``.
        size: of the case, in voxels of 1 mm.
        preset: name of an overlay of the bundle.
    """
    import nibabel as nib
    import numpy as np
    import torch

    from common.bundle_config import inference_config

    voxels = np.random.default_rng(0).integers(-1000, 1000, tuple(size)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "case.nii.gz")
    network = inference_config(BUNDLE, [preset]).get_parsed_content("network_def")
    torch.save(network.state_dict(), folder / "model.pt")


def stages(folder: str, preset: str = PRESET) -> None:
    """Segment the case in this process, and print the process time of all ``STAGES`` as JSON.

    Args:
        folder: see :func:`prepare`; results are written there, too.
        preset: name of an overlay of the bundle.
    """
    marks = [time.process_time()]
    import torch

    torch.set_num_threads(1)
    marks.append(time.process_time())
    import monai.bundle
    import monai.engines

    marks.append(time.process_time())
    workflow = monai.bundle.ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / name) for name in ("inference.json", preset)],
        meta_file=str(BUNDLE / "configs/metadata.json"),
        run_id="inferring",
        bundle_root=str(BUNDLE),
        dataset_dir=f"{folder}/case.nii.gz",
        checkpoint=f"{folder}/model.pt",
        output_dir=f"{folder}/output",
    )
    workflow.initialize()
    marks.append(time.process_time())
    weights_s = _watched_weights()
    evaluator = workflow.parser.get_parsed_content("evaluator")
    marks.append(time.process_time())
    network_s = _watched(evaluator.network)
    workflow.run()
    marks.append(time.process_time())
    parts = [marks[0], *(later - earlier for earlier, later in zip(marks, marks[1:]))]
    parts[-1] -= sum(network_s) + sum(weights_s)
    print(json.dumps([*parts, sum(weights_s), sum(network_s)]))


def _watched(network: object) -> list[float]:
    """Durations of the passes of a network, filled while it runs."""
    spent, starts = [], []
    network.register_forward_pre_hook(lambda *_: starts.append(time.process_time()))
    network.register_forward_hook(lambda *_: spent.append(time.process_time() - starts.pop()))
    return spent


def _watched_weights() -> list[float]:
    """Durations of loading and fusing weights, filled while the evaluator starts."""
    from common.engines.weights import WeightsLoader

    spent, start = [], WeightsLoader._start

    def timed(loader: WeightsLoader, engine: object) -> None:
        start_s = time.process_time()
        start(loader, engine)
        spent.append(time.process_time() - start_s)

    WeightsLoader._start = timed
    return spent


def cold_start(size: Sequence[int] = (64, 64, 64), repeats: int = 2, preset: str = PRESET) -> str:
    """Measure the stages of a first case.

    Args:
        size: of the case, in voxels.
        repeats: fresh processes; the first one may have to read files that the system then keeps.
        preset: name of an overlay of the bundle.

    Returns:
        A table with the median of each stage, as text. Times are those of the processor.
    """
    taken = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), size, preset)
            command = [sys.executable, "-m", "benchmarks.cold_start", "stages", folder, preset]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        taken.append(json.loads(done.stdout.strip().splitlines()[-1]))
    from benchmarks.side_by_side import machine, markdown

    title = f"{' x '.join(map(str, size))} voxels, {BUNDLE.name}, {preset}, {repeats} fresh processes"
    rows = stage_rows(taken)
    return f"{machine()}\n\n{title}\n\n{markdown(['stage', 'median, s', 'largest, s', 'share'], rows)}"


def stage_rows(taken: Sequence[Sequence[float]]) -> list[list[str]]:
    """A row of cells for each stage, and one for all.

    Args:
        taken: for each process the seconds of all stages.
    """
    columns = [list(column) for column in zip(*taken)]
    columns.append([sum(process) for process in taken])
    total = median(columns[-1])
    return [
        [title, f"{median(column):.2f}", f"{max(column):.2f}", f"{100 * median(column) / total:.0f} %"]
        for title, column in zip([*STAGES, "together"], columns)
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["stages"]:
        stages(*sys.argv[2:])
    else:
        import fire

        fire.Fire(cold_start)
