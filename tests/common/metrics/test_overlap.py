"""Overlap and volume of masks: counted by hand, MONAI as oracle, empty masks."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_iou

from common.metrics.overlap import dice, relative_volume_difference, volume_overlap
from common.metrics.threshold_curves import mask_counts

MEASURES = (volume_overlap, dice, relative_volume_difference)


def measure_all(prediction, reference):
    counts = mask_counts(np.array(prediction, dtype=bool), np.array(reference, dtype=bool))
    return [measure(counts) for measure in MEASURES]


def test_counted_by_hand():
    # 3 voxels in both, 4 in the prediction, 5 in the reference, 6 in either.
    values = measure_all([1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 0])
    assert values == pytest.approx([100 * 3 / 6, 6 / 9, -20.0])
    values = measure_all([0, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0])
    assert values == pytest.approx([100 * 3 / 6, 6 / 9, 25.0])


def test_volumes_of_one_size_do_not_differ_wherever_they_are():
    assert measure_all([1, 1, 0, 0], [0, 0, 1, 1]) == [0.0, 0.0, 0.0]


def test_empty_masks():
    assert measure_all([0, 0], [0, 0]) == [100.0, 1.0, 0.0]
    assert measure_all([0, 0], [1, 1]) == [0.0, 0.0, -100.0]
    assert measure_all([1, 0], [0, 0]) == [0.0, 0.0, math.inf]


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_monai(seed):
    masks = np.random.default_rng(seed).random((2, 5, 6, 7)) > 0.4
    prediction, reference = (torch.from_numpy(mask)[None, None].float() for mask in masks)
    overlap, share, difference = measure_all(*masks)
    assert overlap == pytest.approx(100 * compute_iou(prediction, reference).item(), rel=1e-6)
    assert share == pytest.approx(compute_dice(prediction, reference).item(), rel=1e-6)
    assert share == pytest.approx(2 * overlap / (100 + overlap))
    assert difference == pytest.approx(100 * (prediction.sum() / reference.sum() - 1).item(), rel=1e-5)
