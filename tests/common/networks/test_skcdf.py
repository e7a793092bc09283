"""SKCDF: the method spelled out, published parameter counts, who learns from what, the deployment form."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.networks.encoders.vnet import VNetDecoder
from common.networks.skcdf import ATTENTIONS, SKCDF
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically
from tests.helpers.network_case import NetworkContract
from tests.helpers.reference_skcdf import ReferenceSKCDF

CUBE = (32, 32, 32)
SMALL = {"num_classes": 3, "roi_size": CUBE, "width": 1, "dropout": 0.0, "attention_dropout": 0.0}
VNET = {"attention": "none", "decoupled": False, "balanced_head": False}
# The released code's numbers of parameters, and those among them that are never used: a second projection in
# each attention block, 8 x 8 + 8 and 256 x 256 + 256.
RELEASED = {14: 50_917_320, 16: 50_917_584}
NEVER_USED = 72 + 65_792
INFERENCE = {14: 42_567_702, 16: 42_567_768}
# Folding takes weight and bias of 3,808 + 1,792 channels of batch and 4 x 512 of layer normalization, and
# gives 6 x 1,024 biases to queries, keys and values.
FOLDED = -2 * (3_808 + 1_792) - 2 * 4 * 512 + 6 * 1_024


def small(training=True, **arguments):
    """A small network in float64, with statistics as after training."""
    return fill_deterministically(SKCDF(**{**SMALL, **arguments})).train(training)


def image(batch, size=CUBE):
    return deterministic_input("image", (batch, 1, *size))


def count(module):
    return sum(p.numel() for p in module.parameters())


class TestSKCDF(NetworkContract):
    shapes = (((1, 1, 32, 64, 32), (1, 3, 32, 64, 32)), ((3, 1, 32, 64, 32), (3, 3, 32, 64, 32)))
    # Without pairs, the decoder for labels is not used.
    idle_parameters = tuple(f"labeled_decoder.{name}" for name, _ in VNetDecoder(3, 1).named_parameters())
    parameter_counts = (
        ({}, RELEASED[14] - NEVER_USED),
        ({"num_classes": 16}, RELEASED[16] - NEVER_USED),
        ({"decoupled": False, "balanced_head": False}, INFERENCE[14]),
        ({"num_classes": 16, "decoupled": False, "balanced_head": False}, INFERENCE[16]),
        ({"fused": True}, INFERENCE[14] + FOLDED),
        ({"num_classes": 16, "fused": True}, INFERENCE[16] + FOLDED),
    )

    def build(self):
        return SKCDF(**{**SMALL, "roi_size": (32, 64, 32)})

    def build_full_size(self, **arguments):
        return SKCDF(**arguments)


class TestVNet(TestSKCDF):
    """The supervised baseline, which takes images of any size."""

    shapes = (((1, 1, 32, 32, 16), (1, 3, 32, 32, 16)), ((2, 1, 16, 48, 32), (2, 3, 16, 48, 32)))
    idle_parameters = ()
    parameter_counts = ((VNET, 29_495_296 + 8_283_292 - 462),)

    def build(self):
        return SKCDF(**{**SMALL, **VNET})


@pytest.mark.parametrize(
    ("num_labeled", "form"),
    [
        (0, {}),
        (1, {}),
        (2, {}),
        (3, {}),
        (1, {"roi_size": (32, 64, 32), "decoupled": False, "permuted_heads": False}),
        (1, {"attention": "global_local", "pairing": "self"}),
        (1, {"attention": "parallel", "balanced_head": False}),
        (1, {"attention": "local"}),
        (2, {"attention": "global"}),
        (1, VNET),
    ],
    ids=str,
)
def test_a_training_step_equals_the_method_spelled_out(num_labeled, form):
    """Logits of both passes, gradients, and the running statistics that the passes leave."""
    network = small(**form)
    weights = {name: p.detach().requires_grad_() for name, p in network.named_parameters()}
    settings = {name: form[name] for name in ("attention", "pairing", "permuted_heads") if name in form}
    reference = ReferenceSKCDF(network.state_dict() | weights, True, **settings)
    given = image(2 * num_labeled or 2, form.get("roi_size", CUBE))
    output, expected = network(given, num_labeled), reference(given, num_labeled)
    heads = 2 if form.get("balanced_head", True) else 1
    assert output.shape == ((3 * num_labeled or 2), heads, 3, *given.shape[2:])
    torch.testing.assert_close(output, expected, atol=1e-8, rtol=1e-8)
    direction = deterministic_input("direction", output.shape)
    for result in (output, expected):
        (result * direction).sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name].grad, atol=1e-6, rtol=1e-6)
    for name, value in network.named_buffers():
        if "running" in name:
            torch.testing.assert_close(value, reference.weights[name], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("attention", ATTENTIONS)
@torch.no_grad()
def test_evaluation_equals_the_method_spelled_out(attention):
    network = small(False, attention=attention)
    expected = ReferenceSKCDF(network.state_dict(), False, attention)(image(2))
    torch.testing.assert_close(network(image(2)), expected, atol=1e-9, rtol=1e-9)


def test_batch_statistics_are_updated_once_per_pass():
    def updates(network):
        network(image(4), 2)
        parts = (network.encoder, network.labeled_decoder, network.unlabeled_decoder)
        norms = [[m for m in part.modules() if isinstance(m, _BatchNorm)] if part else [] for part in parts]
        return [{int(norm.num_batches_tracked) for norm in found} for found in norms]

    assert updates(small()) == [{2}, {1}, {1}]
    assert updates(small(decoupled=False)) == [{2}, set(), {2}]


@pytest.mark.parametrize(
    ("rows", "head", "learning"),
    [
        (slice(0, 2), 0, ["labeled_decoder", "labeled_decoder.main_head"]),
        (slice(0, 2), 1, ["labeled_decoder", "labeled_decoder.balanced_head"]),
        (slice(4, 6), 0, ["unlabeled_decoder", "unlabeled_decoder.main_head"]),
        (slice(4, 6), 1, ["unlabeled_decoder", "unlabeled_decoder.balanced_head"]),
    ],
)
def test_each_loss_reaches_its_own_decoder_and_head(rows, head, learning):
    """The four losses of a step: labels of both heads, pseudo-labels of both heads."""
    network = small()
    network(image(4), 2)[rows, head].square().sum().backward()
    parts = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    found = {".".join(name.split(".")[: 2 if "head" in name else 1]) for name in parts}
    assert found == {"encoder", "attention", *learning}
    assert {name for name in parts if name.startswith("attention")} == {
        name for name, _ in network.named_parameters() if name.startswith("attention")
    }


def test_unlabeled_images_learn_from_labels_through_batch_statistics_alone():
    network, given = small(), image(4).requires_grad_()
    network(given, 2)[:2].square().sum().backward()
    assert given.grad[2:].any()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    given.grad = None
    network(given, 2)[:2].square().sum().backward()
    assert given.grad[:2].any()
    assert not given.grad[2:].any()


def test_dropout_is_that_of_the_arguments():
    network = SKCDF(**{**SMALL, "dropout": 0.4, "attention_dropout": 0.3})
    rates = {name: m.p for name, m in network.named_modules() if isinstance(m, (nn.Dropout, nn.Dropout3d))}
    assert rates == {
        "encoder.dropout": 0.4,
        "attention.0.dropout": 0.3,
        "attention.1.dropout": 0.3,
        "labeled_decoder.dropout": 0.4,
        "unlabeled_decoder.dropout": 0.4,
    }


@pytest.mark.parametrize("form", [{"attention": name} for name in ATTENTIONS] + [VNET], ids=str)
@torch.no_grad()
def test_fusing_keeps_the_output_and_accepts_both_kinds_of_checkpoints(form):
    trained = small(False, **form)
    state = copy.deepcopy(trained.state_dict())
    before = trained(image(2))
    fused = SKCDF(**SMALL, **form, fused=True).double().eval()
    again = SKCDF(**SMALL, **form, fused=True).double().eval()
    fused.load_state_dict(state)
    assert list(state) == list(trained.state_dict())
    again.load_state_dict(fused.state_dict())
    trained.fuse()
    trained.fuse()  # a second time changes nothing
    assert list(trained.state_dict()) == list(fused.state_dict())
    torch.testing.assert_close(trained(image(2)), before, atol=1e-9, rtol=1e-9)
    assert torch.equal(fused(image(2)), trained(image(2)))
    assert torch.equal(again(image(2)), trained(image(2)))
    torch.testing.assert_close(torch.jit.script(trained)(image(2)), before, atol=1e-9, rtol=1e-9)
    assert not any(isinstance(module, _BatchNorm) for module in trained.modules())
    assert not any("norm" in name or "balanced" in name for name in trained.state_dict())
    with pytest.raises(RuntimeError, match="cannot be trained"):
        fused.train()(image(2))


@torch.no_grad()
def test_single_precision_keeps_all_labels_when_fused():
    network = small(False, width=4).float()
    before = network(image(2).float())
    network.fuse()
    after = network(image(2).float())
    assert (after - before).abs().max() < 1e-5 * before.abs().max()
    assert torch.equal(after.argmax(1), before.argmax(1))


def test_a_fused_checkpoint_does_not_pass_for_a_training_form():
    with pytest.raises(RuntimeError, match="Missing key"):
        SKCDF(**SMALL).load_state_dict(SKCDF(**SMALL, fused=True).state_dict())


@pytest.mark.parametrize("form", [{}, {"attention": "global_local"}, {"decoupled": False}, VNET], ids=str)
def test_the_script_of_a_network_in_training_does_both_passes(form):
    network = small(**form).float()
    scripted, given = torch.jit.script(network), image(4).float()
    torch.testing.assert_close(scripted(given, 2), network(given, 2))
    torch.testing.assert_close(scripted(given), network(given))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": "both"}, r"attention must be one of \('none', 'local', .*\), got 'both'"),
        ({"pairing": "all"}, r"pairing must be one of \('cross', 'self'\), got 'all'"),
        ({"num_classes": 1}, "num_classes must be at least 2, background included, got 1"),
        ({"roi_size": (32, 48, 32)}, r"roi_size must be three multiples of 32, got \(32, 48, 32\)"),
        ({"roi_size": (32, 32)}, r"roi_size must be three multiples of 32, got \(32, 32\)"),
        ({"width": 0}, "width must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SKCDF(**{**SMALL, **arguments})


@pytest.mark.parametrize(
    ("training", "batch", "size", "num_labeled", "message"),
    [
        (True, 3, CUBE, 1, "num_labeled: expected 0 or half of the batch of 3, got 1"),
        (True, 4, CUBE, 1, "num_labeled: expected 0 or half of the batch of 4, got 1"),
        (True, 2, CUBE, -1, "num_labeled: expected 0 or half of the batch of 2, got -1"),
        (False, 2, CUBE, 1, "num_labeled: expected 0 in evaluation, got 1"),
        (False, 1, (32, 64, 32), 0, r"image: expected the size \(32, 32, 32\), .* roi_size, got .*64"),
    ],
)
def test_wrong_batches_are_named(training, batch, size, num_labeled, message):
    with pytest.raises(ValueError, match=message):
        small(training)(image(batch, size), num_labeled)
