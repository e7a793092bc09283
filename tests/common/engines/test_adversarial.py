"""One iteration of both players: who learns from what, in which order, and what is logged and saved."""

import copy

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from common.engines.adversarial import AdversarialStep
from common.engines.optimizer_steps import scalars
from common.errors import InputError
from common.losses.adversarial import discriminator_loss, generator_loss
from common.losses.deep_supervision import LabelCrossEntropy
from common.networks.crossdomain_unet import CrossDomainUNet
from common.networks.discriminators import ConditionalDiscriminator

WIDTHS = (2, 3, 4, 4, 4)


def batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(4, 3, 32, 32, generator=generator)
    return {"image": image, "label": (image[:, 1:2] > 0.5).float(), "domain": ["CT", "CT", "MR", "MR"]}


def players(in_channels=5, **arguments):
    torch.manual_seed(1)
    network = CrossDomainUNet(widths=WIDTHS, first_kernel=5, **arguments)
    discriminator = ConditionalDiscriminator(in_channels, 32, widths=(3,) * 5, hidden=4)
    return network, discriminator


def train(network, discriminator=None, iterations=1, rate=0.01, batches=None, **arguments):
    """Run a trainer; returns the last output."""
    own = discriminator is not None
    theirs = torch.optim.SGD(discriminator.parameters(), rate) if own else None
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=batches or [batch()] * iterations,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), rate),
        loss_function=LabelCrossEntropy(),
        iteration_update=AdversarialStep(discriminator, theirs, **arguments),
        decollate=False,
    )
    trainer.run()
    return trainer.state.output


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_both_steps_equal_the_formulas_spelled_out():
    network, discriminator = players()
    own, judge = copy.deepcopy(network).train(), copy.deepcopy(discriminator).train()
    output = train(network, discriminator, weight=0.1)
    given = batch()
    image, label = given["image"], given["label"]
    logits = own(image)
    onehot = torch.cat([1 - label, label], dim=1)
    real, fake = judge(image, onehot), judge(image, logits.softmax(1).detach())
    loss = discriminator_loss(real, fake)
    torch.testing.assert_close(output["discriminator_loss"], loss.detach())
    torch.testing.assert_close(output["real_score"], real.sigmoid().mean().detach())
    torch.testing.assert_close(output["fake_score"], fake.sigmoid().mean().detach())
    loss.backward()
    with torch.no_grad():
        for value in judge.parameters():
            value -= 0.01 * value.grad
        judge.project_slopes()
    misled = generator_loss(judge(image, logits.softmax(1)))
    torch.testing.assert_close(output["generator_loss"], misled.detach())
    total = LabelCrossEntropy()(logits, label) + 0.1 * misled
    torch.testing.assert_close(output["loss"].detach(), total.detach())
    total.backward()
    with torch.no_grad():
        for value in own.parameters():
            value -= 0.01 * value.grad
        own.project_slopes()
    for (name, found), expected in zip(network.named_parameters(), own.parameters()):
        torch.testing.assert_close(found, expected, msg=name)
    for (name, found), expected in zip(discriminator.named_parameters(), judge.parameters()):
        torch.testing.assert_close(found, expected, msg=name)


def test_with_weight_zero_the_network_learns_as_without_discriminator():
    alone, _ = players()
    train(alone, iterations=3)
    beside, discriminator = players()
    before = state(discriminator)
    train(beside, discriminator, iterations=3, weight=0.0)
    assert equal(state(alone), state(beside))
    assert not equal(before, state(discriminator))


def test_the_adversarial_term_reaches_the_network_and_freezes_the_discriminator():
    network, discriminator = players()
    without, _ = players()
    train(network, discriminator, weight=10.0)
    train(without, copy.deepcopy(discriminator), weight=0.0)
    assert not equal(state(network), state(without))
    assert all(value.requires_grad for value in discriminator.parameters())
    # The network's step leaves no gradient on the discriminator beyond that of the discriminator's own step.
    alone = players()[1]
    train(players()[0], alone, weight=0.0)
    first = players()[1]
    train(players()[0], first, weight=10.0)
    for one, other in zip(alone.parameters(), first.parameters()):
        torch.testing.assert_close(one.grad, other.grad)


def test_slopes_stay_in_their_bounds():
    network, discriminator = players()
    train(network, discriminator, iterations=3, rate=5.0)
    for module in (network, discriminator):
        slopes = [value for name, value in module.state_dict().items() if name.endswith("slope")]
        assert slopes
        assert all(s.min() >= 0.01 - 1e-8 and s.max() <= 0.1 + 1e-8 for s in slopes)


def test_losses_are_told_per_domain():
    network, discriminator = players()
    output = train(network, discriminator)
    found = scalars(output)
    assert found.keys() == {
        "loss",
        "segmentation_loss",
        "generator_loss",
        "discriminator_loss",
        "real_score",
        "fake_score",
        "segmentation_loss_CT",
        "segmentation_loss_MR",
    }
    mean = (found["segmentation_loss_CT"] + found["segmentation_loss_MR"]) / 2
    assert mean == pytest.approx(found["segmentation_loss"], abs=1e-6)
    assert scalars([output]) == found


def test_the_discriminator_may_see_the_center_slice_only():
    network, discriminator = players(in_channels=3)
    train(network, discriminator, image="center")
    with pytest.raises(ValueError, match="expected 3 channels together, got 5"):
        train(network, discriminator, image="stack")


def test_a_classifier_of_the_modality_learns_from_the_domains():
    network, discriminator = players(conditional=True)
    before = state(network.modality)
    train(network, discriminator, modality_weight=1.0, domains=["CT", "MR"], rate=0.5)
    with_term = state(network.modality)
    network, discriminator = players(conditional=True)
    train(network, discriminator, rate=0.5)
    assert not equal(before, with_term)
    assert not equal(with_term, state(network.modality))
    with pytest.raises(InputError, match="domain: expected one of CT, found MR"):
        train(network, discriminator, modality_weight=1.0, domains=["CT"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "wgan"}, "form: expected one of bce"),
        ({"image": "all"}, "image: expected one of stack, center"),
        ({"modality_weight": 1.0}, "domains: expected the classes"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        AdversarialStep(None, None, **arguments)
    with pytest.raises(InputError, match="expected both or neither"):
        AdversarialStep(nn.Identity(), None)
