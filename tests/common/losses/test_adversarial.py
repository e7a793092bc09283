"""Adversarial losses: numbers by hand, other implementations, and where their gradients go."""

import math

import pytest
import torch
from monai.losses import PatchAdversarialLoss

from common.losses.adversarial import FORMS, discriminator_loss, fake_loss, generator_loss, real_loss
from common.networks.crossdomain_unet import CrossDomainUNet
from common.networks.discriminators import ConditionalDiscriminator


def column(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1)


@pytest.mark.parametrize(
    ("form", "real", "fake", "discriminator", "generator"),
    [
        # Probabilities 1/2 for real and 3/4 for fake: log 2 + log 4, and log 4/3.
        ("bce", 0, math.log(3), math.log(8), math.log(4 / 3)),
        # As printed, low is real: 1/2 + (1 - 3/4), and 3/4.
        ("literal_sigmoid", 0, math.log(3), 0.75, 0.75),
        # (3 - 1)^2 + (-2)^2, and (-2 - 1)^2.
        ("lsgan", 3, -2, 8, 9),
    ],
)
def test_numbers_by_hand(form, real, fake, discriminator, generator):
    real, fake = column(real), column(fake)
    assert discriminator_loss(real, fake, form).item() == pytest.approx(discriminator)
    assert generator_loss(fake, form).item() == pytest.approx(generator)


def test_cross_entropy_is_the_default():
    real, fake = torch.randn(2, 3, 1)
    assert discriminator_loss(real, fake) == discriminator_loss(real, fake, "bce")
    assert generator_loss(fake) == generator_loss(fake, "bce")


@pytest.mark.parametrize("shapes", [((4, 1), (4, 1)), ((2, 1, 3, 5), (6, 1, 3, 5))])
@pytest.mark.parametrize(("form", "criterion"), [("bce", "bce"), ("lsgan", "least_squares")])
def test_equals_the_losses_of_monai(shapes, form, criterion):
    real, fake = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    other = PatchAdversarialLoss(criterion=criterion, no_activation_leastsq=True)
    expected = other(real, target_is_real=True, for_discriminator=True)
    torch.testing.assert_close(real_loss(real, form), expected)
    expected = expected + other(fake, target_is_real=False, for_discriminator=True)
    torch.testing.assert_close(discriminator_loss(real, fake, form), expected)
    expected = other(fake, target_is_real=True, for_discriminator=False)
    torch.testing.assert_close(generator_loss(fake, form), expected)


def test_the_printed_form_equals_a_loop():
    real, fake = torch.randn(2, 2, 1, 3, 4, dtype=torch.float64)
    judged = [[1 / (1 + math.exp(-v)) for v in logits.flatten().tolist()] for logits in (real, fake)]
    expected = sum(judged[0]) / 24 + sum(1 - v for v in judged[1]) / 24
    assert discriminator_loss(real, fake, "literal_sigmoid").item() == pytest.approx(expected)
    assert generator_loss(fake, "literal_sigmoid").item() == pytest.approx(sum(judged[1]) / 24)


@pytest.mark.parametrize("form", FORMS)
def test_a_map_of_answers_counts_every_pixel_alike(form):
    real, fake = torch.randn(2, 1, 2, 2), torch.randn(4, 1, 3, 3)
    flat = discriminator_loss(real.reshape(-1, 1), fake.reshape(-1, 1), form)
    torch.testing.assert_close(discriminator_loss(real, fake, form), flat)
    torch.testing.assert_close(fake_loss(fake, form), flat - real_loss(real, form))


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_the_formulas(form):
    real, fake = (torch.randn(3, 1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: discriminator_loss(a, b, form), (real, fake))
    assert torch.autograd.gradcheck(lambda b: generator_loss(b, form), (fake,))


@pytest.mark.parametrize("form", FORMS)
def test_both_players_want_the_opposite_of_fakes(form):
    fake = column(0.2).requires_grad_()
    slopes = [torch.autograd.grad(loss(fake, form), fake)[0].item() for loss in (fake_loss, generator_loss)]
    assert slopes[0] * slopes[1] < 0


def test_only_the_printed_form_loses_its_gradient_to_a_sure_discriminator():
    slopes = {}
    for form, sure_fake in (("bce", -30.0), ("literal_sigmoid", 30.0)):
        fake = column(sure_fake).requires_grad_()
        slopes[form] = torch.autograd.grad(generator_loss(fake, form), fake)[0].item()
    assert slopes["bce"] == pytest.approx(-1)
    assert abs(slopes["literal_sigmoid"]) < 1e-12


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_and_half_precision_answers_stay_finite(form, dtype):
    extreme = torch.tensor([[-3e4], [3e4]], dtype=dtype)
    loss = discriminator_loss(extreme, extreme, form) + generator_loss(extreme, form)
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    assert loss >= 0


def players():
    segmenter = CrossDomainUNet(widths=(2, 3, 4, 5, 6)).train()
    discriminator = ConditionalDiscriminator(5, 32, widths=(2,) * 5, hidden=4).train()
    return segmenter, discriminator, torch.rand(2, 3, 32, 32)


@pytest.mark.parametrize("form", FORMS)
def test_the_generator_step_reaches_the_segmenter_and_leaves_the_discriminator(form):
    segmenter, discriminator, image = players()
    discriminator.requires_grad_(False)
    generator_loss(discriminator(image, segmenter(image).softmax(1)), form).backward()
    assert segmenter.head.weight.grad.norm() > 0
    assert segmenter.encoder[0].conv.weight.grad.norm() > 0
    assert all(parameter.grad is None for parameter in discriminator.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_the_discriminator_step_leaves_the_segmenter(form):
    segmenter, discriminator, image = players()
    fake = segmenter(image).softmax(1).detach()
    real = torch.nn.functional.one_hot(fake.argmax(1), 2).movedim(-1, 1).float()
    discriminator_loss(discriminator(image, real), discriminator(image, fake), form).backward()
    assert all(parameter.grad is None for parameter in segmenter.parameters())
    assert discriminator.features[0].conv.weight.grad.norm() > 0


def test_class_maps_turn_the_term_off():
    segmenter, discriminator, image = players()
    discriminator.requires_grad_(False)
    maps = torch.nn.functional.one_hot(segmenter(image).argmax(1), 2).movedim(-1, 1).float()
    assert not generator_loss(discriminator(image, maps)).requires_grad


@pytest.mark.parametrize("loss", [real_loss, fake_loss, generator_loss])
def test_what_cannot_be_judged_is_refused(loss):
    with pytest.raises(ValueError, match="form must be one of .*'bce'.*, got 'wgan'"):
        loss(column(0), "wgan")
    with pytest.raises(ValueError, match=r"_logits: expected at least one element, got the shape \(0, 1\)"):
        loss(torch.zeros(0, 1))
