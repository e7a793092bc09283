"""Weight files that a run leaves behind."""

import errno
import os
import resource

import pytest
import torch
from ignite.engine import Events
from torch import nn

from common.engines.weights import load_weights
from common.errors import InputError
from tests.helpers.tiny_training import tiny_network, tiny_run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = tiny_run(tmp_path_factory.mktemp("uninterrupted"))
    run.trainer.run()
    return run


def load(file):
    return torch.load(file, weights_only=True)


def test_files_of_a_run_load_without_unpickling_objects(uninterrupted):
    assert load(uninterrupted.model).keys() == uninterrupted.network.state_dict().keys()
    assert load(uninterrupted.best).keys() == uninterrupted.network.state_dict().keys()
    state = load(uninterrupted.state)
    assert state["trainer"]["iteration"] == 9  # 3 epochs of 6 cases in batches of 2
    assert state["lr_scheduler"]["last_epoch"] == 9
    assert sorted(path.name for path in uninterrupted.folder.rglob("*.pt*")) == [
        "model.pt",
        "model_best.pt",
        "state.pt",
    ]


def test_two_runs_write_identical_weights(uninterrupted, tmp_path):
    again = tiny_run(tmp_path)
    again.trainer.run()
    assert again.model.read_bytes() == uninterrupted.model.read_bytes()
    assert again.best.read_bytes() == uninterrupted.best.read_bytes()


def test_best_weights_are_those_of_the_best_validation(tmp_path):
    run = tiny_run(tmp_path, max_epochs=4)
    run.set_validation_scores([float("nan"), 0.5, 0.4, 0.5])
    after_epoch = []
    run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: after_epoch.append(run.network[0].weight.detach().clone())
    )
    run.trainer.run()
    assert torch.equal(load(run.best)["0.weight"], after_epoch[1])
    assert torch.equal(load(run.model)["0.weight"], after_epoch[3])
    assert load(run.state)["best"] == {"metric": 0.5, "epoch": 2}


def test_epoch_without_validation_is_never_the_best(tmp_path):
    run = tiny_run(tmp_path, max_epochs=3, val_interval=2)
    run.trainer.run()
    assert load(run.state)["best"]["epoch"] == 2


def test_save_interval_skips_epochs_but_not_the_last(tmp_path):
    run = tiny_run(tmp_path, max_epochs=3, val_interval=9, save_interval=2)
    saved = []
    run.trainer.add_event_handler(
        Events.EPOCH_STARTED,
        lambda: saved.append(load(run.state)["trainer"]["iteration"] if run.state.exists() else 0),
    )
    run.trainer.run()
    assert saved == [0, 0, 6]
    assert load(run.state)["trainer"]["iteration"] == 9
    assert not run.best.exists()


@pytest.fixture
def tiny_disk():
    """Files cannot grow beyond 4 KiB: a real failure of writing, in the middle of a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("width", [3, 500])  # fails in flush, fails inside torch.save
def test_full_disk_damages_nothing(tmp_path, tiny_disk, width):
    run = tiny_run(tmp_path, max_epochs=2, width=width)
    run.trainer.add_event_handler(Events.EPOCH_STARTED(once=2), tiny_disk)
    before = {}
    run.trainer.add_event_handler(
        Events.EPOCH_STARTED(once=2),
        lambda: before.update({file: file.read_bytes() for file in (run.model, run.best, run.state)}),
    )
    with pytest.raises(InputError, match=r"\.pt: cannot be written .* free"):
        run.trainer.run()
    assert before[run.state] == run.state.read_bytes()
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(before)


def test_failing_flush_is_reported_with_the_file(tmp_path, monkeypatch):
    run = tiny_run(tmp_path, max_epochs=1)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"model\.pt: cannot be written \(No space left on device\)"):
        run.trainer.run()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_other_errors_of_torch_keep_their_type(tmp_path, monkeypatch):
    run = tiny_run(tmp_path, max_epochs=1)

    def fail(*_):
        raise RuntimeError("not about the disk")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="not about the disk"):
        run.trainer.run()


def test_parallel_wrapper_leaves_no_prefix(tmp_path):
    run = tiny_run(tmp_path, max_epochs=1)
    run.checkpoints.network = nn.DataParallel(run.network)
    run.trainer.run()
    load_weights(tiny_network(), run.model)
    assert "0.weight" in load(run.model)
    assert "0.weight" in load(run.state)["network"]
