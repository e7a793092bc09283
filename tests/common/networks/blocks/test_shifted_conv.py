import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from common.networks.blocks.shifted_conv import ShiftedConv2d, absorb_norm


def test_shifts_count_the_taps_inside_the_image_by_hand():
    """Kernels of ones, 3 x 3, shift 5 per tap, bias 7: 9, 6 or 4 taps lie inside; in one column 3 or 2."""
    conv = ShiftedConv2d(1, 1, 3)
    with torch.no_grad():
        conv.weight.fill_(2)
        conv.shift_weight.fill_(5)
        conv.bias.fill_(7)
        output = conv(torch.ones(1, 1, 3, 4))[0, 0]
        column = conv(torch.zeros(1, 1, 3, 1)).flatten()
    corner, edge, middle = 4 * 7 + 7, 6 * 7 + 7, 9 * 7 + 7
    assert output.tolist() == [
        [corner, edge, edge, corner],
        [edge, middle, middle, edge],
        [corner, edge, edge, corner],
    ]
    assert column.tolist() == [2 * 5 + 7, 3 * 5 + 7, 2 * 5 + 7]


def test_absorbed_numbers_by_hand():
    """s = 2 / sqrt(15 + 1) = 1/2, t = 3 - 5 s = 1/2: kernel 4 becomes 2 and adds a shift of 2 per tap."""
    state = {
        "norm.weight": torch.tensor([2.0]),
        "norm.bias": torch.tensor([3.0]),
        "norm.running_mean": torch.tensor([5.0]),
        "norm.running_var": torch.tensor([15.0]),
        "norm.num_batches_tracked": torch.tensor(9),
        "conv.weight": torch.full((1, 1, 1, 1), 4.0),
        "conv.bias": torch.tensor([7.0]),
    }
    absorb_norm(state, "norm.", "conv.", eps=1.0)
    assert {key: value.item() for key, value in state.items()} == {
        "conv.weight": 2,
        "conv.shift_weight": 2,
        "conv.bias": 7,
    }
    before = dict(state)
    absorb_norm(state, "norm.", "conv.")
    assert state == before


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 8), (16, 12)])
@torch.no_grad()
def test_equals_the_normalization_and_the_convolution(stride, size):
    norm, conv = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 5, stride, 2)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        tensor.normal_()
    norm.running_var.uniform_(0.3, 3)
    pair = nn.Sequential(norm, conv).double().eval()
    features = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = pair(features)
    state = pair.state_dict()
    absorb_norm(state, "0.", "1.")
    shifted = ShiftedConv2d(3, 4, 5, stride).double()
    shifted.load_state_dict({key.removeprefix("1."): value for key, value in state.items()})
    torch.testing.assert_close(shifted(features), expected, atol=1e-12, rtol=1e-12)
    # An ordinary convolution of one more channel, of ones, is the same thing.
    joined = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    kernel = torch.cat([shifted.weight, shifted.shift_weight], dim=1)
    torch.testing.assert_close(
        shifted(features), F.conv2d(joined, kernel, shifted.bias, stride, 2), atol=1e-12, rtol=1e-12
    )
    assert torch.equal(torch.jit.script(shifted)(features), shifted(features))


@torch.no_grad()
def test_a_bias_would_be_wrong_in_the_border_only():
    shifted = ShiftedConv2d(2, 3, 5)
    features = torch.randn(1, 2, 12, 12)
    bias = shifted.bias + shifted.shift_weight.fill_(0.3).sum((1, 2, 3))
    error = (shifted(features) - F.conv2d(features, shifted.weight, bias, padding=2)).abs()
    assert error[..., 2:-2, 2:-2].max() < 1e-5
    border = torch.ones(12, 12, dtype=torch.bool)
    border[2:-2, 2:-2] = False
    # At least 5 of the 25 taps are outside.
    assert error[..., border].min() > 5 * 0.3 - 1e-4
