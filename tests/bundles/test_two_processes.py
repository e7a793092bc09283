"""Training and evaluation in two processes on the CPU, from the unmodified configs plus one overlay."""

import json
import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from common.data.abdomen_phantom import write_synapse
from common.data.chaos_phantom import write_chaos
from common.data.kits_phantom import write_kits19
from common.data.phantoms import write_mmwhs
from common.data.picture_phantoms import write_polyp_pranet
from tests.helpers.workflows import (
    REPOSITORY,
    TINY_3D,
    TINY_CROSSDOMAIN,
    TINY_DMNET,
    TINY_M2SNET,
    TINY_SKC,
    config_files,
    run,
)

pytestmark = [pytest.mark.bundle, pytest.mark.slow]


def write_divided_synapse(folder: Path) -> None:
    """Ten scans in place of the thirty of the published split, three of them to validate and to test."""
    write_synapse(folder, num_cases=10, size=(16, 16, 12))
    ids = [f"{number:04d}" for number in range(1, 11)]
    split = {"labeled": ids[:2], "unlabeled": ids[2:4], "validation": ids[4:7], "test": ids[7:]}
    (folder / "published.json").write_text(json.dumps(split))


# Data, and settings under which three cases are held out: they do not divide evenly between two processes.
CASES = {
    "kcbac_mmwhs": (
        partial(write_mmwhs, num_cases=9, num_test=0, size=(48, 48, 40)),
        {**TINY_3D, "num_folds": 3},
    ),
    "crossdomain_liver": (
        partial(write_chaos, num_ct=4, num_mr=3, size=32, ct_slices=6, mr_slices=6),
        {**TINY_CROSSDOMAIN, "num_held_out": "$dict(CT=2, MR=1)"},
    ),
    "dmnet_kits": (partial(write_kits19, num_cases=10), {**TINY_DMNET, "split_parts": [4, 3, 3]}),
    "skc_synapse": (
        write_divided_synapse,
        {**TINY_SKC, "published_split": "$@dataset_dir + '/published.json'"},
    ),
    "m2snet_polyp": (partial(write_polyp_pranet, num_training=19), {**TINY_M2SNET, "num_folds": 9}),
}


def run_in_two_processes(bundle, names, run_id, **overrides):
    files = "[" + ",".join(f"'{file}'" for file in config_files(bundle, *names)) + "]"
    launcher = "-m torch.distributed.run --standalone --nproc_per_node=2 -m monai.bundle run"
    command = [sys.executable, *shlex.split(launcher), run_id, "--config_file", files]
    for name, value in {"bundle_root": str(REPOSITORY / "bundles" / bundle), **overrides}.items():
        command += [f"--{name}", str(value)]
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **quiet}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("bundle", CASES)
def test_two_processes_train_and_evaluate_as_one_does(bundle, tmp_path):
    data, output, models = tmp_path / "data", tmp_path / "two", tmp_path / "models"
    write, settings = CASES[bundle]
    write(data)
    training = {**settings, "dataset_dir": str(data), "model_dir": str(models)}
    evaluation = {**training, "pictures": 0}
    run_in_two_processes(bundle, ["train", "multi_gpu_train"], "training", output_dir=output, **training)
    weights = torch.load(models / "model.pt", weights_only=True)
    assert not any(name.startswith("module.") for name in weights)
    names = ["train", "multi_gpu_train", "evaluate"]
    run_in_two_processes(bundle, names, "evaluating", output_dir=output, **evaluation)
    run(bundle, ["train", "evaluate"], output_dir=str(tmp_path / "one"), **evaluation)
    two, one = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("two", "one"))
    assert one["cases"] == two["cases"] == 3
    assert two["columns"].keys() == one["columns"].keys()
    for title, column in one["columns"].items():
        assert two["columns"][title]["values"] == pytest.approx(column["values"], nan_ok=True), title
