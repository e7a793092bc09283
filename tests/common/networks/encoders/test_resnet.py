import pytest
import torch
from torch import nn

from common.networks.blocks.conv_norm_folding import fold_modules, fold_state
from common.networks.encoders.resnet import RESNETS, DilatedResNet
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically

SMALL = {"in_channels": 2, "width": 4}


def strided(name):
    """MONAI's network as it is, with stride 32."""
    return RESNETS[name](
        spatial_dims=2,
        n_input_channels=2,
        conv1_t_stride=2,
        widen_factor=4 / 64,
        feed_forward=False,
        bias_downsample=False,
    )


@pytest.mark.parametrize("name", ["resnet10", "resnet34", "resnet50"])
@pytest.mark.parametrize("size", [(64, 96), (75, 33)])
@torch.no_grad()
def test_every_second_pixel_of_the_last_level_is_that_of_the_strided_network(name, size):
    encoder = fill_deterministically(DilatedResNet(name, **SMALL)).eval()
    whole = strided(name).double().eval()
    whole.load_state_dict(encoder.state_dict())
    image = deterministic_input("image", (2, 2, *size))
    expected = [whole.act(whole.bn1(whole.conv1(image)))]
    expected.append(whole.layer1(whole.maxpool(expected[0])))
    expected += [whole.layer2(expected[1]), whole.layer3(whole.layer2(expected[1]))]
    levels = encoder(image)
    for found, level in zip(levels[:4], expected):
        torch.testing.assert_close(found, level, atol=1e-12, rtol=1e-12)
    coarse = whole.layer4(expected[3])
    assert levels[4].shape[2:] == levels[3].shape[2:]
    torch.testing.assert_close(levels[4][:, :, ::2, ::2], coarse, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "rates"),
    [("resnet18", [1, 2, 1, 2, 2]), ("resnet101", [1, 1, 1, 1, 1, 2, 1, 1, 2, 1])],
)
def test_rates_of_the_last_stage(name, rates):
    """Convolutions in turn, the shortcut's last in its block: what follows the former stride has rate 2."""
    with torch.device("meta"):
        stage = DilatedResNet(name).layer4
    convolutions = [module for module in stage.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.dilation for conv in convolutions] == [(rate, rate) for rate in rates]
    assert {conv.stride for conv in convolutions} == {(1, 1)}


@pytest.mark.parametrize(
    ("name", "parameters", "classifier"),
    [
        ("resnet18", 11_689_512, 512),
        ("resnet34", 21_797_672, 512),
        ("resnet50", 25_557_032, 2048),
        ("resnet101", 44_549_160, 2048),
    ],
)
def test_parameters_are_those_of_the_published_networks_without_classifier(name, parameters, classifier):
    with torch.device("meta"):
        encoder = DilatedResNet(name, in_channels=3)
    assert sum(p.numel() for p in encoder.parameters()) == parameters - (classifier + 1) * 1000
    assert encoder.channels[4] == classifier


@pytest.mark.parametrize(("size", "sizes"), [(224, (112, 56, 28, 14, 14)), (240, (120, 60, 30, 15, 15))])
@torch.no_grad()
def test_levels_at_the_sizes_of_the_paper(size, sizes):
    with torch.device("meta"):
        encoder, image = DilatedResNet("resnet50"), torch.empty(1, 1, size, size)
    assert encoder.channels == (64, 256, 512, 1024, 2048)
    expected = [(1, channels, edge, edge) for channels, edge in zip(encoder.channels, sizes)]
    assert [tuple(level.shape) for level in encoder(image)] == expected


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@torch.no_grad()
def test_folding_keeps_every_level(name):
    encoder = fill_deterministically(DilatedResNet(name, **SMALL)).eval()
    image = deterministic_input("image", (1, 2, 64, 48))
    expected = encoder(image)
    weights = dict(encoder.state_dict())
    fold_state(weights, "", encoder.folding_pairs())
    fold_modules(encoder, encoder.folding_pairs())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
    encoder.load_state_dict(weights)
    for found, level in zip(encoder(image), expected):
        torch.testing.assert_close(found, level, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@torch.no_grad()
def test_script_equals_eager(name):
    encoder = fill_deterministically(DilatedResNet(name, **SMALL)).eval()
    image = deterministic_input("image", (1, 2, 40, 64))
    for found, level in zip(torch.jit.script(encoder)(image), encoder(image)):
        assert torch.equal(found, level)


def test_levels_are_not_overwritten_by_later_stages():
    encoder = DilatedResNet("resnet10", **SMALL)
    levels = encoder(torch.rand(2, 2, 64, 64))
    assert all(level.min() >= 0 for level in levels)
    sum(level.square().sum() for level in levels).backward()
    assert all(p.grad.any() for p in encoder.parameters())


def test_untrained_convolutions_keep_the_variance_of_gradients():
    """He's rule by outputs, which is not that by inputs where a convolution changes the channels."""
    for conv in DilatedResNet("resnet10", width=32).layer4.modules():
        if isinstance(conv, nn.Conv2d):
            outputs = conv.weight.shape[0] * conv.weight[0, 0].numel()
            assert conv.weight.std().item() == pytest.approx((2 / outputs) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet20"}, "encoder must be one of .*'resnet101'.*, got 'resnet20'"),
        ({"width": 0}, "width must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DilatedResNet(**arguments)
