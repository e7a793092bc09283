import pytest
import torch
from torch import nn

from common.networks.blocks.bounded_prelu import BoundedPReLU
from common.networks.blocks.normalized_conv import NormalizedConv, UpNormalizedConv, initialize, normalization
from tests.helpers.reference_crossdomain import randomize


def layer(norm_first, norm="batch"):
    return randomize(NormalizedConv(3, 4, 5, 1, norm, norm_first, BoundedPReLU(4))).train()


def seen_by_the_norm(module, features):
    seen = []
    handle = module.norm.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    output = module(features)
    handle.remove()
    return seen[0], output


@pytest.mark.parametrize("norm", ["batch", "instance"])
@torch.no_grad()
def test_only_the_pre_order_frees_the_statistics_from_the_layers_own_weights(norm):
    """Equation 3 against equation 4: scale a kernel, and look at what its block's normalization sees."""
    features = torch.randn(2, 3, 9, 10, dtype=torch.float64)
    pre, post = layer(True, norm), layer(False, norm)
    before = {name: seen_by_the_norm(module, features) for name, module in (("pre", pre), ("post", post))}
    for module in (pre, post):
        module.conv.weight *= 100
        module.conv.bias *= 100
    seen, output = seen_by_the_norm(pre, features)
    assert torch.equal(seen, before["pre"][0])
    torch.testing.assert_close(output, 100 * before["pre"][1])
    seen, output = seen_by_the_norm(post, features)
    torch.testing.assert_close(seen, 100 * before["post"][0])
    # Only eps tells the two apart: 1e-5 beside variances of order 1.
    torch.testing.assert_close(output, before["post"][1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_both_orders_by_hand():
    """Two pixels, 1 and 3, kernel 2, bias 1, scale 3, shift 1, slope 0.01; mean 2, standard deviation 1.

    Pre: -3 + 1 = -2 and 3 + 1 = 4, times 2 plus 1: -3 and 9, so -0.03 and 9. Post: 3 and 7 have mean 5 and
    standard deviation 2: -3 + 1 = -2 and 4, so -0.02 and 4.
    """
    for norm_first, expected in ((True, [-0.03, 9]), (False, [-0.02, 4])):
        module = NormalizedConv(1, 1, 1, 1, "instance", norm_first, BoundedPReLU(1)).double()
        module.norm.weight.fill_(3)
        module.norm.bias.fill_(1)
        module.conv.weight.fill_(2)
        module.conv.bias.fill_(1)
        output = module(torch.tensor([[[[1.0, 3.0]]]], dtype=torch.float64))
        assert output.flatten().tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("norm_first", "expected"), [(True, 5.0), (False, 10.0)])
@torch.no_grad()
def test_the_skip_joins_right_after_the_convolution(norm_first, expected):
    """Input 2, skip 3, kernel 1, a normalization that doubles: 2 * 2 + 3 = 7 before, (2 + 3) * 2 = 10 after.

    With the kernel 0.5 in the pre order: 2 * 2 * 0.5 + 3 = 5.
    """
    module = UpNormalizedConv(1, 1, 1, "batch", norm_first, nn.ReLU(), False).double().eval()
    module.norm.running_var.fill_(0.25 - 1e-5)
    module.conv.weight.fill_(0.5 if norm_first else 1)
    module.conv.bias.zero_()
    features, skip = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 2, 2), 3.0)
    output = module(features.double(), skip.double())
    torch.testing.assert_close(output, torch.full_like(output, expected))
    module.fuse()
    torch.testing.assert_close(module(features.double(), skip.double()), output)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_constant_map_becomes_the_shift(dtype):
    norm = normalization("instance", 2).to(dtype)
    nn.init.constant_(norm.bias, 0.5)
    expected = torch.full((1, 2, 4, 4), 0.5, dtype=dtype)
    for value in (0, 0.3, 1):
        torch.testing.assert_close(norm(torch.full_like(expected, value)), expected, atol=1e-3, rtol=0)


def test_initial_weights_of_each_kind_of_layer():
    dense, norm = nn.Linear(100, 200), nn.BatchNorm2d(2)
    norm.weight.data.fill_(3)
    for module in (dense, norm, nn.Conv2d(2, 2, 1, bias=False)):
        initialize(module)
    assert dense.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert dense.weight.abs().max() > 0.04  # not cut
    assert not dense.bias.any()
    assert norm.weight.tolist() == [3, 3]
