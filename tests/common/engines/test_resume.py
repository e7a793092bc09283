"""Runs that are cut off and continued."""

import logging
import os

import pytest
import torch
from ignite.engine import Events
from torch import nn
from torch.optim.lr_scheduler import PolynomialLR

from common.errors import InputError
from tests.helpers.tiny_training import tiny_run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = tiny_run(tmp_path_factory.mktemp("uninterrupted"))
    run.trainer.run()
    return run


def load(file):
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("iteration", [4, 5, 6, 9])
def test_cut_off_and_resumed_run_ends_with_identical_weights(uninterrupted, tmp_path, iteration):
    cut_off = tiny_run(tmp_path)
    cut_off.cut_off_at(iteration)
    with pytest.raises(KeyboardInterrupt):
        cut_off.trainer.run()
    resumed = tiny_run(tmp_path, resume=True)
    resumed.trainer.run()
    assert resumed.trainer.state.iteration == 9
    assert resumed.model.read_bytes() == uninterrupted.model.read_bytes()
    assert resumed.best.read_bytes() == uninterrupted.best.read_bytes()


def test_run_cut_off_between_its_files_is_repaired_by_resuming(uninterrupted, tmp_path, monkeypatch):
    cut_off = tiny_run(tmp_path)
    replace = os.replace
    writes = []

    def die_before_second_state(source, target):
        writes.append(target)
        if str(target).endswith("state.pt") and sum(str(file).endswith("state.pt") for file in writes) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", die_before_second_state)
    with pytest.raises(KeyboardInterrupt):
        cut_off.trainer.run()
    monkeypatch.undo()
    assert load(cut_off.state)["trainer"]["iteration"] == 3
    tiny_run(tmp_path, resume=True).trainer.run()
    assert cut_off.model.read_bytes() == uninterrupted.model.read_bytes()


def test_resuming_with_loader_workers_repeats_the_epoch(tmp_path):
    whole = tiny_run(tmp_path / "whole", max_epochs=2, num_workers=2)
    whole.trainer.run()
    cut_off = tiny_run(tmp_path / "cut", max_epochs=2, num_workers=2)
    cut_off.cut_off_at(5)
    with pytest.raises(KeyboardInterrupt):
        cut_off.trainer.run()
    tiny_run(tmp_path / "cut", max_epochs=2, num_workers=2, resume=True).trainer.run()
    assert cut_off.model.read_bytes() == whole.model.read_bytes()


def test_resumed_run_remembers_the_best(tmp_path):
    first = tiny_run(tmp_path, max_epochs=1)
    first.set_validation_scores([0.9])
    first.trainer.run()
    best = first.best.read_bytes()
    second = tiny_run(tmp_path, max_epochs=2, resume=True)
    second.set_validation_scores([0.8])
    second.trainer.run()
    assert second.best.read_bytes() == best
    assert second.evaluator.state.best_metric == 0.9
    assert second.evaluator.state.best_metric_epoch == 1


def test_longer_run_follows_its_own_schedule(tmp_path):
    tiny_run(tmp_path, max_epochs=1).trainer.run()
    longer = tiny_run(tmp_path, max_epochs=2, resume=True)
    rates = []
    longer.trainer.add_event_handler(
        Events.ITERATION_STARTED, lambda: rates.append(longer.optimizer.param_groups[0]["lr"])
    )
    longer.trainer.run()
    # After 3 of 6 steps the polynomial 0.01 * (1 - 3/6)**0.9 is at 0.0053589; the saved rate was 0.
    assert rates[0] == pytest.approx(0.0053589, abs=1e-7)
    parameter = nn.Parameter(torch.zeros(1))
    oracle = PolynomialLR(torch.optim.SGD([parameter], 0.01), total_iters=6, power=0.9)
    expected = []
    for _ in range(6):
        expected.append(oracle.get_last_lr()[0])
        oracle.optimizer.step()
        oracle.step()
    assert rates == pytest.approx(expected[3:])


def test_starting_anew_over_an_old_run_is_announced(uninterrupted, tmp_path, caplog):
    tiny_run(tmp_path, max_epochs=1).trainer.run()
    with caplog.at_level(logging.INFO):
        tiny_run(tmp_path, max_epochs=1).trainer.run()
    assert "`--resume True` would have continued" in caplog.text


def test_gradient_scaler_is_saved_and_restored(tmp_path):
    class Scaler:
        scale = 1024.0

        def state_dict(self):
            return {"scale": self.scale}

        def load_state_dict(self, state):
            self.scale = state["scale"]

    def with_scaler(run, scaler):
        # trainer.run() sets up the scaler just before this event; the first handler comes before loading
        handlers = run.trainer._event_handlers[Events.STARTED]
        run.trainer.add_event_handler(Events.STARTED, lambda: setattr(run.trainer, "scaler", scaler))
        handlers.insert(0, handlers.pop())
        return run

    saved = Scaler()
    saved.scale = 32.0
    with_scaler(tiny_run(tmp_path, max_epochs=1), saved).trainer.run()
    restored = Scaler()
    with_scaler(tiny_run(tmp_path, max_epochs=2, resume=True), restored).trainer.run()
    assert restored.scale == 32.0


def test_second_run_of_the_same_trainer_goes_on(tmp_path):
    tiny_run(tmp_path, max_epochs=1).trainer.run()
    resumed = tiny_run(tmp_path, max_epochs=2, resume=True)
    resumed.trainer.run()
    resumed.trainer.state.max_epochs = 3
    resumed.trainer.run()
    assert load(resumed.state)["trainer"]["iteration"] == 9


def test_resuming_without_state_says_so(tmp_path):
    with pytest.raises(
        InputError, match=r"state\.pt: expected the state of an interrupted run, found no file"
    ):
        tiny_run(tmp_path, resume=True).trainer.run()


def test_resuming_from_another_kind_of_file_says_so(uninterrupted, tmp_path):
    run = tiny_run(tmp_path, resume=True)
    run.state.parent.mkdir()
    run.state.write_bytes(uninterrupted.model.read_bytes())
    with pytest.raises(InputError, match="found no 'network'"):
        run.trainer.run()
    run = tiny_run(tmp_path, resume=True)
    run.state.write_bytes(uninterrupted.state.read_bytes()[:-400])
    with pytest.raises(InputError, match="damaged"):
        run.trainer.run()


def test_resuming_with_another_network_says_so(tmp_path):
    tiny_run(tmp_path, max_epochs=1).trainer.run()
    with pytest.raises(
        InputError, match=r"of another shape: 0\.weight \(expected \[4, 1, 3, 3\], found \[3, 1, 3, 3\]\)"
    ):
        tiny_run(tmp_path, width=4, resume=True).trainer.run()


def test_resuming_with_another_optimizer_says_so(tmp_path):
    tiny_run(tmp_path, max_epochs=1).trainer.run()
    other = tiny_run(tmp_path, max_epochs=2, resume=True)
    other.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(InputError, match="another optimizer or schedule"):
        other.trainer.run()


def test_resuming_with_another_schedule_says_so(tmp_path):
    tiny_run(tmp_path, max_epochs=1).trainer.run()
    file = tmp_path / "run" / "state.pt"
    state = load(file)
    del state["lr_scheduler"]["last_epoch"]
    state["lr_scheduler"]["_schedulers"] = []
    torch.save(state, file)
    with pytest.raises(InputError, match="another optimizer or schedule"):
        tiny_run(tmp_path, max_epochs=2, resume=True).trainer.run()


def test_resuming_a_finished_run_says_so(tmp_path):
    tiny_run(tmp_path, max_epochs=1).trainer.run()
    with pytest.raises(InputError, match="expected fewer than 1 finished epochs, found 1; raise max_epochs"):
        tiny_run(tmp_path, max_epochs=1, resume=True).trainer.run()


def test_resuming_with_other_epochs_says_so(tmp_path):
    tiny_run(tmp_path, max_epochs=1).trainer.run()
    other = tiny_run(tmp_path, max_epochs=2, resume=True)
    other.trainer.state.epoch_length = 2
    with pytest.raises(InputError, match="expected 2 batches per epoch as in this run, found 3"):
        other.trainer.run()
