import pytest
import torch

from common.networks.blocks.asymmetric_conv import (
    AsymmetricBlock,
    AsymmetricConv,
    branch_kernels,
    fuse_asymmetric,
)


def trained_conv(spatial_dims, form, channels=5):
    conv = AsymmetricConv(spatial_dims, channels, channels + 1, form)
    for branch in conv.branches:
        branch.norm.running_mean.normal_()
        branch.norm.running_var.uniform_(0.3, 3)
        torch.nn.init.normal_(branch.norm.weight)
        torch.nn.init.normal_(branch.norm.bias)
    return conv.eval()


@pytest.mark.parametrize(
    ("spatial_dims", "form", "kernels"),
    [
        (2, "none", [(3, 3)]),
        (2, "line", [(3, 3), (3, 1), (1, 3)]),
        (3, "line", [(3, 3, 3), (3, 1, 1), (1, 3, 1), (1, 1, 3)]),
        (3, "plane", [(3, 3, 3), (1, 3, 3), (3, 1, 3), (3, 3, 1)]),
    ],
)
def test_branches_are_the_full_kernel_and_its_skeleton(spatial_dims, form, kernels):
    assert branch_kernels(spatial_dims, form) == kernels


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="odd"):
        branch_kernels(2, "line", kernel_size=4)


def test_fused_number_derived_by_hand():
    """Kernels and input 1: an inner pixel sums 9 + 3 + 3 taps; a norm maps v to 2 (v - 1) / 2 + 3 = v + 2."""
    conv = AsymmetricConv(2, 1, 1, "line").eval()
    for branch in conv.branches:
        torch.nn.init.ones_(branch.conv.weight)
        branch.norm.running_mean.fill_(1)
        branch.norm.running_var.fill_(4 - 1e-5)
        torch.nn.init.constant_(branch.norm.weight, 2)
        torch.nn.init.constant_(branch.norm.bias, 3)
    image = torch.ones(1, 1, 5, 5)
    fused = conv.fuse()
    with torch.no_grad():
        assert conv(image)[0, 0, 2, 2].item() == pytest.approx(9 + 3 + 3 + 3 * 2)
        assert fused(image)[0, 0, 2, 2].item() == pytest.approx(21)
        # A corner pixel has 4 taps of the full kernel and 2 of each line.
        assert fused(image)[0, 0, 0, 0].item() == pytest.approx(4 + 2 + 2 + 6)
    # 1 / 2 * 2 = 1 per tap: the centre sums three kernels, the arms two, the corners one.
    expected = torch.tensor([[1.0, 2.0, 1.0], [2.0, 3.0, 2.0], [1.0, 2.0, 1.0]])
    torch.testing.assert_close(fused.branches[0].weight[0, 0].detach(), expected)


@pytest.mark.parametrize(
    ("spatial_dims", "form"), [(2, "none"), (2, "line"), (3, "none"), (3, "line"), (3, "plane")]
)
def test_fusion_keeps_the_output(spatial_dims, form):
    conv = trained_conv(spatial_dims, form).double()
    image = torch.randn(2, 5, *(7, 6, 9)[:spatial_dims], dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(conv.fuse()(image), conv(image), atol=1e-12, rtol=1e-12)


def test_fusing_makes_a_copy_and_leaves_the_network_trainable():
    network = torch.nn.Sequential(AsymmetricBlock(2, 1, 3, "line", False), torch.nn.Conv2d(3, 1, 1)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fused = fuse_asymmetric(network)
    assert not fused.training
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())


def test_a_fused_checkpoint_does_not_pass_for_a_training_form():
    conv = trained_conv(2, "line")
    with pytest.raises(RuntimeError, match="Missing key"):
        AsymmetricConv(2, 5, 6, "line").load_state_dict(conv.fuse().state_dict())
