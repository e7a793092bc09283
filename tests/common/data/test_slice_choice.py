"""Which slices of a volume are taken, by hand."""

import numpy as np
import pytest

from common.data.slice_choice import Picks, SliceRule, pick_slices
from common.data.slice_index import VolumeSlices
from common.errors import InputError


def volume(*area):
    """A volume whose slices show so many voxels of the only class."""
    return VolumeSlices(len(area), np.array([area], dtype=np.int64))


# Target in slices 2 to 10, most of it in 5; the quarter points are 2 + 8 / 4 = 4 and 2 + 3 * 8 / 4 = 8.
ORGAN = volume(0, 0, 1, 2, 5, 9, 7, 4, 3, 2, 1, 0, 0)


def test_the_rule_of_the_default():
    assert pick_slices(ORGAN) == Picks([5], [4, 8])


def test_classes_count_together():
    two = VolumeSlices(3, np.array([[5, 0, 1], [0, 1, 5]]))
    assert pick_slices(two).labeled == [2]


def test_of_equal_slices_the_lowest_is_labeled():
    assert pick_slices(volume(0, 3, 1, 3, 3)).labeled == [1]


def test_a_labeled_slice_is_never_unlabeled_too():
    # Range 0 to 4: quarter points 1 and 3; 1 is labeled, and of 0 and 2 the lower one is taken.
    assert pick_slices(volume(1, 9, 1, 1, 1)) == Picks([1], [0, 3])
    # Both points fall on the labeled slice: its neighbors.
    assert pick_slices(volume(0, 0, 4, 0, 0)) == Picks([2], [1, 3])
    # At the end of the volume, the next one that is free.
    assert pick_slices(volume(4, 0, 0, 0)) == Picks([0], [1, 2])


def test_halves_go_to_the_lower_slice():
    # Range 0 to 2, points 0.5 and 1.5: the first takes 0, the second, with 1 labeled, 2.
    assert pick_slices(volume(1, 2, 1)) == Picks([1], [0, 2])
    # Range 0 to 6, points 1.5 and 4.5: 1 and 4.
    assert pick_slices(volume(9, 1, 1, 1, 1, 1, 1)) == Picks([0], [1, 4])


@pytest.mark.parametrize(
    ("number", "expected"), [(0, []), (1, [6]), (3, [3, 6, 9]), (99, [0, 1, 2, 3, 4, *range(6, 13)])]
)
def test_number_of_unlabeled_slices(number, expected):
    # One: the middle, 6. Three: 2 + 8 / 6 = 3.33, 6 and 8.67. More than there are: all others.
    assert pick_slices(ORGAN, SliceRule(num_unlabeled=number)) == Picks([5], expected)


def test_neighbors():
    rule = SliceRule(unlabeled="neighbor")
    assert pick_slices(ORGAN, rule) == Picks([5], [4, 6])
    assert pick_slices(ORGAN, SliceRule(unlabeled="neighbor", num_unlabeled=3)) == Picks([5], [3, 4, 6])
    assert pick_slices(volume(4, 1, 1), rule) == Picks([0], [1, 2])


def test_random_slices_come_from_the_range_and_from_the_seed():
    rule = SliceRule(unlabeled="random")
    picks = [pick_slices(ORGAN, rule, f"{seed} case").unlabeled for seed in range(60)]
    assert picks == [pick_slices(ORGAN, rule, f"{seed} case").unlabeled for seed in range(60)]
    assert {index for pick in picks for index in pick} == {2, 3, 4, 6, 7, 8, 9, 10}
    assert all(len(set(pick)) == 2 for pick in picks)


def test_every_slice_of_own_volumes():
    target = SliceRule(labeled="target", unlabeled="all")
    assert pick_slices(ORGAN, target) == Picks(list(range(2, 11)), [0, 1, 11, 12])
    assert pick_slices(ORGAN, SliceRule(labeled="all")) == Picks(list(range(13)), [])
    assert pick_slices(ORGAN, SliceRule(unlabeled="target")) == Picks([5], [2, 3, 4, 6, 7, 8, 9, 10])
    assert len(pick_slices(ORGAN, SliceRule(unlabeled="all")).unlabeled) == 12


@pytest.mark.parametrize("unlabeled", ["quantile", "neighbor", "random", "target", "all"])
def test_labels_without_target(unlabeled):
    empty = volume(0, 0, 0)
    assert pick_slices(empty, SliceRule(unlabeled=unlabeled)) == Picks([], [])
    assert pick_slices(empty, SliceRule(labeled="all", unlabeled=unlabeled)) == Picks([0, 1, 2], [])


def test_images_without_label_are_wholly_their_range():
    bare = VolumeSlices(9, None)
    assert pick_slices(bare) == Picks([], [2, 6])
    assert pick_slices(bare, SliceRule(unlabeled="all")) == Picks([], list(range(9)))
    assert len(pick_slices(bare, SliceRule(unlabeled="random", num_unlabeled=4)).unlabeled) == 4
    for unlabeled in ("neighbor", "target"):
        with pytest.raises(InputError, match="expected quantile, random or all for images without label"):
            pick_slices(bare, SliceRule(unlabeled=unlabeled))


def test_a_picture_is_one_slice():
    assert pick_slices(volume(7)) == Picks([0], [])
    assert pick_slices(VolumeSlices(1, None)) == Picks([], [0])


def test_unknown_rules():
    with pytest.raises(InputError, match="labeled: expected one of largest, target, all, found 'biggest'"):
        SliceRule(labeled="biggest")
    with pytest.raises(InputError, match="unlabeled: expected one of quantile, .* found 'quantiles'"):
        SliceRule(unlabeled="quantiles")
    for number in (-1, 1.5):
        with pytest.raises(InputError, match="num_unlabeled: expected 0 or more"):
            SliceRule(num_unlabeled=number)
