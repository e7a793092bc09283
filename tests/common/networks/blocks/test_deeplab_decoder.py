import pytest
import torch
from torch import nn

from common.networks.blocks.atrous import AtrousPyramid
from common.networks.blocks.deeplab_decoder import DeepLabDecoder, NormalizedAtrousPyramid
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically
from tests.helpers.reference_dmnet import ReferenceDMNet

CHANNELS = (4, 5, 6, 7, 8)


def levels_of(size):
    """The two levels that count, at strides 4 and 16, and the image."""
    edges = {stride: [-(-edge // stride) for edge in size] for stride in (4, 16)}
    fine = deterministic_input("fine", (2, CHANNELS[1], *edges[4])).relu()
    coarse = deterministic_input("coarse", (2, CHANNELS[4], *edges[16])).relu()
    unused = torch.full((1, 1, 1, 1), torch.nan)
    return [unused, fine, unused, unused, coarse], torch.zeros(2, 1, *size)


@torch.no_grad()
def test_a_constant_image_by_hand():
    """Weights of 1 in the middle, one channel, normalizations that do nothing, levels 7 (fine) and 3.

    The five branches pass 3 on, the pooled one 3 x 1 + 2 by the shift of its normalization: 4 x 3 + 5 = 17.
    With the fine level 24, and the head makes that 24 / 2 - 1.
    """
    decoder = DeepLabDecoder((1,) * 5, 1, 1, 1).double().eval()
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            middle = module.weight.shape[-1] // 2
            module.weight.zero_()[..., middle, middle] = 1
        elif isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1 - 1e-5)
    decoder.context.whole[1].bias.fill_(2)
    decoder.head.weight.fill_(0.5)
    decoder.head.bias.fill_(-1)
    fine = torch.full((1, 1, 8, 8), 7.0, dtype=torch.float64)
    coarse = torch.full((1, 1, 2, 2), 3.0, dtype=torch.float64)
    logits = decoder([fine, fine, fine, fine, coarse], torch.zeros(1, 1, 32, 32))
    torch.testing.assert_close(logits, torch.full((1, 1, 32, 32), 11.0, dtype=torch.float64))


@pytest.mark.parametrize("size", [(320, 336), (45, 70), (3, 1)])
@torch.no_grad()
def test_equals_the_decoder_spelled_out(size):
    """At the largest size all taps of all rates meet the image."""
    decoder = fill_deterministically(DeepLabDecoder(CHANNELS, 3, 4, 2)).eval()
    levels, image = levels_of(size)
    expected = ReferenceDMNet(decoder.state_dict()).deeplab("", levels, size)
    torch.testing.assert_close(decoder(levels, image), expected, atol=1e-12, rtol=1e-12)


def test_the_pooled_branch_is_normalized_over_the_images_of_a_batch():
    """Two images with means 0 and 2 are normalized to -1 and 1, up to the constant in the variance."""
    branch = NormalizedAtrousPyramid(1, 1).train().whole
    nn.init.ones_(branch[0].weight)
    pooled = torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1)
    assert branch(pooled).flatten().tolist() == pytest.approx([0, 1], abs=1e-5)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        NormalizedAtrousPyramid(2, 2).train()(torch.rand(1, 2, 5, 5))


def test_the_pyramid_differs_from_that_of_the_other_method_in_its_pooled_branch_alone():
    ours = set(NormalizedAtrousPyramid(4, 4).state_dict())
    theirs = set(AtrousPyramid(4).state_dict())
    assert {name.split(".")[0] for name in ours ^ theirs} == {"whole"}


def test_all_parameters_learn_from_two_images():
    decoder = DeepLabDecoder(CHANNELS, 2, 16, 8).double()
    logits = decoder(*levels_of((64, 64)))
    (logits * torch.randn_like(logits)).sum().backward()
    assert [name for name, p in decoder.named_parameters() if not p.grad.any()] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1, 2, 3, 0, 5), 2), r"channels must be five positive numbers, got \(1, 2, 3, 0, 5\)"),
        (((1,) * 5, 2, 0), "width must be at least 1, got 0"),
        (((1,) * 5, 2, 4, 0), "fine_width must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeepLabDecoder(*arguments)
