import pytest
import torch
from torch import nn

from common.networks.blocks.conv_norm_folding import (
    ChannelAffine,
    fold_modules,
    fold_state,
    folded_parameters,
    folding_pairs,
)

NORM = {"weight": 2.0, "bias": 3.0, "running_mean": 5.0, "running_var": 15.0}


class Part(nn.Sequential):
    def folding_pairs(self):
        return [("0", "1"), ("", "3")]


def network(conv, norm, spatial_dims):
    part = Part(conv(2, 3, 3, bias=True), norm(3), nn.ReLU(), norm(3, eps=0.1), conv(3, 2, 1, bias=False))
    for module in part.modules():
        if isinstance(module, norm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 3)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return nn.ModuleDict({"part": part}).double().eval(), torch.randn(
        2, 2, *(5, 6, 4)[:spatial_dims]
    ).double()


def test_numbers_derived_by_hand():
    """s = 2 / sqrt(15 + 1) = 1/2: kernel 4 s = 2, bias 7 s + 3 - 5 s = 4; without convolution 1/2, 1/2."""
    norm = {key: torch.tensor([value]) for key, value in NORM.items()}
    weight, bias = folded_parameters(norm, 1.0, torch.full((1, 1, 1, 1), 4.0), torch.tensor([7.0]))
    assert (weight.item(), bias.item()) == (2, 4)
    scale, shift = folded_parameters(norm, 1.0)
    assert (scale.item(), shift.item()) == (0.5, 0.5)
    assert ChannelAffine(scale, shift)(torch.full((1, 1, 2, 2), 3.0)).flatten().tolist() == [2] * 4


@pytest.mark.parametrize(
    ("conv", "norm", "spatial_dims"), [(nn.Conv2d, nn.BatchNorm2d, 2), (nn.Conv3d, nn.BatchNorm3d, 3)]
)
def test_folding_keeps_the_output_in_2d_and_3d(conv, norm, spatial_dims):
    whole, features = network(conv, norm, spatial_dims)
    with torch.no_grad():
        expected = whole["part"](features)
        pairs = folding_pairs(whole)
        assert pairs == [("part.0", "part.1"), ("", "part.3")]
        fold_modules(whole, pairs)
        torch.testing.assert_close(whole["part"](features), expected, atol=1e-12, rtol=1e-12)
    kinds = [type(module) for module in whole["part"]]
    assert kinds == [conv, nn.Identity, nn.ReLU, ChannelAffine, conv]


@pytest.mark.parametrize("prefix", ["", "network."])
def test_folded_states_equal_folded_modules_and_stay_as_they_are(prefix):
    whole, _ = network(nn.Conv2d, nn.BatchNorm2d, 2)
    whole["part"][3].eps = 1e-5  # a state dict does not tell
    state = {prefix + key: value.clone() for key, value in whole.state_dict().items()}
    pairs = folding_pairs(whole)
    fold_modules(whole, pairs)
    for _ in range(2):
        fold_state(state, prefix, pairs)
        assert state.keys() == {prefix + key for key in whole.state_dict()}
        for key, value in whole.state_dict().items():
            assert torch.equal(state[prefix + key], value)


def test_half_precision_is_rounded_once():
    norm = {key: torch.tensor([value]) for key, value in NORM.items()}
    weight, bias = folded_parameters(norm, 1e-5, torch.full((1, 1, 1, 1), 0.1).half())
    assert weight.dtype == bias.dtype == torch.float16
    assert bias.item() == pytest.approx(3 - 5 * 2 / 15**0.5, abs=1e-3)
