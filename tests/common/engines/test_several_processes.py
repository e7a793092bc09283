"""Handlers in two processes: rank 0 writes, nobody waits for ever, no trace of the wrapper."""

import pytest
import torch
import torch.multiprocessing

from common.engines.weights import load_weights
from tests.helpers.parallel_training import train_and_list_files
from tests.helpers.tiny_training import tiny_network


@pytest.mark.slow
def test_cut_and_resumed_parallel_run_equals_an_uninterrupted_one(tmp_path):
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    for folder, runs in {
        whole: [{"max_epochs": 2}],
        halved: [{"max_epochs": 2, "cut_off_at": 3}, {"max_epochs": 2, "resume": True}],
    }.items():
        folder.mkdir()
        torch.multiprocessing.spawn(train_and_list_files, (folder, runs), nprocs=2)
    weights = (whole / "models" / "model.pt").read_bytes()
    assert (halved / "models" / "model.pt").read_bytes() == weights
    load_weights(tiny_network(), whole / "models" / "model.pt")
    assert "wrote 2 file(s):\n  case_0.nii.gz\n  case_1.nii.gz\n" in (whole / "rank_0.log").read_text()
    assert "wrote" not in (whole / "rank_1.log").read_text()
