import pytest
import torch
from torch import nn

from common.networks.blocks.unet_decoder import UNetDecoder
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically
from tests.helpers.reference_dmnet import ReferenceDMNet

CHANNELS = (4, 5, 6, 7, 8)


def levels_of(size):
    """Deterministic levels of an image of this size, as an encoder would give them, and the image."""
    edges, levels = size, []
    for index, channels in enumerate(CHANNELS):
        edges = tuple(-(-edge // 2) for edge in edges) if index < 4 else edges
        levels.append(deterministic_input(f"level {index}", (2, channels, *edges)).relu())
    return levels, torch.zeros(2, 1, *size)


@torch.no_grad()
def test_constant_levels_by_hand():
    """Kernels whose middle is 1, normalizations that do nothing: the levels 1, 2, 4, 8, 16 are added up.

    Each step passes the sum of its inputs on, 16 + 8 + 4 + 2 + 1 = 31, and the head makes that 3 x 31 - 5.
    """
    decoder = UNetDecoder((1,) * 5, 1, (1,) * 5).double().eval()
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            middle = module.weight.shape[-1] // 2
            module.weight.zero_()[..., middle, middle] = 1
        elif isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1 - 1e-5)
    decoder.head.weight.fill_(3)
    decoder.head.bias.fill_(-5)
    edges = (16, 8, 4, 2, 2)
    levels = [torch.full((1, 1, edge, edge), 2.0**i, dtype=torch.float64) for i, edge in enumerate(edges)]
    logits = decoder(levels, torch.zeros(1, 1, 32, 32))
    torch.testing.assert_close(logits, torch.full((1, 1, 32, 32), 88.0, dtype=torch.float64))


@pytest.mark.parametrize("size", [(64, 48), (45, 70), (3, 1)])
@torch.no_grad()
def test_equals_the_decoder_spelled_out(size):
    decoder = fill_deterministically(UNetDecoder(CHANNELS, 3, (9, 8, 7, 6, 5))).eval()
    levels, image = levels_of(size)
    expected = ReferenceDMNet(decoder.state_dict()).unet("", levels, size)
    torch.testing.assert_close(decoder(levels, image), expected, atol=1e-12, rtol=1e-12)


def test_one_image_trains():
    decoder = UNetDecoder(CHANNELS, 2, (8,) * 5).double()
    levels, image = levels_of((64, 64))
    logits = decoder([level[:1] for level in levels], image)
    (logits * torch.randn_like(logits)).sum().backward()
    assert all(p.grad.any() for p in decoder.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1, 2, 3, 4), 2), r"channels must be five positive numbers, got \(1, 2, 3, 4\)"),
        (((1,) * 5, 2, (4, 4, 4, 4, 0)), "widths must be five positive numbers, got"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNetDecoder(*arguments)
