import pytest
import torch
from torch import nn

from common.losses.adversarial import discriminator_loss, generator_loss
from common.networks.pixel_discriminator import PixelDiscriminator
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically
from tests.helpers.network_case import NetworkContract
from tests.helpers.reference_dmnet import judge

SMALL = {"widths": (6, 8, 10)}


class TestPixelDiscriminator(NetworkContract):
    shapes = (
        ((2, 2, 32, 48), (2, 1, 32, 48)),
        ((1, 2, 8, 8), (1, 1, 8, 8)),
        ((1, 2, 24, 40), (1, 1, 24, 40)),
    )
    # Kernels 16 (2 x 64 + 64 x 128 + 128 x 256), twice but for 1 in place of 2; biases 64 + 128 + 256 + 128 +
    # 64 + 1. The method page gives 1.31 M. A class more: 16 x 64.
    parameter_counts = (
        ({}, 16 * (3 * 64 + 2 * 64 * 128 + 2 * 128 * 256) + 641),
        ({}, 1_314_433),
        ({"num_classes": 3}, 1_314_433 + 1024),
    )

    def build(self):
        return PixelDiscriminator(**SMALL)

    def build_full_size(self, **arguments):
        return PixelDiscriminator(**arguments)


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_equals_the_network_spelled_out(training):
    network = fill_deterministically(PixelDiscriminator(3, (4, 5, 6))).train(training)
    masks = deterministic_input("masks", (2, 3, 40, 24)).softmax(1)
    expected = judge(network.state_dict(), masks)
    torch.testing.assert_close(network(masks), expected, atol=1e-12, rtol=1e-12)


@torch.no_grad()
def test_numbers_by_hand():
    """One tap each, at the pixel itself: only rows and columns 0, 8, 16 ... get through.

    Convolutions of 2, 2, 2 and transposed ones of 2, 2, -2 with the biases 0, 0, 1: -64 v + 1 there, 1
    elsewhere. That it is negative shows that the last layer has no ReLU. Of a negative map nothing is left.
    """
    network = PixelDiscriminator(1, (1, 1, 1))
    for index in (0, 2, 4, 6, 8, 10):
        network.layers[index].weight.zero_()[..., 1, 1] = -2 if index == 10 else 2
    network.layers[10].bias.fill_(1)
    masks = torch.zeros(1, 1, 16, 24)
    masks[0, 0, 8, 16], masks[0, 0, 8, 8], masks[0, 0, 0, 1] = 0.5, -3, 5
    expected = torch.ones_like(masks)
    expected[0, 0, 8, 16] = -31
    assert torch.equal(network(masks), expected)


def test_answers_of_a_local_change_stay_local():
    """Answers and pixels meet at every eighth place i, which covers 8 i - 7 to 8 i + 14 of both.

    At pixel 48 these are the places 5, which covers 33 to 54, and 6, which covers 41 to 62.
    """
    network = PixelDiscriminator(**SMALL).double()
    masks = torch.rand(1, 2, 96, 96).double()
    other = masks.clone()
    other[..., 48, 48] += 1
    changed = (network(masks) != network(other))[0, 0].nonzero()
    assert changed.amin(0).tolist() == [33, 33]
    assert changed.amax(0).tolist() == [62, 62]


def test_layers_and_their_activations():
    kinds = [type(module) for module in PixelDiscriminator().layers]
    assert kinds == [nn.Conv2d, nn.ReLU] * 3 + [nn.ConvTranspose2d, nn.ReLU] * 2 + [nn.ConvTranspose2d]


def test_the_gradient_reaches_the_masks_and_spares_a_frozen_network():
    network = PixelDiscriminator(**SMALL).requires_grad_(False)
    logits = torch.randn(2, 2, 16, 16, requires_grad=True)
    generator_loss(network(logits.softmax(1))).backward()
    assert logits.grad.any()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_it_learns_to_tell_soft_maps_from_masks():
    network = PixelDiscriminator(**SMALL)
    real = torch.nn.functional.one_hot(torch.randint(0, 2, (4, 16, 16)), 2).movedim(-1, 1).float()
    fake = 0.5 + 0.2 * (real - 0.5)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    costs = []
    for _ in range(40):
        loss = discriminator_loss(network(real), network(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        costs.append(loss.item())
    assert costs[-1] < 0.5 * costs[0]


def test_initial_signals_neither_die_out_nor_explode():
    network = PixelDiscriminator(widths=(32, 64, 128))
    features = torch.randn(4, 2, 64, 64)
    with torch.no_grad():
        for layer in network.layers:
            features = layer(features)
            if not isinstance(layer, nn.ReLU):
                assert 0.4 < features[..., 1:-1, 1:-1].square().mean() / 2 < 2.5
    assert all(not layer.bias.any() for layer in network.layers if hasattr(layer, "bias"))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 16, 20), "masks: expected a height and a width divisible by 8, got 16 x 20"),
        ((1, 2, 12, 16), "divisible by 8, got 12 x 16"),
        ((1, 3, 16, 16), "masks: expected 2 maps, got 3"),
    ],
)
def test_masks_that_do_not_fit_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        PixelDiscriminator(**SMALL)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": ()}, "widths must be positive numbers, at least one"),
        ({"widths": (4, 0)}, r"widths must be positive numbers.*got \(4, 0\)"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PixelDiscriminator(**arguments)
