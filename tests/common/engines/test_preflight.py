"""Batch norm that would see one value per channel is refused before training."""

import logging

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from common.engines.preflight import check_batch_norm, check_multiple, check_patch_size
from common.errors import InputError
from common.networks.kcbac import KCBACNet


def unet(norm="BATCH", spatial_dims=3):
    return UNet(spatial_dims, 1, 2, channels=(2, 4, 8), strides=(2, 2), num_res_units=1, norm=norm)


def kcbac():
    return KCBACNet(3, 1, 2, base_width=2, num_scales=3)  # 2 networks of 3 poolings: stride 16


@pytest.mark.parametrize("build", [unet, kcbac])
@pytest.mark.parametrize(("roi_size", "batch_size", "is_enough"), [(1, 1, False), (1, 2, True), (2, 1, True)])
def test_agrees_with_real_training(build, roi_size, batch_size, is_enough):
    """A patch of one, or two, voxels at the coarsest scale."""
    stride = 4 if build is unet else 16
    roi = (stride * roi_size, stride, stride)
    if is_enough:
        check_batch_norm(build(), 1, roi, batch_size)
        build().train()(torch.rand(batch_size, 1, *roi))
        return
    with pytest.raises(
        InputError, match=rf"roi_size \[{roi[0]}, .*\] with batch_size 1: expected more than one"
    ):
        check_batch_norm(build(), 1, roi, batch_size)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        build().train()(torch.rand(batch_size, 1, *roi))


def test_message_names_layer_and_input():
    network = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4))
    with pytest.raises(
        InputError, match=r"found input \[1, 4, 1, 1\] at '1'; enlarge batch_size or roi_size"
    ):
        check_batch_norm(network, 3, (8, 8), 1)


def test_network_is_left_as_it_was():
    network = unet().eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    check_batch_norm(network, 1, (16, 16, 16), 1)
    assert not network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_network_without_batch_norm_is_not_run():
    class Untouchable(nn.Module):
        def forward(self, _):
            raise AssertionError

    check_batch_norm(Untouchable(), 1, (1, 1, 1), 1)
    check_batch_norm(unet(norm="INSTANCE"), 1, (4, 4, 4), 1)


def test_frozen_batch_norm_is_no_problem():
    class Frozen(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(False)

    check_batch_norm(nn.Sequential(nn.Conv2d(1, 4, 8), Frozen(4)), 1, (8, 8), 1)


def test_network_that_needs_values_is_left_to_training(caplog):
    class NeedsValues(nn.BatchNorm2d):
        def forward(self, image):
            return super().forward(image) if image.sum().item() else image

    with caplog.at_level(logging.WARNING):
        check_batch_norm(nn.Sequential(NeedsValues(1)), 1, (8, 8), 1)
    assert "could not be checked" in caplog.text


def test_large_network_costs_no_memory():
    """Weights of 4 TB, on the meta device from the start; a copy or a real forward pass would fail."""
    with torch.device("meta"):
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(1), nn.Linear(4 * 510**2, 10**6)
        )
    check_batch_norm(network, 1, (512, 512), 2)


@pytest.mark.parametrize(("roi_size", "is_warned"), [((16, 32), False), ((16, 24), True)])
def test_patches_that_the_network_would_pad_are_warned_of(roi_size, is_warned, caplog):
    network = KCBACNet(2, 1, 2, base_width=2, num_scales=3)  # 2 ** (3 + 2 - 1) = 16
    check_patch_size(network, roi_size)
    assert ("expected multiples of 16" in caplog.text) == is_warned


def test_a_patch_that_cannot_be_halved_often_enough_is_refused():
    check_multiple([64, 32, 96], 32)
    with pytest.raises(InputError, match=r"multiples of 32, such as \[64, 32, 96\], found \[50, 8, 96\]"):
        check_multiple([50, 8, 96], 32)
