import pytest
import torch
from torch import nn

from common.networks.blocks.conv_norm_folding import (
    ChannelAffine,
    FoldableNetwork,
    affine_pairs,
    fold_affines,
    fold_modules,
    fold_state,
    folded_affine,
    folded_parameters,
    folding_pairs,
    transposed_convolutions,
)

NORM = {"weight": 2.0, "bias": 3.0, "running_mean": 5.0, "running_var": 15.0}


class Part(nn.Sequential):
    def folding_pairs(self):
        return [("0", "1"), ("", "3")]


class Mixed(nn.Module):
    """Layer normalization over the last axis, then two linear layers."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4, eps=1e-3)
        self.plain, self.biased = nn.Linear(4, 3, bias=False), nn.Linear(4, 3)

    def forward(self, features):
        normalized = self.norm(features)
        return self.plain(normalized) * self.biased(normalized)

    def affine_pairs(self):
        return [("norm", ("plain", "biased"))]


class Whole(FoldableNetwork):
    """Every kind of folding, in a network."""

    def __init__(self):
        super().__init__()
        up = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
        self.part = Part(up, nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 4, 2))
        self.mixed = Mixed()

    def forward(self, features):
        return self.mixed(self.part(features).movedim(1, -1))


def randomized(module):
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.3, 3)
    return module.double().eval()


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


def test_a_transposed_kernel_is_scaled_by_its_outputs_on_axis_1():
    """Scales 2 / 4 = 1/2 and 3 / 1: the kernel (1 input, 2 outputs) 4, 4 becomes 2, 12; biases -1/2 and 0."""
    norm = {"weight": [2.0, 3.0], "bias": [0.0, 0.0], "running_mean": [1.0, 0.0], "running_var": [15.0, 0.0]}
    norm = {key: torch.tensor(value) for key, value in norm.items()}
    kernel = torch.full((1, 2, 1, 1, 1), 4.0)
    weight, bias = folded_parameters(norm, 1.0, kernel, is_transposed=True)
    assert weight.shape == kernel.shape
    assert weight.flatten().tolist() == [2, 12]
    assert bias.tolist() == [-0.5, 0]


def test_the_last_step_of_a_layer_normalization_by_hand():
    """gamma 2, 3 and beta 5, 7; weights 1, 10: W gamma = 2, 30; b + W beta = 4 + 5 + 70 = 79."""
    norm = {"weight": torch.tensor([2.0, 3.0]), "bias": torch.tensor([5.0, 7.0])}
    for shape in ((1, 2), (1, 2, 1, 1, 1)):
        weight, bias = folded_affine(norm, torch.tensor([1.0, 10.0]).reshape(shape), torch.tensor([4.0]))
        assert weight.shape == shape
        assert weight.flatten().tolist() == [2, 30]
        assert bias.tolist() == [79]
    assert folded_affine(norm, torch.tensor([[1.0, 10.0]]))[1].tolist() == [75]


def test_a_kernel_with_a_border_is_refused():
    """Padding lies between the normalization and such a convolution: no bias could stand for both."""
    norm = {"weight": torch.ones(2), "bias": torch.ones(2)}
    with pytest.raises(RuntimeError, match="size mismatch"):
        folded_affine(norm, torch.ones(1, 2, 3, 3))


@torch.no_grad()
def test_fusing_and_loading_into_a_fused_network_are_the_same():
    trained = randomized(Whole())
    trained.part[3].eps = 1e-5
    assert folding_pairs(trained) == [("part.0", "part.1"), ("", "part.3")]
    assert affine_pairs(trained) == [("mixed.norm", ("mixed.plain", "mixed.biased"))]
    assert transposed_convolutions(trained) == {"part.0", "part.4"}
    features = torch.randn(2, 2, 5, 4).double()
    expected, state = trained(features), trained.state_dict()
    trained.fuse()
    torch.testing.assert_close(trained(features), expected, atol=1e-12, rtol=1e-12)
    loaded, again = (randomized(Whole()) for _ in range(2))
    for other, given in ((loaded, state), (again, trained.state_dict())):
        other.fuse()
        other.load_state_dict(given)
        assert torch.equal(other(features), trained(features))
    assert trained.mixed.norm.eps == 1e-3
    assert list(trained.mixed.norm.parameters()) == []
    assert trained.mixed.plain.bias is not None


@torch.no_grad()
def test_folded_layers_keep_their_memory_format():
    whole = randomized(Whole()).to(memory_format=torch.channels_last)
    whole.fuse()
    assert whole.part[0].weight.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_affines_alone():
    mixed, features = randomized(Mixed()), torch.randn(2, 5, 4).double()
    expected = mixed(features)
    fold_affines(mixed, mixed.affine_pairs())
    torch.testing.assert_close(mixed(features), expected, atol=1e-12, rtol=1e-12)
