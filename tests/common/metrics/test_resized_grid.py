"""Dice and ASD as the semi-supervised papers count them: by hand, against MONAI, and on empty masks."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_dice

from common.metrics.resized_grid import dice_percent, selection_dice, surface_distance_vox

monai_warns_of_itself = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
EMPTY = np.zeros((4, 5, 16), dtype=bool)


def line(*places):
    mask = EMPTY.copy()
    mask[2, 2, list(places)] = True
    return mask


def blobs(seed, shape=(9, 12, 7)):
    """Random mask that touches the ends of the grid."""
    coarse = np.random.default_rng(seed).random((3, 4, 3)) > 0.4
    return np.kron(coarse, np.ones((3, 3, 3), dtype=bool))[tuple(slice(0, size) for size in shape)]


def test_dice_by_hand():
    """One voxel of three and two in common: 2 / 5."""
    assert dice_percent(line(1, 2, 3), line(3, 9)) == pytest.approx(40)
    assert selection_dice(line(1, 2, 3), line(3, 9)) == pytest.approx(0.4, abs=1e-8)


def test_distance_runs_one_way():
    """By hand: from 0 and 3 to the nearest of 0 and 13 are 0 and 3; back are 0 and 10."""
    assert surface_distance_vox(line(0, 3), line(0, 13)) == pytest.approx(1.5)
    assert surface_distance_vox(line(0, 13), line(0, 3)) == pytest.approx(5)


def test_part_of_an_organ_is_near_it():
    organ = EMPTY.copy()
    organ[1:3, 1:4, 2:14] = True
    assert surface_distance_vox(line(2, 3), organ) == 0
    assert surface_distance_vox(organ, line(2, 3)) > 3


def test_inner_voxels_are_no_border_and_the_end_of_the_grid_is_outside():
    """A cube that fills a grid of 3 has 26 border voxels: 6 are 1 from the middle, 12 sqrt 2, 8 sqrt 3."""
    cube = np.ones((3, 3, 3), dtype=bool)
    middle = np.zeros_like(cube)
    middle[1, 1, 1] = True
    expected = (6 + 12 * 2**0.5 + 8 * 3**0.5) / 26
    assert surface_distance_vox(cube, middle) == pytest.approx(expected)
    # The middle is 1 away from the border around it, although it lies inside.
    assert surface_distance_vox(middle, cube) == 1


@pytest.mark.parametrize(
    ("prediction", "reference", "dice", "distance", "selection"),
    [
        (line(1), EMPTY, 0, 128, 0),
        (EMPTY, line(1), 0, 128, 0),
        (EMPTY, EMPTY, 1, 0, 0.5),
        (line(1), line(1), 100, 0, 1),
    ],
)
def test_empty_masks(prediction, reference, dice, distance, selection):
    assert dice_percent(prediction, reference) == dice
    assert surface_distance_vox(prediction, reference) == distance
    assert selection_dice(prediction, reference) == pytest.approx(selection, abs=2e-8)


@monai_warns_of_itself
@pytest.mark.parametrize("seed", range(4))
def test_same_numbers_as_monai(seed):
    prediction, reference = blobs(seed), blobs(seed + 10)
    masks = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    distance = compute_average_surface_distance(*masks, include_background=True, symmetric=False)
    assert surface_distance_vox(prediction, reference) == pytest.approx(float(distance), abs=1e-5)
    assert dice_percent(prediction, reference) == pytest.approx(100 * float(compute_dice(*masks)), abs=1e-4)


@pytest.mark.parametrize("measure", [dice_percent, surface_distance_vox, selection_dice])
def test_other_shape_is_refused(measure):
    with pytest.raises(ValueError, match=r"expected equal shapes, got \(4, 5, 16\), \(1, 5, 16\)"):
        measure(EMPTY, EMPTY[:1])
