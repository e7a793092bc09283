"""The deployment form of the cross-domain network: equal to the trained one, border pixels included."""

import copy
import itertools

import pytest
import torch
from torch import nn

from common.networks.blocks.shifted_conv import ShiftedConv2d
from common.networks.crossdomain_unet import CrossDomainUNet
from tests.helpers.reference_crossdomain import randomize

SMALL = {"widths": (4, 6, 8, 10, 12), "num_classes": 3}
FORMS = [
    {
        "structure": structure,
        "norm": norm,
        "input_norm": input_norm,
        "attention": extras,
        "conditional": extras,
    }
    for structure, norm, input_norm, extras in itertools.product(
        ("pre", "post"), ("batch", "instance"), ("instance", "batch"), (False, True)
    )
]
# Sizes without an interior (16: the deepest maps have one pixel) and odd multiples of 16.
SIZES = ((16, 48), (80, 112), (48, 32))


def form_id(form):
    return "-".join(str(value) for value in form.values())


def trained_network(form):
    return randomize(CrossDomainUNet(**SMALL, **form)).eval()


@pytest.mark.parametrize("form", FORMS, ids=form_id)
@torch.no_grad()
def test_fusing_keeps_the_output_and_accepts_both_kinds_of_checkpoints(form):
    trained = trained_network(form)
    fused = CrossDomainUNet(**SMALL, **form, fused=True).double().eval()
    fused.load_state_dict(copy.deepcopy(trained.state_dict()))
    again = CrossDomainUNet(**SMALL, **form, fused=True).double().eval()
    again.load_state_dict(fused.state_dict())
    images = [torch.rand(2, 3, *size, dtype=torch.float64) for size in SIZES]
    before = [trained(image) for image in images]
    trained.fuse()
    trained.fuse()  # a second time changes nothing
    for image, expected in zip(images, before):
        torch.testing.assert_close(trained(image), expected, atol=1e-10, rtol=1e-10)
        assert torch.equal(fused(image), trained(image))
        assert torch.equal(again(image), trained(image))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in trained.modules())
    with pytest.raises(RuntimeError, match="cannot be trained"):
        fused.train()(images[0])


@pytest.mark.parametrize("structure", ["pre", "post"])
@torch.no_grad()
def test_the_fused_form_scripts_for_all_sizes(structure):
    network = trained_network({"structure": structure})
    images = [torch.rand(1, 3, *size, dtype=torch.float64) for size in SIZES]
    before = [network(image) for image in images]
    network.fuse()
    scripted = torch.jit.script(network)
    for image, expected in zip(images, before):
        torch.testing.assert_close(scripted(image), expected, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_a_bias_in_place_of_the_shifted_border_would_be_wrong_there():
    """Pixels 0 and 1 of the last decoder layer become 0 to 4 by the upsampling, and 0 to 6 in the logits."""
    network = trained_network({"structure": "pre"})
    image = torch.rand(1, 3, 64, 80, dtype=torch.float64)
    expected = network(image)
    network.fuse()
    torch.testing.assert_close(network(image), expected, atol=1e-10, rtol=1e-10)
    naive = network.decoder[2].conv
    naive.bias += naive.shift_weight.sum((1, 2, 3))
    naive.shift_weight.zero_()
    error = (network(image) - expected).abs()
    assert error[..., 7:-7, 7:-7].max() < 1e-10
    assert min(error[..., :2, :].max(), error[..., :2].max(), error[..., -2:].max()) > 1e-3


@torch.no_grad()
def test_single_precision_loses_no_more_than_rounding():
    network = trained_network({}).float()
    image = torch.rand(1, 3, 64, 64)
    expected = network(image)
    network.fuse()
    torch.testing.assert_close(network(image), expected, atol=1e-4, rtol=1e-4)
    assert all(p.dtype == torch.float32 for p in network.parameters())


def test_what_takes_the_place_of_the_normalizations():
    pre, post = CrossDomainUNet(fused=True, **SMALL), CrossDomainUNet(structure="post", fused=True, **SMALL)
    convolutions = [layer.conv for layer in (*pre.encoder, *pre.decoder)]
    assert [isinstance(conv, ShiftedConv2d) for conv in convolutions] == [False] + 7 * [True]
    assert not any(isinstance(module, ShiftedConv2d) for module in post.modules())
    assert [layer.skip_scale.shape for layer in post.decoder] == [(8, 1, 1), (6, 1, 1), (4, 1, 1)]
    assert isinstance(pre.input_norm, nn.InstanceNorm2d)


@pytest.mark.parametrize("structure", ["pre", "post"])
def test_a_fused_checkpoint_does_not_pass_for_a_training_form(structure):
    fused = CrossDomainUNet(structure=structure, fused=True, **SMALL)
    with pytest.raises(RuntimeError, match="Missing key"):
        CrossDomainUNet(structure=structure, **SMALL).load_state_dict(fused.state_dict())


def test_loading_leaves_the_given_checkpoint_as_it_is():
    trained = CrossDomainUNet(**SMALL)
    state = trained.state_dict()
    names = list(state)
    CrossDomainUNet(fused=True, **SMALL).load_state_dict(state)
    assert list(state) == names
