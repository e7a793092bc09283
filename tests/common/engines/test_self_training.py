"""Rounds of self-training: when the teacher is made, what is learned from it, what is logged."""

import copy

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from common.engines.optimizer_steps import scalars
from common.engines.self_training import SelfTrainingStep
from common.errors import InputError
from common.losses.deep_supervision import LabelCrossEntropy


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def batch():
    first, second = torch.randn(2, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return {"labeled": {"image": first, "label": (first > 0.5).float()}, "unlabeled": {"image": second}}


def train(trained, epochs, round_epochs, weight=1.0):
    """Step and output of the last iteration, and the teacher's weights after each epoch."""
    step = SelfTrainingStep(trained, round_epochs, weight)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=[batch()],
        network=trained,
        optimizer=torch.optim.SGD(trained.parameters(), 0.1),
        loss_function=LabelCrossEntropy(),
        iteration_update=step,
        decollate=False,
    )
    teachers = []
    trainer.add_event_handler("EPOCH_COMPLETED", lambda _: teachers.append(step.teacher[0].weight.clone()))
    trainer.run()
    return step, trainer.state.output, teachers


def test_the_teacher_changes_at_the_start_of_each_round_only():
    _, _, teachers = train(network(), epochs=6, round_epochs=2)
    changed = [not torch.equal(a, b) for a, b in zip(teachers, teachers[1:])]
    assert changed == [False, True, False, True, False]  # epochs 3 and 5 start rounds


def test_the_first_round_knows_labels_alone():
    _, output, _ = train(network(), epochs=2, round_epochs=2)
    assert scalars(output).keys() == {"loss", "segmentation_loss"}


def test_losses_of_a_later_round_spelled_out():
    trained = network()
    train(trained, epochs=1, round_epochs=1)
    own, teacher = copy.deepcopy(trained).train(), copy.deepcopy(trained).eval()
    given, loss = batch(), LabelCrossEntropy()
    step = SelfTrainingStep(trained, 1, weight=0.5)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=2,
        train_data_loader=[given],
        network=trained,
        optimizer=torch.optim.SGD(trained.parameters(), 0.0),
        loss_function=loss,
        iteration_update=step,
        decollate=False,
    )
    trainer.run()
    output = trainer.state.output
    own(given["labeled"]["image"])  # the first epoch moves the running statistics, not the weights
    teacher.load_state_dict(own.state_dict())
    classes = teacher(given["unlabeled"]["image"]).argmax(1, keepdim=True)
    labeled = loss(own(given["labeled"]["image"]), given["labeled"]["label"])
    pseudo = loss(own(given["unlabeled"]["image"]), classes)
    assert output["segmentation_loss"] == pytest.approx(labeled.item(), abs=1e-6)
    assert output["pseudo_loss"] == pytest.approx(pseudo.item(), abs=1e-6)
    assert output["loss"] == pytest.approx((labeled + 0.5 * pseudo).item(), abs=1e-6)
    assert output["foreground_unlabeled"] == pytest.approx((classes > 0).float().mean().item())


def test_rounds_have_epochs():
    with pytest.raises(InputError, match="round_epochs: expected at least 1, found 0"):
        SelfTrainingStep(network(), 0)
