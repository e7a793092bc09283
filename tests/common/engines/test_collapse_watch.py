"""When a training counts as collapsed: epochs in a row, grace, warning, end, checkpoints, continuation."""

import logging

import pytest
import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn

from common.engines.checkpoints import TrainingCheckpoints
from common.engines.collapse_watch import CollapseWatch
from common.errors import InputError

PSEUDO, PREDICTED = "foreground_unlabeled", "foreground_predicted"


def watched_run(watch, epochs, folder=None, resume=False):
    """Train with given shares of foreground, one list of outputs per epoch; returns epochs that finished."""
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    handlers = [watch]
    if folder is not None:
        evaluator = SupervisedEvaluator("cpu", [None], network)
        files = folder, folder / "state.pt", resume
        handlers.append(
            TrainingCheckpoints(network, optimizer, None, evaluator, *files, partners={"watch": watch})
        )

    def iterate(engine, index):
        return {name: torch.tensor(share) for name, share in epochs[engine.state.epoch - 1][index].items()}

    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=len(epochs),
        train_data_loader=list(range(len(epochs[0]))),
        network=network,
        optimizer=optimizer,
        loss_function=None,
        iteration_update=iterate,
        decollate=False,
        train_handlers=handlers,
    )
    trainer.run()
    return trainer.state.epoch


def shares(*values, name=PSEUDO):
    return [[{name: value}] for value in values]


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("name", [PSEUDO, PREDICTED])
def test_training_ends_after_empty_epochs_in_a_row(name, warnings):
    epochs = shares(0.2, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, name=name)
    assert watched_run(CollapseWatch(patience=3, grace_epochs=0), epochs) == 7
    (message,) = warnings()
    assert message.startswith(f"epoch 7: nothing but background ({name}) for 3 whole epochs; training ends")
    assert all(word in message for word in ("learning_rate", "max_grad_norm", "warm_up_epochs", "bfloat16"))


def test_one_iteration_with_foreground_fills_an_epoch():
    epochs = [[{PSEUDO: 0.0}, {PSEUDO: 0.3}], [{PSEUDO: 0.0}, {PSEUDO: 0.0}], [{PSEUDO: 0.0}, {PSEUDO: 0.3}]]
    watch = CollapseWatch(patience=2, grace_epochs=0)
    assert watched_run(watch, epochs) == 3
    assert watched_run(watch, epochs[:2]) == 2
    assert watch.empty_epochs == 1


def test_either_share_counts_and_both_are_named(warnings):
    both = [[{PSEUDO: 0.4, PREDICTED: 0.0}], [{PSEUDO: 0.0, PREDICTED: 0.0}], [{PSEUDO: 0.4, PREDICTED: 0.4}]]
    assert watched_run(CollapseWatch(patience=2, grace_epochs=0), both) == 2
    assert f"({PSEUDO}, {PREDICTED}) for 2" in warnings()[0]


def test_the_first_epochs_do_not_count(warnings):
    assert watched_run(CollapseWatch(patience=2, grace_epochs=3), shares(0.0, 0.0, 0.0, 0.0, 0.5)) == 5
    assert warnings() == []
    assert watched_run(CollapseWatch(patience=2, grace_epochs=3), shares(*[0.0] * 9)) == 5


def test_single_voxels_are_no_foreground():
    """Ten voxels of a patch of 64 x 128 x 128 are a share of 9.5e-6; eleven are 1.05e-5."""
    patch = 64 * 128 * 128
    for voxels, finished in ((10, 2), (11, 4)):
        watch = CollapseWatch(patience=2, grace_epochs=0)
        assert watched_run(watch, shares(*[voxels / patch] * 4)) == finished


def test_without_patience_it_warns_once_and_goes_on(warnings):
    watch = CollapseWatch(patience=None, grace_epochs=1)
    assert watched_run(watch, shares(0.0, 0.2, 0.0, 0.0, 0.3, 0.0)) == 6
    (message,) = warnings()
    assert message.startswith("epoch 3: nothing but background (foreground_unlabeled) for 1 whole epoch; try")


def test_the_last_epochs_checkpoints_are_written(tmp_path):
    assert watched_run(CollapseWatch(patience=2, grace_epochs=0), shares(*[0.0] * 9), tmp_path) == 2
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 2
    assert (tmp_path / "model.pt").is_file()


def test_a_continued_training_goes_on_counting(tmp_path, warnings):
    watched_run(CollapseWatch(patience=3, grace_epochs=0), shares(0.0, 0.0), tmp_path)
    continued = CollapseWatch(patience=3, grace_epochs=0)
    assert watched_run(continued, shares(*[0.0] * 9), tmp_path, resume=True) == 3
    # It ended there; continued once more, it gets the whole patience again.
    again = CollapseWatch(patience=3, grace_epochs=0)
    assert watched_run(again, shares(*[0.0] * 9), tmp_path, resume=True) == 6
    assert len(warnings()) == 2


def test_a_continued_training_does_not_repeat_its_warning(tmp_path, warnings):
    watched_run(CollapseWatch(None, 0), shares(0.0), tmp_path)
    watched_run(CollapseWatch(None, 0), shares(0.0, 0.0), tmp_path, resume=True)
    assert len(warnings()) == 1


def test_a_training_without_such_shares_is_refused():
    with pytest.raises(InputError, match=r"watched: expected one of foreground_unlabeled.* found loss"):
        watched_run(CollapseWatch(), shares(1.0, name="loss"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": 0}, "patience: expected null or at least 1 epoch, found 0"),
        ({"grace_epochs": -1}, "grace_epochs: expected at least 0, found -1"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        CollapseWatch(**arguments)
