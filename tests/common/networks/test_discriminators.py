import pytest
import torch
from torch import nn

from common.networks.blocks.bounded_prelu import BoundedPReLU
from common.networks.discriminators import ConditionalDiscriminator
from tests.helpers.network_case import NetworkContract
from tests.helpers.reference_crossdomain import ReferenceCrossDomain, randomize

SMALL = {"in_channels": 5, "image_size": (32, 64), "widths": (4, 4, 4, 4, 6), "hidden": 8}


class OneInput(nn.Module):
    """The discriminator with image and masks in one tensor, as the contract of networks gives it."""

    def __init__(self, **arguments):
        super().__init__()
        self.discriminator = ConditionalDiscriminator(**arguments)

    def forward(self, pair):
        return self.discriminator(pair[:, :3], pair[:, 3:])


class TestConditionalDiscriminator(NetworkContract):
    shapes = (((1, 5, 32, 64), (1, 1)), ((3, 5, 32, 64), (3, 1)))
    # The method page derives 632,097. A channel more: 25 x 32. 128 pixels: 48 of 64 places less, each with
    # 32 x 256 weights. Four widths: 25 x 32 x 32 + 32 + 3 x 32 less, 256 places instead of 64.
    parameter_counts = (
        ({"in_channels": 5}, 632_097),
        ({"in_channels": 4}, 632_097 - 800),
        ({"in_channels": 5, "image_size": 128}, 632_097 - 48 * 32 * 256),
        ({"in_channels": 5, "image_size": (128, 512)}, 632_097),
        ({"in_channels": 5, "widths": (32,) * 4}, 632_097 - 25_728 + 192 * 32 * 256),
        ({"in_channels": 5, "hidden": 255}, 632_097 - 2048 - 3),
    )

    def build(self):
        return OneInput(**SMALL)

    def build_full_size(self, **arguments):
        return ConditionalDiscriminator(**arguments)


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_equals_the_network_spelled_out(training):
    network = randomize(ConditionalDiscriminator(**SMALL)).train(training)
    reference = ReferenceCrossDomain(network.state_dict(), training=training)
    image, masks = torch.rand(3, 3, 32, 64).double(), torch.rand(3, 2, 32, 64).double()
    torch.testing.assert_close(network(image, masks), reference.judge(image, masks), atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_numbers_by_hand():
    """All maps become their shift, 1: 6 x 1 x 2 places times 0.5 + 1 = 7, twice times 2 - 3 = 25."""
    network = ConditionalDiscriminator(**{**SMALL, "hidden": 2}).eval()
    for layer in network.features:
        layer.conv.weight.zero_()
        layer.norm.bias.fill_(1)
    for index, weight, bias in ((1, 0.5, 1), (3, 2, -3)):
        network.judge[index].weight.fill_(weight)
        network.judge[index].bias.fill_(bias)
    assert network(torch.rand(1, 3, 32, 64), torch.rand(1, 2, 32, 64)).item() == 25


@torch.no_grad()
def test_separate_batches_have_their_own_statistics():
    network = randomize(ConditionalDiscriminator(**SMALL)).train()
    image = torch.rand(2, 3, 32, 64).double()
    real, fake = torch.ones(2, 2, 32, 64).double(), torch.rand(2, 2, 32, 64).double()
    together = network(torch.cat([image, image]), torch.cat([real, fake]))
    assert not torch.allclose(together[:2], network(image, real))


def test_both_inputs_matter_and_pass_gradients_on():
    network = ConditionalDiscriminator(**SMALL).train()
    image, masks = (torch.rand(2, c, 32, 64, requires_grad=True) for c in (3, 2))
    network(image, masks).square().sum().backward()
    assert image.grad.any()
    assert masks.grad.any()


def test_initial_weights_and_slopes():
    network = ConditionalDiscriminator(5)
    dense = network.judge[1].weight
    assert dense.std().item() == pytest.approx(0.02, rel=0.01)
    assert max(layer.conv.weight.abs().max().item() for layer in network.features) <= 0.04
    slopes = [module.slope for module in network.modules() if isinstance(module, BoundedPReLU)]
    assert [slope.numel() for slope in slopes] == [32] * 5 + [256]
    with torch.no_grad():
        for slope in slopes:
            slope.fill_(1)
    network.project_slopes()
    assert {slope.max().item() for slope in slopes} == {torch.tensor(0.1).item()}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 64, 64), (2, 64, 64)), "image: expected 32 x 64, the image_size .*, got 64 x 64"),
        (((3, 32, 64), (2, 32, 32)), "masks: expected 32 x 64, the image_size .*, got 32 x 32"),
        (((3, 32, 64), (1, 32, 64)), "image and masks: expected 5 channels together, got 4"),
    ],
)
def test_inputs_that_do_not_fit_are_named(shapes, message):
    with pytest.raises(ValueError, match=message):
        ConditionalDiscriminator(**SMALL)(*(torch.zeros(2, *shape) for shape in shapes))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 100}, "image_size must be divisible by 32, got 100 x 100"),
        ({"image_size": (64, 48)}, "image_size must be divisible by 32, got 64 x 48"),
        ({"image_size": 0}, "image_size must be divisible by 32, got 0 x 0"),
        ({"image_size": 24, "widths": (4, 4, 4, 4)}, "image_size must be divisible by 16, got 24 x 24"),
    ],
)
def test_sizes_that_do_not_divide_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConditionalDiscriminator(5, **arguments)
