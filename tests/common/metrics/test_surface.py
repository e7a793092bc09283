"""Distances between masks: hand-counted cases, SciPy, MONAI, brute force and ITK as oracles."""

import itertools
import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy import ndimage

from common.metrics import surface
from common.metrics.surface import (
    assd,
    hausdorff,
    hausdorff_95,
    mask_distances,
    region_distance,
    rmsd,
)

MEASURES = (hausdorff, hausdorff_95, assd, region_distance, rmsd)
SPACINGS = [((9, 11), None), ((9, 11), (0.7, 2.0)), ((7, 8, 9), None), ((7, 8, 9), (0.5, 1.5, 3.0))]


# MONAI 1.6.1 passes an argument to itself that it has deprecated.
monai_warns_of_itself = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")


def random_masks(shape, seed=0):
    generator = np.random.default_rng(seed)
    return generator.random(shape) > 0.7, generator.random(shape) > 0.8


def measure_all(prediction, reference, spacing=None):
    distances = mask_distances(prediction, reference, spacing, with_region=True)
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
    root = math.sqrt((4 + 1 + 1 + 4 + 9) / 9)
    assert values == pytest.approx([3, 2.8, pooled, region, root])
    assert values[2:4] == pytest.approx([1.0, 0.975])


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
    root = math.sqrt((8 + 12 + 4 * 2) / 24)
    assert values == pytest.approx([math.sqrt(2), math.sqrt(2), (8 + outer) / 24, outer / 25 / 2, root])


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
    assert region_distance(mask_distances(*masks, spacing, with_region=True)) == pytest.approx(
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
    distances = mask_distances(*masks, spacing, with_region=True)
    assert region_distance(distances) == pytest.approx(sum(directed) / 2, rel=1e-5)


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 6)])
def test_empty_masks(shape):
    nothing, something = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    something[1, 2] = True
    assert np.isnan(measure_all(nothing, nothing)).all()
    assert measure_all(nothing, something) == [math.inf] * 5
    assert measure_all(something, nothing) == [math.inf] * 5
    assert measure_all(something, something) == [0.0] * 5


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
    with pytest.raises(ValueError, match=r"neighbors: expected one of \[4, 8\] for 2 axes, got 6"):
        mask_distances(mask, mask, neighbors=6)
    with pytest.raises(ValueError, match="outside: expected one of background, foreground, got 'edge'"):
        mask_distances(mask, mask, outside="edge")
    with pytest.raises(ValueError, match="with_region=True"):
        region_distance(mask_distances(mask, mask))


@pytest.mark.parametrize(
    ("num_axes", "neighbors", "shell"), [(2, 4, 16), (2, 8, 16), (3, 6, 98), (3, 18, 98), (3, 26, 98)]
)
def test_the_neighbors_of_a_hole_are_its_border(num_axes, neighbors, shell):
    # A hole in the middle of 5 voxels along each axis. Outside background, the shell is border as well:
    # 25 - 9 = 16 pixels, 125 - 27 = 98 voxels.
    mask = np.ones((5,) * num_axes, dtype=bool)
    mask[(2,) * num_axes] = False
    for outside, count in (("foreground", neighbors), ("background", neighbors + shell)):
        distances = mask_distances(mask, mask, neighbors=neighbors, outside=outside)
        assert [len(side) for side in distances.border] == [count] * 2


def brute_force_border(mask, neighbors, outside):
    """Coordinates of the border voxels, by looking at every neighbor of every voxel."""
    steps = {4: 1, 6: 1, 8: 2, 18: 2, 26: 3}[neighbors]
    offsets = [o for o in itertools.product((-1, 0, 1), repeat=mask.ndim) if 0 < np.count_nonzero(o) <= steps]
    assert len(offsets) == neighbors
    padded = np.pad(mask, 1, constant_values=outside == "foreground")
    return np.array(
        [
            index
            for index in zip(*np.nonzero(mask))
            if not all(padded[tuple(np.add(index, offset) + 1)] for offset in offsets)
        ]
    )


@pytest.mark.parametrize("outside", ["background", "foreground"])
@pytest.mark.parametrize(
    ("shape", "spacing", "neighbors"),
    [((7, 9), None, 4), ((7, 9), (0.7, 2.0), 8)]
    + [((5, 6, 7), spacing, count) for count in (6, 18, 26) for spacing in (None, (0.5, 1.5, 3.0))],
)
def test_border_rules_equal_brute_force(shape, spacing, neighbors, outside):
    # Blobs that touch some ends of the array and, in the last two axes, keep away from others.
    noise = np.random.default_rng(1).standard_normal((2, *shape))
    masks = [ndimage.gaussian_filter(field, 1) > 0 for field in noise]
    for mask in masks:
        mask[..., -2:] = False
    points = [brute_force_border(mask, neighbors, outside) * (spacing or 1.0) for mask in masks]
    table = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    distances = mask_distances(*masks, spacing, neighbors, outside)
    assert distances.border[0] == pytest.approx(table.min(axis=1))
    assert distances.border[1] == pytest.approx(table.min(axis=0))


def scipy_distances(prediction, reference, spacing):
    """Border and region distances read from whole distance maps."""
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (prediction, reference)]
    maps = [ndimage.distance_transform_edt(~border, sampling=spacing) for border in borders]
    return [
        maps[1][borders[0]],
        maps[0][borders[1]],
        np.where(reference, 0.0, maps[1])[prediction],
        np.where(prediction, 0.0, maps[0])[reference],
    ]


@pytest.mark.parametrize(("shape", "spacing"), [*SPACINGS, ((7, 8, 9), (0.3, 0.3, 0.3))])
def test_equal_to_scipy_to_the_last_bit(shape, spacing):
    masks = random_masks(shape, seed=2)
    distances = mask_distances(*masks, spacing, with_region=True)
    for found, expected in zip([*distances.border, *distances.region], scipy_distances(*masks, spacing)):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("voxels_per_far_point", [0, 1000, math.inf])
def test_tree_and_transform_agree_to_the_last_bit(monkeypatch, voxels_per_far_point):
    # Rings whose distance grows from 0 to 42 pixels, so that points are near and far. Lengths of this
    # spacing have no rounding, and so no two neighbors that differ by it alone.
    monkeypatch.setattr(surface, "VOXELS_PER_FAR_POINT", voxels_per_far_point)
    rows, columns = np.indices((90, 100))
    masks = [
        (rows - 45) ** 2 + (columns - column) ** 2 < radius**2 for column, radius in ((48, 42), (69, 21))
    ]
    by_rule = mask_distances(*masks, (2.0, 0.7265625))
    by_transform = mask_distances(*masks, (2.0, 0.7265625), with_region=True)
    assert max(by_rule.border[0]) > 20 * 2.0
    for found, expected in zip(by_rule.border, by_transform.border):
        assert np.array_equal(found, expected)


def test_a_mask_that_fills_the_array_has_no_border_where_outside_is_foreground():
    full, part = np.ones((3, 4), dtype=bool), strip(4, 0, 1).repeat(3, axis=0)
    assert math.isnan(hausdorff(mask_distances(full, full, outside="foreground")))
    assert hausdorff(mask_distances(part, full, outside="foreground")) == math.inf
    assert hausdorff(mask_distances(part, full)) == 2.0
