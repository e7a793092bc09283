"""Class frequencies of the labeled scans, from a cache or without one, and classes that are missing."""

import logging

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, Dataset
from monai.transforms import Lambdad, RandSpatialCropd, SpatialPadd, ToTensord

from common.engines import class_frequencies
from common.engines.class_frequencies import labeled_class_ratios
from common.errors import InputError

NAMES = ["liver", "spleen"]


def scans(*counts):
    """Label maps of 9 voxels, so many of them class 1 and class 2, those with the last id first."""
    data = []
    for number, (first, second) in enumerate(counts):
        label = np.zeros((1, 1, 1, 9), dtype=np.uint8)
        label[..., :first], label[..., first : first + second] = 1, 2
        data.append({"id": f"c{number}", "label": label})
    return data[::-1]


class Counted:
    """Stands for the reading of a scan; MONAI's ``Lambdad`` makes a transform of it."""

    def __init__(self):
        self.calls = 0

    def __call__(self, label):
        self.calls += 1
        return label


def chain(reading=None):
    """Pads to 10 voxels, which are counted, and takes a random crop of 2, which is not."""
    crop = RandSpatialCropd("label", (1, 1, 2), random_size=False)
    return [Lambdad("label", reading or Counted()), SpatialPadd("label", (1, 1, 10)), crop]


def ratios(data, **options):
    return labeled_class_ratios(Dataset(data, chain()), 3, **options).tolist()


@pytest.mark.parametrize(
    ("first_n", "expected"),
    [
        (None, [3 / 14, 1, 1]),  # 6 + 8 voxels of background, 3 + 0 of class 1, 1 + 2 of class 2
        (1, [1 / 6, 1 / 3, 1]),  # 6, 3 and 1
        (2, [3 / 14, 1, 1]),
        (3, [4 / 20, 4 / 6, 1]),  # the first one again: 20, 6 and 4
        (4, [3 / 14, 1, 1]),  # both twice
    ],
)
def test_ratios_by_hand(first_n, expected):
    assert ratios(scans((3, 1), (0, 2)), first_n=first_n) == pytest.approx(expected)


def test_what_is_cached_is_not_read_again():
    data = scans((3, 1), (0, 2), (4, 4), (1, 1))
    expected = ratios(data)
    for rate, read_again in ((1.0, 0), (0.5, 2), (0.0, 4)):
        reading = Counted()
        cached = CacheDataset(data, chain(reading), cache_rate=rate, progress=False, num_workers=1)
        cached[0], cached[3]
        reading.calls = 0
        assert labeled_class_ratios(cached, 3).tolist() == expected
        assert reading.calls == read_again


@pytest.mark.parametrize("options", [{"hash_as_key": True}, {"runtime_cache": True}])
def test_other_forms_of_cache(options):
    data = scans((3, 1), (0, 2), (4, 4))
    data = [data[0], *data]  # a repeat that a cache by hash holds once
    cached = CacheDataset(data, chain(), progress=False, **options)
    assert labeled_class_ratios(cached, 3).tolist() == ratios(data)


def test_result_is_a_plain_tensor_although_scans_have_meta_data():
    result = labeled_class_ratios(CacheDataset(scans((3, 1)), [ToTensord("label")], progress=False), 3)
    assert (type(result), result.dtype, result.shape) == (torch.Tensor, torch.float64, (3,))


def test_class_that_no_scan_shows(caplog):
    message = r"every class in 2 scan\(s\), found none of class 1 \(liver\); label more"
    with pytest.raises(InputError, match=message):
        ratios(scans((0, 1), (0, 2)), class_names=NAMES)
    with caplog.at_level(logging.WARNING, logger=class_frequencies.__name__):
        allowed = ratios(scans((0, 1), (0, 2)), class_names=NAMES, allow_missing=True)
    assert allowed == pytest.approx([3 / 17, 1, 1])
    assert [r.getMessage() for r in caplog.records if r.name == class_frequencies.__name__] == [
        "no labeled scan shows class 1 (liver); such a class is never thinned out"
    ]


def test_class_that_only_uncounted_scans_show(caplog):
    with caplog.at_level(logging.WARNING, logger=class_frequencies.__name__):
        assert ratios(scans((3, 0), (0, 2)), first_n=1) == pytest.approx([3 / 7, 1, 1])
    assert "the first 1 labeled scan(s) do not show class 2, which is taken as rarest" in caplog.text


def test_what_cannot_be_counted():
    with pytest.raises(InputError, match="first_n: expected at least 1 scan to count, found 0"):
        ratios(scans((3, 1)), first_n=0)
    with pytest.raises(InputError, match="expected classes 0 to 1, found 2"):
        labeled_class_ratios(Dataset(scans((3, 1)), chain()), 2)
