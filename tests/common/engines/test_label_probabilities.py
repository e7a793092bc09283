"""Probabilities on disk: those of MONAI's inferer, named after the case, whole or not there."""

import errno
import os

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.inferers import SlidingWindowInferer
from torch import nn

from common.engines.label_inferer import LabelInferer
from common.errors import InputError


def network(spatial_dims=3, num_classes=4):
    torch.manual_seed(num_classes)
    convolution = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
    return convolution(1, num_classes, 3, padding=1).eval()


def windows(roi_size=(8, 8, 8), overlap=0.5):
    return SlidingWindowInferer(roi_size, overlap=overlap, mode="gaussian")


def case(size, path=None):
    meta = {} if path is None else {"filename_or_obj": path}
    return MetaTensor(torch.randn(1, *size), meta=meta)


@pytest.mark.parametrize(("activation", "threshold"), [(None, None), ("softmax", None), (None, 0.0)])
def test_probabilities_on_disk(tmp_path, activation, threshold):
    net = network()
    images = torch.randn(2, 1, 21, 6, 13)
    inferer = LabelInferer(windows(), activation, threshold, probabilities_dir=tmp_path / "new")
    labels = inferer(images, net)
    activated = (lambda batch: net(batch).softmax(1)) if activation else net
    with torch.no_grad():
        averages = windows()(images, activated)
    if activation is None:
        averages = averages.softmax(1) if threshold is None else averages.sigmoid()
    assert [path.name for path in inferer.probability_files] == [
        "case_1_probabilities.npy",
        "case_2_probabilities.npy",
    ]
    for path, expected_case, found in zip(inferer.probability_files, averages, labels):
        stored = np.load(path)
        assert stored.dtype == np.float16
        np.testing.assert_allclose(stored, expected_case.numpy(), atol=6e-4)
        reduced = stored.argmax(0)[None] if threshold is None else stored >= 0.5
        # Half precision makes ties of what differed by less than 0.0005.
        assert (reduced == found.numpy()).mean() > 0.99


def test_probabilities_are_named_after_the_case(tmp_path):
    inferer = LabelInferer(windows((4, 4)), probabilities_dir=tmp_path)
    batch = list_data_collate([{"image": case((6, 6), f"/{x}/scan.nii.gz")} for x in "ab"])["image"]
    for _ in range(2):
        inferer(batch, network(2))
    names = ["scan_probabilities.npy", "scan_2_probabilities.npy"]
    assert [path.name for path in inferer.probability_files] == names
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_no_file_is_left_of_a_run_that_failed(tmp_path, monkeypatch):
    inferer = LabelInferer(windows((4, 4)), probabilities_dir=tmp_path)
    outputs = iter([torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)])
    with pytest.raises(RuntimeError):
        inferer(torch.zeros(1, 1, 4, 16), lambda batch: next(outputs))
    assert list(tmp_path.iterdir()) == []

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"case_1_probabilities.npy: cannot be written \(No space left"):
        inferer(torch.zeros(1, 1, 4, 16), network(2))
    assert list(tmp_path.iterdir()) == []


def test_skipped_voxels_are_certainly_background(tmp_path):
    image = torch.zeros(1, 1, 16, 4)
    image[..., 0, 0] = 1
    inferer = LabelInferer(windows((4, 4), overlap=0), skip_below=0, probabilities_dir=tmp_path)
    inferer(image, network(2, num_classes=2))
    stored = np.load(inferer.probability_files[0])
    assert (stored[0, 4:] == 1).all()
    assert (stored[1, 4:] == 0).all()
    assert (stored[:, :4] < 1).all()
