"""Stages of a first case: all accounted for, none twice."""

import json

import pytest
import torch
from torch import nn

from benchmarks import cold_start
from benchmarks.cold_start import STAGES, prepare, stage_rows, stages
from common.engines.weights import WeightsLoader


def test_rows_by_hand():
    """Two processes of 8 s and 12 s: together 10 s in the median; the network 3 s, which is 30 %."""
    quick, slow = [0.5] * 7 + [4.5], [1.5] * 7 + [1.5]
    rows = stage_rows([quick, slow])
    assert [row[0] for row in rows] == [*STAGES, "together"]
    assert rows[-2:] == [
        ["network on the case", "3.00", "4.50", "30 %"],
        ["together", "10.00", "12.00", "100 %"],
    ]


def test_passes_of_the_network_are_timed_by_themselves(monkeypatch):
    clock_s = iter([1.0, 3.0, 10.0, 10.5])
    monkeypatch.setattr(cold_start.time, "process_time", lambda: next(clock_s))
    network = nn.Linear(1, 1)
    spent = cold_start._watched(network)
    for _ in range(2):
        network(torch.zeros(1, 1))
    assert spent == [2.0, 0.5]


@pytest.mark.bundle
def test_stages_of_a_case(tmp_path, capsys, monkeypatch):
    # Stays as it is, whatever the stages set.
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(WeightsLoader, "_start", WeightsLoader._start)
    prepare(tmp_path, (16, 16, 16), "preset_laptop.json")
    stages(str(tmp_path))
    taken = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert len(taken) == len(STAGES)
    assert all(value >= 0 for value in taken)
    assert min(taken[-2:]) > 0
    assert (tmp_path / "output" / "case_seg.nii.gz").is_file()


@pytest.mark.slow
def test_fresh_processes():
    text = cold_start.cold_start((16, 16, 16), repeats=1)
    assert "16 x 16 x 16 voxels, kcbac_mmwhs, preset_laptop.json, 1 fresh processes" in text
    assert all(f"| {stage} |" in text for stage in STAGES)
