"""MAE, soft Dice, weighted F, S-measure: numbers by hand, pixel loops as oracle, empty and full masks."""

import math

import numpy as np
import pytest

from common.metrics.saliency import mae, s_measure, soft_dice, stretched, weighted_f
from tests.helpers import reference_saliency

MEASURES = (mae, soft_dice, weighted_f, s_measure)


def random_case(seed, shape=(17, 13)):
    """A map, and a mask filling a rectangle in the corner: every pixel has one nearest object pixel."""
    generator = np.random.default_rng(seed)
    reference = np.zeros(shape, dtype=bool)
    reference[: 4 + seed, : 5 + seed] = True
    return np.clip(generator.random(shape) * 0.6 + 0.4 * reference, 0, 1), reference


def test_two_pixels_by_hand():
    prediction, reference = np.array([[0.8, 0.4]]), np.array([[True, False]])
    assert mae(prediction, reference) == pytest.approx((0.2 + 0.4) / 2)
    assert soft_dice(prediction, reference) == pytest.approx((1.6 + 1e-5) / (2.2 + 1e-5))


def test_soft_dice_of_a_faint_map():
    # 100 object pixels at 0.04: 2 * 4 / (4 + 100), far from the 1 that thresholding a stretched map gives.
    reference = np.zeros((20, 20), dtype=bool)
    reference[:10, :10] = True
    assert soft_dice(0.04 * reference, reference) == pytest.approx(8 / 104, abs=1e-6)
    assert soft_dice(stretched(0.04 * reference), reference) == pytest.approx(1)


def test_weighted_f_by_hand():
    # Objects everywhere but at one pixel, all of it found; the pixel beside it is marked by 0.5, distance 1.
    prediction, reference = np.ones((1, 3)), np.array([[True, True, False]])
    prediction[0, 2] = 0.5
    false_positive = 0.5 * (2 - 0.5 ** (1 / 5))
    precision = 2 / (2 + false_positive)
    expected = 2 * precision / (1 + precision)
    assert weighted_f(prediction, reference) == pytest.approx(expected, abs=2e-6)


def test_weighted_f_smooths_errors_of_the_object():
    # One object pixel alone, missed wholly: its error, and those carried to its neighbors, are all 1, so the
    # smoothed error is the share of the 7 x 7 window inside the 1 x 1 picture.
    g = [math.exp(-(k**2) / 50) for k in range(-3, 4)]
    recall = 1 - (g[3] / sum(g)) ** 2
    expected = 2 * recall / (1 + recall)
    assert weighted_f(np.zeros((1, 1)), np.ones((1, 1), dtype=bool)) == pytest.approx(expected, abs=2e-6)


def test_s_measure_by_hand():
    # Object: rows 0-1 of column 0. Center at row round(0.5) = 0, so the cuts are behind row 0 and column 0.
    # Map 1 and 0.5 on the object, 0 elsewhere.
    prediction = np.array([[1.0, 0.0], [0.5, 0.0]])
    reference = np.array([[True, False], [True, False]])
    inside = 2 * 0.75 / (0.75**2 + 1 + math.sqrt(0.125))
    outside = 2 * 1 / (1 + 1 + 0)
    # Quarters are single pixels, so without variance: each counts as equal.
    assert s_measure(prediction, reference) == pytest.approx(0.5 * (inside + outside) / 2 + 0.5 * 1)


@pytest.mark.parametrize("seed", range(4))
def test_equal_the_loops_over_pixels(seed):
    prediction, reference = random_case(seed)
    assert weighted_f(prediction, reference) == pytest.approx(
        reference_saliency.weighted_f(prediction, reference), abs=1e-12
    )
    assert s_measure(prediction, reference) == pytest.approx(
        reference_saliency.s_measure(prediction, reference), abs=1e-12
    )


def test_a_center_at_the_border_leaves_quarters_empty():
    reference = np.zeros((6, 6), dtype=bool)
    reference[5, 5] = True
    prediction = np.where(reference, 1.0, 0.0)
    assert s_measure(prediction, reference) == pytest.approx(1)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_perfect_map_and_its_opposite(measure):
    _, reference = random_case(2)
    best, worst = (1, 0) if measure is not mae else (0, 1)
    assert measure(reference.astype(float), reference) == pytest.approx(best, abs=2e-6)
    if measure is not weighted_f:
        assert measure(1.0 - reference, reference) == pytest.approx(worst, abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_rows_and_columns_are_treated_alike(measure):
    prediction, reference = random_case(1)
    assert measure(prediction.T, reference.T) == pytest.approx(measure(prediction, reference), abs=1e-12)


@pytest.mark.parametrize("measure", [mae, soft_dice, weighted_f])
def test_mirroring_changes_nothing(measure):
    # The S-measure is no such measure: its quarters meet behind the central pixel.
    prediction, reference = random_case(1)
    mirrored = measure(prediction[::-1, ::-1], reference[::-1, ::-1])
    assert mirrored == pytest.approx(measure(prediction, reference), abs=1e-12)


def test_masks_without_foreground_or_background():
    nothing, everything = np.zeros((4, 5), dtype=bool), np.ones((4, 5), dtype=bool)
    prediction = np.full((4, 5), 0.25)
    assert [measure(prediction, nothing) for measure in MEASURES] == pytest.approx(
        [0.25, 1e-5 / (5 + 1e-5), 0.0, 0.75]
    )
    assert [measure(np.zeros((4, 5)), nothing) for measure in MEASURES] == pytest.approx([0, 1, 0, 1])
    assert s_measure(prediction, everything) == pytest.approx(0.25)
    assert [measure(np.ones((4, 5)), everything) for measure in MEASURES] == pytest.approx(
        [0, 1, 1, 1], abs=2e-6
    )


def test_single_pixels_are_judged():
    pixel = np.full((1, 1), 0.3)
    for reference in (np.zeros((1, 1), dtype=bool), np.ones((1, 1), dtype=bool)):
        assert all(math.isfinite(measure(pixel, reference)) for measure in MEASURES)


def test_stretching():
    assert stretched(np.array([[0.2, 0.3, 0.6]])).tolist() == [[0, pytest.approx(0.25), 1]]
    assert stretched(np.full((2, 2), 0.3)).tolist() == [[0.3, 0.3]] * 2


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3), dtype=bool), "equal shapes"),
        (np.zeros((1, 2, 2)), np.zeros((1, 2, 2), dtype=bool), "equal shapes"),
        (np.zeros((0, 2)), np.zeros((0, 2), dtype=bool), "equal shapes"),
        (np.zeros((2, 2)), np.zeros((2, 2)), "expected bool, got float64"),
        (np.full((2, 2), 1.5), np.zeros((2, 2), dtype=bool), r"values in \[0, 1\]"),
        (np.full((2, 2), np.nan), np.zeros((2, 2), dtype=bool), r"values in \[0, 1\], got nan"),
    ],
)
@pytest.mark.parametrize("measure", MEASURES)
def test_what_cannot_be_judged_is_refused(measure, prediction, reference, message):
    with pytest.raises(ValueError, match=message):
        measure(prediction, reference)
