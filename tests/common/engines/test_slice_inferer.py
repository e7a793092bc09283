"""Volumes slice by slice through a 2D network."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import nn

from common.data.slice_stacks import slice_stack
from common.engines.slice_inferer import SliceStackInferer
from common.errors import InputError


def network(in_channels, num_classes=2):
    return nn.Conv2d(in_channels, num_classes, 3, padding=1).eval()


def one_by_one(volume, net, neighbors):
    """Every slice of every volume alone, by explicit copies."""
    cases = [
        torch.stack([net(slice_stack(case[0], z, neighbors)[None])[0] for z in range(case.shape[-1])], dim=-1)
        for case in volume
    ]
    return torch.stack(cases)


@pytest.mark.parametrize("neighbors", [0, 1, 2])
@pytest.mark.parametrize(("num_slices", "batch_size"), [(7, 3), (6, 3), (1, 8)])
def test_equals_slice_after_slice(neighbors, num_slices, batch_size):
    net, volume = network(2 * neighbors + 1), torch.rand(2, 1, 16, 32, num_slices)
    inferer = SliceStackInferer(neighbors, batch_size)
    assert isinstance(inferer, Inferer)
    with torch.inference_mode():
        logits = inferer(volume, net)
        assert logits.shape == (2, 2, 16, 32, num_slices)
        assert torch.allclose(logits, one_by_one(volume, net, neighbors), atol=1e-6)


def test_neighbors_by_hand():
    """Slices 1, 2, 4 under the weights 100, 10, 1 of foot, middle and head; the ends are repeated."""
    net = nn.Conv2d(3, 1, 1, bias=False)
    net.weight.data = torch.tensor([100.0, 10.0, 1.0]).reshape(1, 3, 1, 1)
    volume = torch.tensor([1.0, 2.0, 4.0]).expand(1, 1, 16, 16, 3)
    with torch.no_grad():
        assert SliceStackInferer(1, 2)(volume, net)[0, 0, 5, 5].tolist() == [112, 124, 244]


@pytest.mark.parametrize("size", [(17, 15), (16, 9), (1, 33)])
def test_padding_repeats_the_border_and_is_cut_off(size):
    volume = torch.rand(1, 1, *size, 3)
    seen = []

    def mean_of_columns(stacks):
        seen.append(stacks)
        return stacks[:, :1] * 2

    logits = SliceStackInferer(neighbors=0, batch_size=2)(volume, mean_of_columns)
    assert torch.equal(logits, volume * 2)
    for stack in torch.cat(seen)[:, 0]:
        assert all(length % 16 == 0 for length in stack.shape)
        assert bool((stack[size[0] :] == stack[size[0] - 1]).all())
        assert bool((stack[:, size[1] :] == stack[:, size[1] - 1 : size[1]]).all())


def test_other_divisors():
    sizes = []
    net = lambda stacks: sizes.append(tuple(stacks.shape[2:])) or stacks  # noqa: E731
    for divisor in (1, 32):
        SliceStackInferer(neighbors=0, divisor=divisor)(torch.rand(1, 1, 20, 33, 1), net)
    assert sizes == [(20, 33), (32, 64)]


def test_meta_data_and_dtype():
    volume = MetaTensor(torch.rand(1, 1, 16, 16, 4), affine=np.diag([2.0, 2.0, 7.0, 1.0]))
    net = lambda stacks, factor: (stacks[:, :1] * factor).double()  # noqa: E731
    logits = SliceStackInferer(neighbors=1)(volume, net, 3.0)
    assert isinstance(logits, MetaTensor)
    assert logits.affine.equal(volume.affine)
    assert logits.dtype == torch.float64
    assert torch.equal(SliceStackInferer(neighbors=1)(volume, net, factor=3.0), logits)
    assert not isinstance(SliceStackInferer(neighbors=1)(volume.as_tensor(), net, 3.0), MetaTensor)


def test_progress_bar(capsys):
    volume = torch.rand(1, 1, 16, 16, 4)
    SliceStackInferer(neighbors=0, batch_size=1)(volume, nn.Identity())
    assert "slices" not in capsys.readouterr().err
    SliceStackInferer(neighbors=0, batch_size=1, progress=True)(volume, nn.Identity())
    assert "4/4" in capsys.readouterr().err


def test_wrong_arguments_shapes_and_networks():
    with pytest.raises(InputError, match="neighbors: expected a whole number of 0 or more, found -1"):
        SliceStackInferer(neighbors=-1)
    for name in ("batch_size", "divisor"):
        with pytest.raises(InputError, match=f"{name}: expected 1 or more, found 0"):
            SliceStackInferer(**{name: 0})
    inferer = SliceStackInferer(neighbors=0)
    for shape in ((1, 2, 16, 16, 3), (1, 16, 16, 3)):
        with pytest.raises(ValueError, match=r"inputs: expected \(B, 1, X, Y, Z\), got"):
            inferer(torch.rand(shape), nn.Identity())
    with pytest.raises(ValueError, match=r"network: expected logits \(3, K, 16, 16\), got \(3, 1, 8, 8\)"):
        inferer(torch.rand(1, 1, 16, 16, 3), nn.AvgPool2d(2))
