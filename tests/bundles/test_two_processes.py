"""Training and evaluation in two processes on the CPU, from the unmodified configs plus one overlay."""

import json
import os
import shlex
import subprocess
import sys

import pytest
import torch

from common.data.phantoms import write_mmwhs
from tests.helpers.workflows import REPOSITORY, TINY_3D, config_files, run

pytestmark = [pytest.mark.bundle, pytest.mark.slow]
BUNDLE = "kcbac_mmwhs"


def run_in_two_processes(names, run_id, **overrides):
    files = "[" + ",".join(f"'{file}'" for file in config_files(BUNDLE, *names)) + "]"
    launcher = "-m torch.distributed.run --standalone --nproc_per_node=2 -m monai.bundle run"
    command = [sys.executable, *shlex.split(launcher), run_id, "--config_file", files]
    for name, value in {"bundle_root": str(REPOSITORY / "bundles" / BUNDLE), **overrides}.items():
        command += [f"--{name}", str(value)]
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **quiet}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_train_and_evaluate_as_one_does(tmp_path):
    data, output, models = tmp_path / "data", tmp_path / "two", tmp_path / "models"
    # Nine cases, three folds: three held-out cases do not divide evenly between two processes.
    write_mmwhs(data, num_cases=9, num_test=0, size=(48, 48, 40))
    settings = {**TINY_3D, "dataset_dir": str(data), "model_dir": str(models), "num_folds": 3, "pictures": 0}
    training = {key: value for key, value in settings.items() if key != "pictures"}
    run_in_two_processes(["train", "multi_gpu_train"], "training", output_dir=output, **training)
    weights = torch.load(models / "model.pt", weights_only=True)
    assert not any(name.startswith("module.") for name in weights)
    names = ["train", "multi_gpu_train", "evaluate"]
    run_in_two_processes(names, "evaluating", output_dir=output, **settings)
    run(BUNDLE, ["train", "evaluate"], output_dir=str(tmp_path / "one"), **settings)
    two, one = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("two", "one"))
    assert two == one
    assert one["cases"] == 3
