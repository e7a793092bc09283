"""Labeled and unlabeled steps of both players: who learns from what, what is logged."""

import copy

import pytest
import torch
from monai.engines import SupervisedTrainer
from monai.networks.utils import one_hot
from torch import nn

from common.engines.agreement_step import AgreementStep
from common.engines.optimizer_steps import scalars
from common.errors import InputError
from common.losses.adversarial import fake_loss, generator_loss, real_loss
from common.losses.agreement import BranchDiceLoss, SharpenedAgreementLoss, sharpened
from common.networks.pixel_discriminator import PixelDiscriminator


class TwoHeads(nn.Module):
    """The smallest network with two branches."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 3, 3, padding=1)
        self.heads = nn.ModuleList([nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 3, padding=1)])

    def forward(self, image):
        return torch.stack([head(self.body(image).relu()) for head in self.heads], dim=1)


def players():
    torch.manual_seed(1)
    return TwoHeads(), PixelDiscriminator(2, widths=(3, 4, 5))


def batch(with_unlabeled=True):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 2, 1, 16, 16, generator=generator)
    found = {"labeled": {"image": first, "label": (first > 0.5).float()}}
    return found | ({"unlabeled": {"image": second}} if with_unlabeled else {})


def train(network, discriminator=None, given=None, rate=0.1, **arguments):
    """One iteration; returns its output."""
    theirs = None if discriminator is None else torch.optim.SGD(discriminator.parameters(), rate)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[given or batch()],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), rate),
        loss_function=BranchDiceLoss(),
        iteration_update=AgreementStep(discriminator, theirs, **arguments),
        decollate=False,
    )
    trainer.run()
    return trainer.state.output


def descend(module, loss, rate=0.1):
    module.zero_grad()
    loss.backward()
    with torch.no_grad():
        for value in module.parameters():
            value -= rate * value.grad


def same(first, second):
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first.parameters(), second.parameters()))


def test_four_steps_equal_the_formulas_spelled_out():
    network, discriminator = players()
    own, judge = copy.deepcopy(network), copy.deepcopy(discriminator)
    output = train(network, discriminator)
    given = batch()
    image, label = given["labeled"]["image"], given["labeled"]["label"]
    logits = own(image)
    fakes = [logits[:, i].softmax(1) for i in range(2)]
    misled = sum(generator_loss(judge(fake)) for fake in fakes)
    assert output["generator_loss_labeled"] == pytest.approx(misled.item(), abs=1e-6)
    dice = BranchDiceLoss()(logits, label)
    assert output["segmentation_loss"] == pytest.approx(dice.item(), abs=1e-6)
    descend(own, dice + 0.01 * misled)
    judged = real_loss(judge(one_hot(label, 2))) + sum(fake_loss(judge(fake.detach())) for fake in fakes)
    assert output["discriminator_loss_labeled"] == pytest.approx(judged.item(), abs=1e-6)
    descend(judge, judged)
    logits = own(given["unlabeled"]["image"])
    fakes = [(2 * logits[:, i]).softmax(1) for i in range(2)]
    misled = sum(generator_loss(judge(fake)) for fake in fakes)
    disagreement = SharpenedAgreementLoss()(logits)
    assert output["agreement_loss"] == pytest.approx(disagreement.item(), abs=1e-6)
    descend(own, 0.1 * disagreement + 0.01 * misled)
    descend(judge, sum(fake_loss(judge(fake.detach())) for fake in fakes))
    assert same(network, own)
    assert same(discriminator, judge)


def test_the_network_learns_nothing_from_the_discriminators_step_nor_the_reverse():
    network, discriminator = players()
    alone, judge = copy.deepcopy(network), copy.deepcopy(discriminator)
    train(network, discriminator, adv_weight=0.0)
    train(alone)
    assert same(network, alone)
    assert not same(discriminator, judge)
    assert all(value.requires_grad for value in discriminator.parameters())


def test_both_branches_learn_from_the_disagreement():
    network, _ = players()
    before = copy.deepcopy(network)
    supervised = copy.deepcopy(network)
    train(network, agreement_weight=10.0)
    train(supervised, given=batch(with_unlabeled=False))
    for with_it, without, start in zip(network.heads, supervised.heads, before.heads):
        assert not torch.allclose(with_it.weight, without.weight)
        assert not torch.allclose(without.weight, start.weight)


def test_without_unlabeled_images_and_discriminator_it_is_plain_training():
    network, _ = players()
    own = copy.deepcopy(network)
    output = train(network, given=batch(with_unlabeled=False))
    given = batch()["labeled"]
    descend(own, BranchDiceLoss()(own(given["image"]), given["label"]))
    assert same(network, own)
    assert scalars(output).keys() == {"loss", "segmentation_loss", "foreground_labeled"}


def test_sharpening_can_be_kept_from_the_discriminator():
    first, second = (players() for _ in range(2))
    shown = train(*first, adv_on_sharpened=True)
    plain = train(*second, adv_on_sharpened=False)
    assert shown["generator_loss_unlabeled"] != plain["generator_loss_unlabeled"]
    assert shown["generator_loss_labeled"] == plain["generator_loss_labeled"]


def test_a_collapse_to_background_is_seen():
    network, _ = players()
    with torch.no_grad():
        for head in network.heads:
            head.weight.zero_()
            head.bias.copy_(torch.tensor([9.0, -9.0]))
    output = train(network, rate=0.0)
    assert output["foreground_unlabeled"] == 0
    assert output["foreground_labeled"] > 0.2
    assert output["agreement_loss"] == pytest.approx(0.5, abs=1e-3)


def test_temperature_is_that_of_the_agreement():
    network, discriminator = players()
    logits = network(batch()["unlabeled"]["image"])
    for loss, temperature in [
        (SharpenedAgreementLoss(0.25), 0.25),
        (SharpenedAgreementLoss(sharpen=False), 1),
    ]:
        own = copy.deepcopy(network)
        output = train(own, copy.deepcopy(discriminator), rate=0.0, agreement=loss)
        masks = sharpened(logits, temperature).unbind(1)
        expected = sum(generator_loss(discriminator(mask)) for mask in masks)
        assert output["generator_loss_unlabeled"] == pytest.approx(expected.item(), abs=1e-6)


def test_one_player_alone_is_refused():
    with pytest.raises(InputError, match="expected both or neither"):
        AgreementStep(nn.Identity(), None)
