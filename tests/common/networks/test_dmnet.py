import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.engines.preflight import check_batch_norm
from common.errors import InputError
from common.networks.dmnet import DMNet, mean_log_probabilities
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically
from tests.helpers.network_case import NetworkContract
from tests.helpers.reference_dmnet import ReferenceDMNet

SMALL = {"encoder": "resnet10", "width": 8}
# The published ResNet-101 without its classifier, on one channel instead of three.
RESNET101 = 44_549_160 - 2_049_000 - 2 * 64 * 49
CHANNELS18, CHANNELS101 = (64, 64, 128, 256, 512), (64, 256, 512, 1024, 2048)


def unet_count(channels, classes=2):
    """Convolutions of each step with their normalizations, and the head."""
    widths = (256, 128, 64, 32, 16)
    given = [channels[4], *widths[:4]]
    joined = [*channels[3::-1], 0]
    steps = [9 * (g + j) * w + 9 * w * w + 4 * w for g, j, w in zip(given, joined, widths)]
    return sum(steps) + 16 * classes + classes


def deeplab_count(channels, classes=2):
    """Pyramid (1x1, three of 3x3, pooled, projection), fine level, two convolutions, and the head."""
    pyramid = channels[4] * 256 * (1 + 3 * 9 + 1) + 5 * 256 * 256 + 6 * 512
    refined = channels[1] * 48 + 96 + 9 * (304 + 256) * 256 + 2 * 512
    return pyramid + refined + 256 * classes + classes


class TestDMNet(NetworkContract):
    shapes = (
        ((1, 1, 64, 64), (1, 2, 64, 64)),
        ((2, 1, 45, 70), (2, 2, 45, 70)),
        ((1, 1, 32, 32), (1, 2, 32, 32)),
    )
    # The method page gives 42.5 M + 9.0 M + 16.8 M = 68.35 M. ResNet-18 has 11,689,512 with its classifier.
    parameter_counts = (
        ({}, 68_346_116),
        (
            {"encoder": "resnet18", "decoders": ("deeplab", "unet"), "num_classes": 3, "in_channels": 3},
            11_689_512 - 513_000 + unet_count(CHANNELS18, 3) + deeplab_count(CHANNELS18, 3),
        ),
    )

    def build(self):
        return DMNet(**SMALL)

    def build_full_size(self, **arguments):
        return DMNet(**arguments)


class TestSeparateDMNet(TestDMNet):
    shapes = (((1, 3, 64, 48), (1, 4, 64, 48)), ((1, 3, 33, 50), (1, 4, 33, 50)))
    parameter_counts = (({"separate": True}, 68_346_116 + RESNET101),)

    def build(self):
        return DMNet(3, 4, separate=True, **SMALL)


class TestPlainFCN(NetworkContract):
    """One branch, that of the baseline semiFCN."""

    shapes = (((1, 1, 64, 48), (1, 3, 64, 48)), ((1, 1, 33, 50), (1, 3, 33, 50)))
    parameter_counts = (({"decoders": ("fcn",)}, RESNET101 + 2048 * 2 + 2),)

    def build(self):
        return DMNet(1, 3, decoders=("fcn",), **SMALL)

    def build_full_size(self, **arguments):
        return DMNet(**arguments)

    def test_training_gives_one_branch(self):
        assert self.build().train()(torch.randn(2, 1, 32, 32)).shape == (2, 1, 3, 32, 32)


def test_the_pinned_counts_follow_from_the_tables():
    expected = [RESNET101, unet_count(CHANNELS101), deeplab_count(CHANNELS101)]
    assert expected == [42_493_888, 9_012_962, 16_839_266]
    assert sum(expected) == 68_346_116
    with torch.device("meta"):
        network = DMNet()
    parts = (*network.encoders, *network.decoders)
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == expected


@pytest.mark.parametrize(("size", "expected"), [(224, 20.916), (240, 24.011)])
@torch.no_grad()
def test_multiplications_of_all_convolutions_in_billions(size, expected):
    """Twice that are the 42 and 48 billion operations of the method page; 47 % of them are the encoder's."""
    with torch.device("meta"):
        network, image = DMNet().eval(), torch.empty(1, 1, size, size)
    with FlopCounterMode(display=False) as counter:
        network(image)
    assert counter.get_total_flops() / 2e9 == pytest.approx(expected, abs=6e-4)
    shares = [
        sum(counter.get_flop_counts()[f"DMNet.{part}"].values()) / counter.get_total_flops()
        for part in ("encoders.0", "decoders.0", "decoders.1")
    ]
    assert shares == pytest.approx([0.47, 0.19, 0.34], abs=0.005)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"encoder": "resnet50", "separate": True},
        {"decoders": ("deeplab", "unet"), "separate": True},
        {"decoders": ("unet", "unet"), "num_classes": 3},
        {"decoders": ("deeplab", "deeplab"), "in_channels": 2},
    ],
    ids=str,
)
def test_equals_the_method_spelled_out_with_its_gradients(form, training):
    network = fill_deterministically(DMNet(**{**SMALL, "width": 4, **form})).train(training)
    reference = ReferenceDMNet(network.state_dict(), training)
    image = deterministic_input("image", (3, form.get("in_channels", 1), 70, 45)).requires_grad_()
    output, expected = network(image), reference(image)
    torch.testing.assert_close(output, expected, atol=1e-8, rtol=1e-8)
    gradients = [torch.autograd.grad(x.square().sum(), image)[0] for x in (output, expected)]
    torch.testing.assert_close(*gradients, atol=1e-8, rtol=1e-8)
    for key, value in network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, reference.weights[key], atol=1e-8, rtol=1e-8)


def test_the_average_by_hand():
    """Probabilities 0.9 and 0.2 of class 0: 0.55 on average; averaged logits would give 0.6."""
    stacked = torch.tensor([[9.0, 1], [1, 4]], dtype=torch.float64).log().reshape(1, 2, 2, 1, 1)
    average = mean_log_probabilities(stacked)
    assert average.exp().flatten().tolist() == pytest.approx([0.55, 0.45])
    assert average.softmax(1).flatten().tolist() == pytest.approx([0.55, 0.45])
    assert stacked.mean(1).softmax(1).flatten()[0].item() == pytest.approx(0.6)


def test_the_average_decides_where_averaged_logits_would_not():
    """0.98 and 0.3 of class 0 are 0.64, but 0.0001 of one branch takes class 0 from averaged logits."""
    probabilities = torch.tensor([[0.98, 0.01, 0.01], [1e-4, 0.45, 0.5499]]).reshape(1, 2, 3, 1, 1)
    assert mean_log_probabilities(probabilities.log()).argmax(1).item() == 0
    assert probabilities.log().mean(1).argmax(1).item() == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sure_branches_stay_finite(dtype):
    sure = torch.tensor([[[3e4, -3e4]], [[3e4, -3e4]]], dtype=dtype).reshape(1, 2, 2, 1, 1)
    average = mean_log_probabilities(sure)
    assert average.dtype == dtype
    assert average.isfinite().all()
    assert average.flatten()[0].item() == pytest.approx(0, abs=0.01)
    against = torch.cat([sure[:, :1], -sure[:, :1]], 1)
    assert mean_log_probabilities(against).flatten().tolist() == pytest.approx([-math.log(2)] * 2, abs=0.01)


@pytest.mark.parametrize("form", [{}, {"decoders": ("unet", "unet"), "separate": True}], ids=str)
@torch.no_grad()
def test_fusing_keeps_the_output_and_accepts_both_kinds_of_checkpoints(form):
    form = {**SMALL, **form}
    trained = fill_deterministically(DMNet(**form)).eval()
    image = deterministic_input("image", (2, 1, 64, 50))
    fused = DMNet(fused=True, **form).eval().double()
    fused.load_state_dict(trained.state_dict())
    again = DMNet(fused=True, **form).eval().double()
    again.load_state_dict(fused.state_dict())
    before = trained(image)
    torch.testing.assert_close(fused(image), before, atol=1e-9, rtol=1e-9)
    assert torch.equal(again(image), fused(image))
    trained.fuse()
    trained.fuse()  # a second time changes nothing
    assert torch.equal(trained(image), fused(image))
    torch.testing.assert_close(torch.jit.script(trained)(image), before, atol=1e-9, rtol=1e-9)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in trained.modules())
    with pytest.raises(RuntimeError, match="cannot be trained"):
        fused.train()(image)


def test_a_fused_checkpoint_does_not_pass_for_a_training_form():
    with pytest.raises(RuntimeError, match="Missing key"):
        DMNet(**SMALL).load_state_dict(DMNet(fused=True, **SMALL).state_dict())


def test_the_script_of_a_network_in_training_gives_both_branches():
    network = DMNet(**SMALL).train()
    image = torch.randn(2, 1, 64, 64)
    assert torch.equal(torch.jit.script(network)(image), network(image))
    assert network(image).shape == (2, 2, 2, 64, 64)


@pytest.mark.parametrize("separate", [False, True])
def test_a_branch_learns_with_its_encoder_and_no_other_decoder(separate):
    network = DMNet(separate=separate, **SMALL).train()
    network(torch.randn(2, 1, 64, 64))[:, 0].square().sum().backward()
    assert network.decoders[0].head.weight.grad.any()
    assert not network.decoders[1].head.weight.grad.any()
    learning = [bool(encoder.conv1.weight.grad.any()) for encoder in network.encoders]
    assert learning == ([True, False] if separate else [True])


def test_a_single_image_is_refused_before_training():
    network = DMNet(**SMALL)
    message = r"batch_size 1: .*found input \[1, 32, 1, 1\] at 'decoders.1.context.whole.1'"
    with pytest.raises(InputError, match=message):
        check_batch_norm(network, 1, (64, 64), 1)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        network.train()(torch.rand(1, 1, 64, 64))
    check_batch_norm(network, 1, (64, 64), 2)
    check_batch_norm(DMNet(decoders=("unet", "unet"), **SMALL), 1, (64, 64), 1)


def test_initial_weights():
    """Decoders by inputs: with features of unit second moment, logits start with a variance of about 2."""
    network = DMNet(encoder="resnet10", width=32)
    for conv in (module for module in network.decoders.modules() if isinstance(module, torch.nn.Conv2d)):
        if conv.weight.numel() > 5000:
            inputs = conv.weight[0].numel()
            assert conv.weight.std().item() == pytest.approx((2 / inputs) ** 0.5, rel=0.05)
        assert conv.bias is None or not conv.bias.any()
    assert network(torch.randn(2, 1, 64, 64)).std() < 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "vgg16"}, "encoder must be one of .*'resnet101'.*, got 'vgg16'"),
        ({"decoders": ()}, r"decoders must be one or two of .*, got \(\)"),
        ({"decoders": "unet"}, "decoders must be one or two of .*, got 'unet'"),
        ({"decoders": ("unet", "pan")}, "decoders must be one or two of .*'deeplab'.*'pan'"),
        ({"num_classes": 1}, "num_classes must be at least 2, background included, got 1"),
        ({"width": 6}, "width must be a positive multiple of 4, got 6"),
        ({"width": 0}, "width must be a positive multiple of 4, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DMNet(**{**SMALL, **arguments})
