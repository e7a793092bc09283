"""Distances between masks: hand-counted cases, MONAI, brute force and ITK as oracles."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

from common.metrics.surface import (
    assd,
    hausdorff,
    hausdorff_95,
    mask_distances,
    region_distance,
)

MEASURES = (hausdorff, hausdorff_95, assd, region_distance)
SPACINGS = [((9, 11), None), ((9, 11), (0.7, 2.0)), ((7, 8, 9), None), ((7, 8, 9), (0.5, 1.5, 3.0))]


# MONAI 1.6.1 passes an argument to itself that it has deprecated.
monai_warns_of_itself = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")


def random_masks(shape, seed=0):
    generator = np.random.default_rng(seed)
    return generator.random(shape) > 0.7, generator.random(shape) > 0.8


def measure_all(prediction, reference, spacing=None):
    distances = mask_distances(prediction, reference, spacing)
    return [measure(distances) for measure in MEASURES]


def strip(length, first, last):
    mask = np.zeros((1, length), dtype=bool)
    mask[0, first : last + 1] = True
    return mask


def test_strips_counted_by_hand():
    # columns     0 1 2 3 4 5 6 7
    # prediction  # # # # . . . .   distances to the reference  2 1 0 0
    # reference   . . # # # # # .   distances to the prediction 0 0 1 2 3
    # One row: every voxel is border, so the border and region values start from the same distances.
    values = measure_all(strip(8, 0, 3), strip(8, 2, 6))
    pooled = (2 + 1 + 0 + 0 + 0 + 0 + 1 + 2 + 3) / 9
    region = ((2 + 1) / 4 + (1 + 2 + 3) / 5) / 2
    # 95th percentile of 0 0 1 2 3 lies 0.8 of the way from the fourth to the fifth value.
    assert values == pytest.approx([3, 2.8, pooled, region])
    assert values[2:] == pytest.approx([1.0, 0.975])


def test_border_and_region_differ_for_solid_masks():
    # The reference is 5 x 5, the prediction its inner 3 x 3. Prediction: 8 border voxels, each 1 from the
    # outer border; all 9 lie inside the reference, so region 0. Reference: 16 border voxels, 12 at 1 and 4
    # corners at sqrt(2); of its 25 voxels only these 16 lie outside the prediction, at the same distances.
    reference = np.zeros((9, 9), dtype=bool)
    reference[2:7, 2:7] = True
    prediction = np.zeros((9, 9), dtype=bool)
    prediction[3:6, 3:6] = True
    outer = 12 + 4 * math.sqrt(2)
    values = measure_all(prediction, reference)
    assert values == pytest.approx([math.sqrt(2), math.sqrt(2), (8 + outer) / 24, outer / 25 / 2])


@monai_warns_of_itself
@pytest.mark.parametrize(("shape", "spacing"), SPACINGS)
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_monai(shape, spacing, seed):
    masks = random_masks(shape, seed)
    prediction, reference = (torch.from_numpy(mask)[None, None].float() for mask in masks)
    options = {"include_background": True, "spacing": spacing}
    expected = [
        compute_hausdorff_distance(prediction, reference, **options),
        compute_hausdorff_distance(prediction, reference, percentile=95, **options),
        compute_average_surface_distance(prediction, reference, symmetric=True, **options),
    ]
    assert measure_all(*masks, spacing)[:3] == pytest.approx([value.item() for value in expected], rel=1e-5)


def brute_force_region_distance(prediction, reference, spacing):
    points = [np.argwhere(mask) * (spacing or 1.0) for mask in (prediction, reference)]
    table = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    return (table.min(axis=1).mean() + table.min(axis=0).mean()) / 2


@pytest.mark.parametrize(("shape", "spacing"), SPACINGS)
def test_region_distance_equals_brute_force(shape, spacing):
    masks = random_masks(shape)
    assert region_distance(mask_distances(*masks, spacing)) == pytest.approx(
        brute_force_region_distance(*masks, spacing)
    )


@pytest.mark.slow  # loading ITK takes seconds
@pytest.mark.filterwarnings("ignore")  # SWIG types of ITK warn inside C code, where an error would be a crash
@pytest.mark.parametrize(("shape", "spacing"), SPACINGS)
def test_region_distance_equals_itk(shape, spacing):
    import itk

    masks = random_masks(shape)
    images = [itk.image_from_array(mask.astype(np.int16)) for mask in masks]
    for image in images:
        image.SetSpacing([float(length) for length in (spacing or [1.0] * len(shape))[::-1]])
    directed = []
    for first, second in (images, images[::-1]):
        filter_type = itk.DirectedHausdorffDistanceImageFilter[type(first), type(second)]
        oracle = filter_type.New(Input1=first, Input2=second)
        oracle.SetUseImageSpacing(True)
        oracle.Update()
        directed.append(oracle.GetAverageHausdorffDistance())
    assert region_distance(mask_distances(*masks, spacing)) == pytest.approx(sum(directed) / 2, rel=1e-5)


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 6)])
def test_empty_masks(shape):
    nothing, something = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    something[1, 2] = True
    assert np.isnan(measure_all(nothing, nothing)).all()
    assert measure_all(nothing, something) == [math.inf] * 4
    assert measure_all(something, nothing) == [math.inf] * 4
    assert measure_all(something, something) == [0.0] * 4


def test_symmetry_flips_and_scale():
    prediction, reference = random_masks((6, 7, 8))
    spacing = (1.0, 2.0, 3.0)
    values = measure_all(prediction, reference, spacing)
    assert measure_all(reference, prediction, spacing) == pytest.approx(values)
    assert measure_all(np.flip(prediction, 1), np.flip(reference, 1), spacing) == pytest.approx(values)
    assert measure_all(prediction.T, reference.T, spacing[::-1]) == pytest.approx(values)
    assert measure_all(prediction, reference, (2.0, 4.0, 6.0)) == pytest.approx(
        [2 * value for value in values]
    )


def test_wrong_arguments():
    mask = np.ones((3, 4), dtype=bool)
    with pytest.raises(ValueError, match=r"equal shapes, got \(3, 4\), \(4, 3\)"):
        mask_distances(mask, mask.T)
    with pytest.raises(ValueError, match="expected 2 numbers"):
        mask_distances(mask, mask, (1.0, 1.0, 1.0))
