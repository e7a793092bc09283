import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from common.networks.blocks.atrous import ATROUS_PYRAMIDS, AtrousConv, AtrousPyramid, DenseAtrousPyramid
from common.networks.blocks.conv_norm_folding import fold_modules, folding_pairs
from common.networks.blocks.subtraction import SubtractionPyramid
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically


def spelled_out(weights, name, features):
    """Convolution, normalization and ReLU in evaluation mode, one tap after the other, from bare weights."""
    kernel, rate = weights[f"{name}.0.weight"], weights["rates"].get(name, 1)
    reach = kernel.shape[-1] // 2
    padded = F.pad(features, [reach * rate] * 4)
    height, width = features.shape[2:]
    total = 0
    for row in range(kernel.shape[2]):
        for column in range(kernel.shape[3]):
            top, left = row * rate, column * rate
            window = padded[:, :, top : top + height, left : left + width]
            total = total + torch.einsum("oc,bchw->bohw", kernel[:, :, row, column], window)
    mean, variance, gamma, beta = (
        weights[f"{name}.1.{entry}"].view(-1, 1, 1)
        for entry in ("running_mean", "running_var", "weight", "bias")
    )
    return ((total - mean) / (variance + 1e-5).sqrt() * gamma + beta).clamp(min=0)


def settled(kind, channels):
    """A pyramid with deterministic weights, and its weights with the rates that the sources give."""
    pyramid = fill_deterministically(ATROUS_PYRAMIDS[kind](channels)).eval()
    weights = dict(pyramid.state_dict())
    weights["rates"] = {f"branches.{i}": rate for i, rate in enumerate((1, 6, 12, 18))} | {
        f"layers.{i}.1": rate for i, rate in enumerate((3, 6, 12, 18, 24))
    }
    return pyramid, weights


def test_taps_are_as_far_apart_as_the_rate():
    """One pixel of 1 and a kernel of ones, normalized by 1: nine pixels of 1 at distance 2."""
    conv = AtrousConv(1, 1, 3, rate=2).eval()
    torch.nn.init.ones_(conv[0].weight)
    conv[1].running_var.fill_(1 - 1e-5)
    image = torch.zeros(1, 1, 7, 7)
    image[0, 0, 3, 3] = 1
    found = conv(image)[0, 0]
    assert found[1::2, 1::2].flatten().tolist() == pytest.approx([1] * 9)
    assert found.sum().item() == pytest.approx(9)


def test_pyramid_derived_by_hand():
    """A single pixel: of each 3x3 kernel only the center meets it, and the mean is the pixel itself.

    With weights of 1, one channel and plain normalizations the five branches pass 3 on, and the projection
    adds them up to 15. The bias of the pooled branch, 2, makes that 17; -4 closes its ReLU: 12.
    """
    pyramid = AtrousPyramid(1).eval()
    for module in pyramid.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.ones_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(1 - 1e-5)
    for bias, expected in ((0, 15), (2, 17), (-4, 12)):
        torch.nn.init.constant_(pyramid.whole.bias, bias)
        assert pyramid(torch.full((1, 1, 1, 1), 3.0)).item() == pytest.approx(expected)


@pytest.mark.parametrize("size", [(40, 43), (5, 3), (1, 1)])
@torch.no_grad()
def test_pyramid_equals_its_branches_spelled_out(size):
    pyramid, weights = settled("aspp", 4)
    features = deterministic_input("features", (2, 4, *size)).relu()
    parts = [spelled_out(weights, f"branches.{index}", features) for index in range(4)]
    means = torch.einsum("oc,bchw->bo", weights["whole.weight"][:, :, 0, 0], features) / (size[0] * size[1])
    parts.append((means + weights["whole.bias"]).clamp(min=0)[:, :, None, None].expand(2, 4, *size))
    expected = spelled_out(weights, "projection", torch.cat(parts, 1))
    torch.testing.assert_close(pyramid(features), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("size", [(50, 49), (5, 3), (1, 1)])
@torch.no_grad()
def test_dense_pyramid_feeds_each_rate_with_all_before_it(size):
    pyramid, weights = settled("dense_aspp", 4)
    features = deterministic_input("features", (2, 4, *size)).relu()
    known = [features]
    for index in range(5):
        reduced = spelled_out(weights, f"layers.{index}.0", torch.cat(known, 1))
        known.append(spelled_out(weights, f"layers.{index}.1", reduced))
    assert [part.shape[1] for part in known] == [4, 2, 2, 2, 2, 2]
    expected = spelled_out(weights, "projection", torch.cat(known, 1))
    torch.testing.assert_close(pyramid(features), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", [AtrousPyramid, DenseAtrousPyramid])
def test_one_image_trains(kind):
    pyramid = kind(16).train()
    features = torch.rand(1, 16, 4, 5, requires_grad=True)
    output = pyramid(features)
    (output * torch.randn_like(output)).sum().backward()
    assert features.grad.any()
    # The pooled values are the same at all pixels, and with one image nothing else is left to compare with.
    without = {name for name, p in pyramid.named_parameters() if not p.grad.abs().max() > 1e-6}
    assert without <= {"whole.weight", "whole.bias"}


@pytest.mark.parametrize("kind", ATROUS_PYRAMIDS)
@torch.no_grad()
def test_folding_reaches_every_normalization(kind):
    pyramid, _ = settled(kind, 4)
    features = deterministic_input("features", (1, 4, 9, 9)).relu()
    before = pyramid(features)
    fold_modules(pyramid, folding_pairs(pyramid))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in pyramid.modules())
    torch.testing.assert_close(pyramid(features), before, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", ATROUS_PYRAMIDS)
@torch.no_grad()
def test_each_unit_has_a_pyramid_of_its_own_between_difference_and_convolution(kind):
    pyramid = fill_deterministically(SubtractionPyramid(4, kind, num_orders=2)).eval()
    features = [deterministic_input(f"level {5 - i}", (1, 4, 6, 6)).relu() for i in range(5)]
    found = pyramid(features)
    for index, level in enumerate((4, 3, 2, 1)):
        unit = pyramid.orders["2"][str(level)]
        assert isinstance(unit.context, ATROUS_PYRAMIDS[kind])
        expected = unit.conv(unit.context((features[index] - features[index + 1]).abs()))
        torch.testing.assert_close(found[index], expected, atol=1e-12, rtol=1e-12)
    contexts = {id(module) for module in pyramid.modules() if isinstance(module, ATROUS_PYRAMIDS[kind])}
    assert len(contexts) == 4
