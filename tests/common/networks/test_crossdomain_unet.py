import re

import pytest
import torch
from torch import nn

from common.networks.blocks.bounded_prelu import BoundedPReLU
from common.networks.crossdomain_unet import CrossDomainUNet
from tests.helpers.network_case import NetworkContract
from tests.helpers.reference_crossdomain import ReferenceCrossDomain, randomize

SMALL = {"widths": (4, 6, 8, 10, 12), "num_classes": 3}
AUTHORS_POST = {"structure": "post", "first_kernel": 5, "input_norm": "none", "decoder_activation": "relu"}
FORMS = [
    {},
    {"norm": "instance"},
    {"structure": "post"},
    {"structure": "post", "norm": "instance", "input_norm": "batch"},
    AUTHORS_POST,
    {"attention": True},
    {"structure": "post", "attention": True, "conditional": True},
    {"conditional": True, "norm": "instance", "input_norm": "none"},
]


def form_id(form):
    return "-".join(str(value) for value in form.values()) or "default"


class TestPreBatch(NetworkContract):
    shapes = (
        ((1, 3, 32, 48), (1, 3, 32, 48)),
        ((2, 3, 80, 16), (2, 3, 80, 16)),
        ((1, 3, 16, 16), (1, 3, 16, 16)),
    )
    # The method page derives 3,805,800. The others follow from it. Post: 8 normalizations of 32 .. 32
    # channels, 2 x 32 more in all. Authors' post: 9,216 less in the first kernel, 6 and 224 less for the
    # input's normalization and the decoder's slopes. One slice or class more: 32 x 121 + 2, or 32 x 25 + 1.
    # Fused: 2 x 928 numbers of normalizations less, 25 x 928 of their shifts more (928 = 64 + 128 + 256 +
    # 256 + 128 + 64 + 32 output channels; 928 = 32 + 64 + 128 + 256 + 256 + 128 + 64 input channels).
    parameter_counts = (
        ({}, 3_805_800),
        ({"norm": "instance"}, 3_805_800),
        ({"structure": "post"}, 3_805_864),
        (AUTHORS_POST, 3_805_864 - 9_216 - 6 - 224),
        ({"in_channels": 1}, 3_805_800 - 2 * (32 * 121 + 2)),
        ({"num_classes": 3}, 3_805_800 + 32 * 25 + 1),
        ({"fused": True}, 3_805_800 - 2 * 928 + 25 * 928),
    )

    def build(self):
        return CrossDomainUNet(**SMALL)

    def build_full_size(self, **arguments):
        return CrossDomainUNet(**arguments)


class TestPostInstance(TestPreBatch):
    shapes = (((1, 3, 32, 48), (1, 3, 32, 48)), ((2, 3, 16, 80), (2, 3, 16, 80)))
    parameter_counts = (({"structure": "post", "norm": "instance"}, 3_805_864),)

    def build(self):
        return CrossDomainUNet(structure="post", norm="instance", **SMALL)


class TestAttention(TestPreBatch):
    # A gate of width w on g input channels: (g + w + 2) w / 2 of its first convolutions, 2 w of their
    # normalizations, w / 2 + 1 and 2 at its end.
    gates = sum((g + w + 2) * w // 2 + 2 * w + w // 2 + 3 for g, w in ((256, 128), (128, 64), (64, 32)))
    parameter_counts = (({"attention": True}, 3_805_800 + gates),)

    def build(self):
        return CrossDomainUNet(attention=True, **SMALL)

    def test_every_parameter_receives_a_gradient(self):
        """But for biases right before a normalization, which takes them out again, up to rounding."""
        network = self.build().train()
        output = network(torch.randn(2, 3, 32, 48))
        (output * torch.randn_like(output)).sum().backward()
        without = [name for name, p in network.named_parameters() if not p.grad.any()]
        assert [name for name in without if not re.search(r"gate\.(W_g|W_x|psi)\.0\.conv\.bias$", name)] == []


class TestConditional(TestPreBatch):
    # Classifier: 3 x 25 x 16 + 16, 16 x 25 x 32 + 32, 32 x 25 x 32 + 32, 32 x 2 + 2. Tables: 2 x 2 C with
    # 32 + 64 + 128 + 256 + 256 + 128 + 64 + 32 = 960 channels.
    parameter_counts = (({"conditional": True}, 3_805_800 + 1_216 + 12_832 + 25_632 + 66 + 4 * 960),)

    def build(self):
        return CrossDomainUNet(conditional=True, **SMALL)

    def test_the_script_classifies_too(self):
        network = self.evaluation_network()
        image = torch.rand(2, 3, 32, 32)
        logits = network.classify_modality(image)
        assert logits.shape == (2, 2)
        assert torch.equal(torch.jit.script(network).classify_modality(image), logits)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=form_id)
def test_equals_the_method_spelled_out_with_its_gradients(form, training):
    network = randomize(CrossDomainUNet(**SMALL, **form)).train(training)
    kinds = {key: form[key] for key in ("structure", "norm", "input_norm") if key in form}
    reference = ReferenceCrossDomain(network.state_dict(), training=training, **kinds)
    image = torch.rand(3, 3, 48, 80, dtype=torch.float64, requires_grad=True)
    logits, expected = network(image), reference.segment(image)
    torch.testing.assert_close(logits, expected, atol=1e-9, rtol=1e-9)
    # Gradients reach the image on every path: skips, gates and the classifier.
    gradients = [torch.autograd.grad(output.square().sum(), image)[0] for output in (logits, expected)]
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-9)
    if network.modality is not None:
        torch.testing.assert_close(network.classify_modality(image), reference.modality(image))


@pytest.mark.parametrize(("value", "expected"), [(1.0, 46.0), (-1.0, -0.02040832)])
@pytest.mark.parametrize("structure", ["pre", "post"])
@torch.no_grad()
def test_a_constant_image_by_hand(structure, value, expected):
    """One channel, normalizations that do nothing, kernels whose middle is 2 (encoder) or 1, slopes 0.1.

    From 1: encoder 2, 4, 8, 16, 32; decoder 32 + 8, 40 + 4, 44 + 2. From -1 a tenth at each activation:
    encoder -0.2, -0.04, -0.008, -0.0016, -0.00032; decoder (-0.00032 - 0.008) / 10 = -0.000832, -0.0040832,
    -0.02040832.
    """
    network = CrossDomainUNet(1, 1, structure, input_norm="none", widths=(1,) * 5).double().eval()
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            middle = module.weight.shape[-1] // 2
            module.weight.zero_()[..., middle, middle] = 2 if name.startswith("encoder") else 1
        elif isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1 - 1e-5)
        elif isinstance(module, BoundedPReLU):
            module.slope.fill_(0.1)
    logits = network(torch.full((1, 1, 32, 32), value, dtype=torch.float64))
    torch.testing.assert_close(logits, torch.full_like(logits, expected))


def test_initial_weights():
    network = CrossDomainUNet()
    weights = network.encoder[4].conv.weight
    # A normal cut at two standard deviations has 0.8796 of the standard deviation.
    assert weights.std().item() == pytest.approx(0.8796 * 0.02, rel=0.005)
    assert weights.abs().max() <= 0.04
    assert all(not m.bias.any() for m in network.modules() if isinstance(m, nn.Conv2d))
    assert {m.slope.unique().item() for m in network.modules() if isinstance(m, BoundedPReLU)} == {
        torch.tensor(0.01).item()
    }
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 7
    assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_eight_activations_can_be_watched():
    watched = [name for name, _ in CrossDomainUNet().named_modules() if name.endswith(".activation")]
    assert watched == [f"encoder.{i}.activation" for i in range(5)] + [
        f"decoder.{i}.activation" for i in range(3)
    ]


@torch.no_grad()
def test_slices_normalized_by_themselves_hide_scale_and_offset():
    """Each slice of the stack has its own statistics: CT and MR differ in both."""
    network = randomize(CrossDomainUNet(**SMALL)).eval()
    image = torch.rand(1, 3, 48, 48, dtype=torch.float64)
    scale = torch.tensor([500.0, 2000.0, 90.0]).reshape(1, 3, 1, 1)
    shifted = scale * image - 3 * scale
    difference = (network(shifted) - network(image)).abs().max()
    assert difference < 1e-3
    without = CrossDomainUNet(input_norm="none", **SMALL).double().eval()
    assert (without(shifted) - without(image)).abs().max() > 1e-3


@pytest.mark.parametrize("structure", ["pre", "post"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@torch.no_grad()
def test_an_empty_image_gives_finite_logits(structure, dtype):
    network = CrossDomainUNet(structure=structure, norm="instance", **SMALL).to(dtype)
    for value in (0, 1):
        assert network(torch.full((1, 3, 32, 32), value, dtype=dtype)).isfinite().all()


@pytest.mark.parametrize("form", FORMS[-2:], ids=form_id)
def test_mixed_precision_trains(form):
    network = CrossDomainUNet(**SMALL, **form)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(torch.rand(2, 3, 32, 32))
    assert logits.dtype == torch.bfloat16
    logits.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_slopes_come_back_after_a_step():
    network = CrossDomainUNet(**SMALL)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e3)
    network(torch.rand(2, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    slopes = [m.slope for m in network.modules() if isinstance(m, BoundedPReLU)]
    assert len(slopes) == 8
    assert any((slope < 0.01).any() or (slope > 0.1).any() for slope in slopes)
    network.project_slopes()
    assert all(slope.min() >= 0.01 - 1e-9 and slope.max() <= 0.1 + 1e-8 for slope in slopes)


def test_the_classifier_learns_from_both_losses():
    network = CrossDomainUNet(conditional=True, **SMALL)
    image, modality = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    first = network.modality.stages[0].weight
    for loss in (
        nn.functional.cross_entropy(network.classify_modality(image), modality),
        network(image).square().mean(),
    ):
        (gradient,) = torch.autograd.grad(loss, first)
        assert gradient.any()


@pytest.mark.parametrize("size", [(40, 32), (32, 8), (17, 16)])
def test_a_size_that_does_not_divide_is_named(size):
    with pytest.raises(ValueError, match=f"divisible by 16, got {size[0]} x {size[1]}"):
        CrossDomainUNet(**SMALL)(torch.zeros(2, 3, *size))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"structure": "before"}, "structure must be one of .*'pre', 'post'.*, got 'before'"),
        ({"norm": "none"}, "norm must be one of .*, got 'none'"),
        ({"input_norm": "layer"}, "input_norm must be one of .*'none'.*, got 'layer'"),
        ({"decoder_activation": "elu"}, "decoder_activation must be one of"),
        ({"widths": (1, 2, 3, 4)}, "widths must be five"),
        ({"widths": (1, 2, 3, 4, 0)}, "widths must be five positive"),
        ({"first_kernel": 4}, "first_kernel must be odd and positive, got 4"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CrossDomainUNet(**{**SMALL, **arguments})


def test_what_the_form_cannot_do_is_refused():
    with pytest.raises(ValueError, match="norm 'instance' needs more than 16 x 16"):
        CrossDomainUNet(norm="instance", **SMALL)(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="conditional=True"):
        CrossDomainUNet(**SMALL).classify_modality(torch.zeros(1, 3, 16, 16))
