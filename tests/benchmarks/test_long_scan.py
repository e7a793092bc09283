"""Ways to labels of a long scan: each in its own process, same labels, memory counted from the image."""

from concurrent.futures.process import BrokenProcessPool

import fire
import numpy as np
import pytest
import torch

from benchmarks import long_scan
from benchmarks.long_scan import (
    WAYS,
    Outcome,
    Scan,
    agreement,
    in_own_process,
    run_way,
    small_network,
    table,
)

SCAN = Scan((24, 24, 40), 3, (16, 16, 16), 0.5, "gaussian", 1)


def test_table_derived_by_hand():
    """2 s are half of 4 s; a way that was ended, or has no labels, has no numbers."""
    outcomes = {"a": Outcome(4.0, 5.0, 15_000_000_000), "b": Outcome(2.0, 3.0, 1_500_000_000), "c": None}
    lines = table(outcomes, {"a": 1.0, "b": 0.9999985}).splitlines()
    assert lines[0].startswith(
        "| way | processor, s | wall, s | share of the first | peak above the image, GB |"
    )
    assert lines[2:4] == [
        "| a | 4.0 | 5.0 | 1.00 | 15.00 | 1.000000 |",
        "| b | 2.0 | 3.0 | 0.50 | 1.50 | 0.999999 |",
    ]
    assert lines[4].count("ended by the system") == 5
    assert table({"a": None, "b": Outcome(2.0, 3.0, 10**9)}, {}).splitlines()[3].endswith("| - | 1.00 | - |")


def test_ways_have_the_same_labels(tmp_path):
    files = [tmp_path / f"{number}.npy" for number in range(3)]
    for title, path in zip(WAYS, files):
        outcome = run_way(title, SCAN, path)
        assert outcome.wall_s > 0
        assert outcome.processor_s > 0
    assert [path.exists() for path in files] == [True, True, False]
    assert np.load(files[0]).shape == SCAN.size
    assert sorted(np.unique(np.load(files[0]))) == [0, 1, 2]
    assert agreement(files[0], files[1]) == 1


def test_memory_is_counted_from_the_image(tmp_path, monkeypatch):
    """A way that fills 50 MB above an image of 64 MB, which is not counted."""
    scan = SCAN._replace(size=(250, 250, 256))

    def fills(*_):
        torch.ones(50_000_000, dtype=torch.uint8)

    monkeypatch.setitem(WAYS, "fills", fills)
    assert run_way("fills", scan, tmp_path / "a.npy").peak_bytes == pytest.approx(50e6, abs=10e6)


@pytest.mark.slow
def test_a_process_of_its_own(tmp_path):
    outcome = in_own_process("LabelInferer", SCAN, tmp_path / "a.npy")
    assert outcome.peak_bytes > 0
    assert np.load(tmp_path / "a.npy").shape == SCAN.size


def test_a_process_that_was_ended_has_no_outcome(tmp_path, monkeypatch):
    def ended(*_):
        raise BrokenProcessPool("terminated abruptly")

    monkeypatch.setattr(long_scan.ProcessPoolExecutor, "submit", ended)
    assert in_own_process("LabelInferer", SCAN, tmp_path / "a.npy") is None


def test_agreement_by_hand(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0, 1], [2, 3]]))
    np.save(tmp_path / "b.npy", np.array([[0, 1], [2, 0]]))
    assert agreement(tmp_path / "a.npy", tmp_path / "b.npy") == 0.75


def test_network_keeps_the_size_and_is_always_the_same():
    first, second = (small_network(3) for _ in range(2))
    image = torch.randn(1, 1, 8, 8, 8)
    assert first(image).shape == (1, 3, 8, 8, 8)
    assert torch.equal(first(image), second(image))


def test_command_line_prints_the_machine_and_a_table(monkeypatch, capsys):
    monkeypatch.setattr(long_scan, "in_own_process", run_way)
    arguments = ["--size", "16,16,24", "--classes", "3", "--roi_size", "8", "--overlap", "0.25"]
    fire.Fire(long_scan.long_scan, arguments)
    printed = capsys.readouterr().out
    assert f"1 thread(s), PyTorch {torch.__version__}" in printed
    assert "16 x 16 x 24 voxels, 3 classes, windows of 8 x 8 x 8, overlap 0.25, gaussian" in printed
    assert all(f"| {title} |" in printed for title in WAYS)
    assert printed.count("| 1.000000 |") == 2
