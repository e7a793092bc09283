"""Labels while windows are computed: those of MONAI's inferer, in memory that does not grow with length."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SliceInferer, SlidingWindowInferer
from torch import nn

from common.engines.label_inferer import LabelInferer
from common.engines.label_slabs import RollingSums
from common.errors import InputError


def network(spatial_dims=3, num_classes=4, in_channels=1):
    """Whose output at a voxel depends on the window around it, through the zeros behind its border."""
    torch.manual_seed(num_classes)
    convolution = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
    return convolution(in_channels, num_classes, 3, padding=1).eval()


def windows(roi_size=(8, 8, 8), **settings):
    return SlidingWindowInferer(**{"roi_size": roi_size, "overlap": 0.5, "mode": "gaussian", **settings})


@torch.no_grad()
def expected(given, image, net, threshold=None):
    averages = given(image, net)
    return averages.argmax(1, keepdim=True) if threshold is None else averages >= threshold


def check(given, image, net, agreement=1.0, **settings):
    labels = LabelInferer(given, **settings)(image, net)
    assert labels.dtype == torch.uint8
    reference = expected(given, image, net, settings.get("threshold"))
    assert labels.shape == reference.shape
    assert (labels == reference).float().mean() >= agreement
    return labels


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize(("size", "number"), [((21, 9, 13), 1), ((11, 12, 30), 3)])
def test_equals_monai_and_argmax(size, number, overlap, mode):
    given = windows(overlap=overlap, mode=mode, sw_batch_size=number)
    labels = check(given, torch.randn(1, 1, *size), network())
    assert labels.unique().tolist() == [0, 1, 2, 3]


def test_windows_one_voxel_apart():
    check(windows((4, 4, 4), overlap=0.9), torch.randn(1, 1, 5, 6, 9), network())


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("size", [(17, 30), (30, 17), (5, 30), (8, 8)])
def test_pictures(size, number):
    image = torch.randn(2, 3, *size)
    check(windows((8, 8), sw_batch_size=number, overlap=(0.5, 0.3)), image, network(2, in_channels=3))


@pytest.mark.parametrize(("padding_mode", "cval"), [("constant", -1.0), ("replicate", 0), ("reflect", 0)])
@pytest.mark.parametrize("size", [(5, 6, 7), (20, 5, 8), (5, 20, 9), (7, 5, 20)])
def test_images_smaller_than_a_window(size, padding_mode, cval):
    given = windows(padding_mode=padding_mode, cval=cval, sw_batch_size=2)
    check(given, torch.randn(2, 1, *size), network())


@pytest.mark.parametrize("roi_size", [6, (8, -1, 5), (64, 4, -1)])
def test_other_ways_to_give_the_size_of_windows(roi_size):
    check(windows(roi_size), torch.randn(1, 1, 15, 14, 13), network())


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_any_axis_may_be_the_slow_one(axis):
    check(windows(), torch.randn(1, 1, 15, 14, 13), network(), axis=axis)


def test_windows_in_the_order_of_monai_without_a_long_axis():
    """So that sums are added in the same order, too."""
    seen = [[], []]
    image = torch.randn(1, 1, 20, 20, 20)
    given = windows(sw_batch_size=2)
    for inferer, batches in zip((given, LabelInferer(given)), seen):
        inferer(image, lambda batch, kept=batches: kept.append(batch.clone()) or torch.cat([batch, batch], 1))
    assert len(seen[0]) == 32
    assert all(map(torch.equal, *seen))


def test_blending_by_hand():
    """Windows 0-3 and 2-5 of a line of six. The network gives its first voxel a 1 for class 1, else nothing
    but -0.4. The middle voxels 2 and 3 average (-0.4 + 1) / 2 = 0.3 and -0.4; class 0 is 0."""

    def first_voxel(batch):
        values = torch.full_like(batch, -0.4)
        values[:, :, :1] = 1
        return torch.cat([torch.zeros_like(values), values], 1)

    given = SlidingWindowInferer((4, 1), overlap=0.5)
    labels = LabelInferer(given)(torch.zeros(1, 1, 6, 1), first_voxel)
    assert labels.flatten().tolist() == [1, 0, 1, 0, 0, 0]
    labels = LabelInferer(given, threshold=0.4)(torch.zeros(1, 1, 6, 1), first_voxel)
    assert labels[0, 1].flatten().tolist() == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("num_classes", "activation", "threshold"), [(1, "sigmoid", 0.5), (3, None, 0.1)])
def test_thresholds(num_classes, activation, threshold):
    net = network(num_classes=num_classes)
    image = torch.randn(2, 1, 20, 9, 13)
    labels = LabelInferer(windows(), activation, threshold)(image, net)
    activated = (lambda batch: net(batch).sigmoid()) if activation else net
    assert torch.equal(labels, expected(windows(), image, activated, threshold).to(torch.uint8))
    assert 0.1 < labels.float().mean() < 0.9


def test_softmax_before_averaging():
    net = network()
    net.weight.data *= 9
    image = torch.randn(1, 1, 20, 9, 13)
    labels = LabelInferer(windows(), activation="softmax")(image, net)
    assert torch.equal(labels, expected(windows(), image, lambda batch: net(batch).softmax(1)))
    assert not torch.equal(labels, expected(windows(), image, net))


@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.75])
def test_memory_does_not_grow_with_the_length(monkeypatch, overlap):
    """At most the planes that two windows share, the row of windows at work, and memory at hand for it."""
    held = []
    add = RollingSums.add

    def watched(self, *args):
        add(self, *args)
        held.append(self.nbytes())

    monkeypatch.setattr(RollingSums, "add", watched)
    most = []
    for length in (32, 104):
        held.clear()
        LabelInferer(windows(overlap=overlap))(torch.randn(1, 1, 16, length, 8), network())
        most.append(max(held))
    assert most[0] == most[1]
    assert most[0] <= 4 * 4 * 16 * 8 * 8
    assert held[-1] <= most[0]


def test_more_classes_than_a_byte_holds():
    for num_classes, dtype in ((256, torch.uint8), (257, torch.int16)):
        net = lambda batch, k=num_classes: torch.eye(k)[-1].reshape(1, k, 1, 1).expand(1, k, 4, 4)  # noqa: E731
        labels = LabelInferer(windows((4, 4)))(torch.zeros(1, 1, 6, 4), net)
        assert labels.dtype == dtype
        assert labels.unique().tolist() == [num_classes - 1]


def test_ties_go_to_the_first_class():
    labels = LabelInferer(windows())(
        torch.zeros(1, 1, 9, 9, 9), lambda batch: batch.expand(-1, 3, -1, -1, -1)
    )
    assert not labels.any()


def test_sums_are_single_precision_for_outputs_in_half_precision():
    image = torch.randn(1, 1, 20, 9, 13)
    net = network()
    labels = LabelInferer(windows())(image.half(), lambda batch: net(batch.float()).half())
    exact = expected(windows(), image.half().double(), lambda batch: net(batch.float()).half().double())
    assert (labels == exact).float().mean() > 0.999


def test_empty_windows_are_skipped_only_when_asked():
    image = torch.full((1, 1, 40, 8, 8), -1000.0)
    image[..., 20, 4, 4] = 50
    calls = []

    def always_one(batch):
        calls.append(len(batch))
        return torch.stack([torch.zeros_like(batch[:, 0]), torch.ones_like(batch[:, 0])], 1)

    given = windows(sw_batch_size=2)
    assert LabelInferer(given)(image, always_one).all()
    assert sum(calls) == 9
    calls.clear()
    labels = LabelInferer(given, skip_below=-1000)(image, always_one)
    # The first window always, then those at 16 and 20, which reach from 16 to 27.
    assert sum(calls) == 3
    assert labels[0, 0, :, 0, 0].nonzero().flatten().tolist() == [*range(8), *range(16, 28)]
    image[..., 39, 0, 0] = torch.nan
    assert LabelInferer(given, skip_below=-1000)(image, always_one)[..., 32:, :, :].all()
    labels = LabelInferer(given, threshold=0.0, skip_below=-1000)(image, always_one)
    assert labels[0, 0, :, 0, 0].nonzero().flatten().tolist() == [*range(8), *range(16, 28), *range(32, 40)]


def test_metadata_devices_arguments_and_progress_bar(capsys):
    image = MetaTensor(torch.randn(1, 1, 9, 9, 9), affine=np.diag([2.0, 2.0, 7.0, 1.0]))
    inferer = LabelInferer(windows(device="cpu", sw_device="cpu", progress=True))
    assert isinstance(inferer, Inferer)
    labels = inferer(
        image, lambda batch, sign, scale: torch.cat([batch * sign, batch * scale], 1), 1, scale=2
    )
    assert isinstance(labels, MetaTensor)
    assert labels.affine.equal(image.affine)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.as_tensor(), (image.as_tensor() > 0).to(torch.uint8))
    assert "windows: 100%" in capsys.readouterr().err
    LabelInferer(windows())(torch.zeros(1, 1, 8, 8, 8), network())
    assert capsys.readouterr().err == ""


def test_stored_weights_are_used():
    check(windows(cache_roi_weight_map=True), torch.randn(1, 1, 15, 14, 13), network())
    given = windows(mode="constant")
    given.roi_weight_map = torch.rand(8, 8, 8) + 0.1
    check(given, torch.randn(1, 1, 15, 14, 13), network())


def test_wrong_settings():
    with pytest.raises(InputError, match="windows: expected a SlidingWindowInferer, found SliceInferer"):
        LabelInferer(SliceInferer(roi_size=(4, 4)))
    with pytest.raises(InputError, match="windows: expected with_coord=False, found True"):
        LabelInferer(windows(with_coord=True))
    with pytest.raises(InputError, match="activation: expected softmax or sigmoid or None, found 'relu'"):
        LabelInferer(windows(), activation="relu")
    image = torch.zeros(1, 1, 9, 9, 9)
    for given, message in (
        (windows((4, 4)), r"roi_size: expected 3 values for 3 axes, found \(4, 4\)"),
        (windows(overlap=(0.1, 0.2)), r"overlap: expected 3 values for 3 axes, found \(0.1, 0.2\)"),
        (windows(overlap=1.0), "overlap: expected at least 0 and below 1, found 1.0"),
    ):
        with pytest.raises(InputError, match=message):
            LabelInferer(given)(image, network())
    with pytest.raises(InputError, match="axis: expected 0 to 2, found 3"):
        LabelInferer(windows(), axis=3)(image, network())
    with pytest.raises(
        InputError, match="threshold: expected a number for a network with one output channel"
    ):
        LabelInferer(windows())(image, network(num_classes=1))


def test_wrong_networks():
    image = torch.zeros(1, 1, 9, 9, 9)
    with pytest.raises(
        ValueError, match=r"network: expected logits \(1, K, 8, 8, 8\), got \(1, 1, 4, 4, 4\)"
    ):
        LabelInferer(windows())(image, nn.AvgPool3d(2))
    with pytest.raises(ValueError, match="network: expected one tensor, got tuple"):
        LabelInferer(windows())(image, lambda batch: (batch, batch))
