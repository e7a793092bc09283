"""Scores from pixel counts: numbers by hand, 256 passes as oracle, protocols, masks without foreground."""

import numpy as np
import pytest

from common.metrics import threshold_curves as curves
from common.metrics.saliency import soft_dice, stretched
from tests.helpers import reference_saliency

SCORES = (curves.dice, curves.jaccard, curves.recall, curves.hit_specificity, curves.e_measure)


def disc(radius=6.0, center=(14.0, 17.0), shape=(32, 30)):
    y, x = np.indices(shape)
    return np.hypot(y - center[0], x - center[1]) - radius


def case(seed=0):
    """A soft disc, off its reference, with noise."""
    noise = np.random.default_rng(seed).normal(0, 0.05, (32, 30))
    soft = 1 / (1 + np.exp(disc(center=(15.5, 16.0)) / 1.5))
    return stretched(np.clip(soft + noise, 0, 1)), disc() < 0


def test_scores_of_counts_by_hand():
    counts = curves.PixelCounts(*map(np.float64, (6, 2, 3, 9)))
    found = [score(counts) for score in (curves.dice, curves.jaccard, curves.precision, curves.recall)]
    assert found == pytest.approx([12 / 17, 6 / 11, 6 / 8, 6 / 9])
    assert curves.specificity(counts) == curves.hit_specificity(counts) == pytest.approx(9 / 11)
    assert curves.smooth_jaccard(counts) == pytest.approx((6 + 1e-5) / (11 + 1e-5), abs=1e-12)


def test_e_measure_by_hand():
    # One pixel each of tp, fp, fn, tn: both means are 1/2, so tp and tn align by 1, fp and fn by -1.
    assert curves.e_measure(curves.PixelCounts(1, 1, 1, 1)) == pytest.approx((1 + 0 + 0 + 1) / 3)
    # 2 tp, 2 fn, 0 fp, 4 tn: means 1/4 and 1/2.
    tp = 2 * (3 / 4) * (1 / 2) / (9 / 16 + 1 / 4)
    fn = 2 * (-1 / 4) * (1 / 2) / (1 / 16 + 1 / 4)
    tn = 2 * (-1 / 4) * (-1 / 2) / (1 / 16 + 1 / 4)
    expected = (2 * (tp + 1) ** 2 + 2 * (fn + 1) ** 2 + 4 * (tn + 1) ** 2) / 4 / 7
    assert curves.e_measure(curves.PixelCounts(2, 0, 2, 4)) == pytest.approx(expected)
    assert curves.e_measure(curves.PixelCounts(4, 0, 0, 4)) == pytest.approx(8 / 7)


def test_a_pixel_passes_the_thresholds_up_to_its_value():
    counts = curves.curve_counts(np.array([[0.0, 100 / 255, 1.0]]), np.array([[True, False, True]]))
    assert counts.tp.tolist() == [2, *[1] * 255]
    assert counts.fp.tolist() == [*[1] * 101, *[0] * 155]
    assert counts.fn.tolist() == [0, *[1] * 255]
    assert counts.tn.tolist() == [*[0] * 101, *[1] * 155]


def test_gray_values_in_single_precision_count_as_themselves():
    grays = np.arange(256, dtype=np.float32)[None] / np.float32(255)
    assert curves.curve_counts(grays, np.ones((1, 256), dtype=bool)).tp.tolist() == list(range(256, 0, -1))


@pytest.mark.parametrize("seed", range(3))
def test_one_histogram_equals_256_passes(seed):
    prediction, reference = case(seed)
    counts = curves.curve_counts(prediction, reference)
    expected = reference_saliency.threshold_scores(prediction, reference)
    np.testing.assert_allclose([score(counts) for score in SCORES], expected, rtol=0, atol=1e-13)


def test_counts_of_a_mask_equal_those_of_the_curve():
    prediction, reference = case()
    curve = curves.curve_counts(prediction, reference)
    for level in (0, 100, 255):
        mask = prediction >= level / 255
        assert list(curves.mask_counts(mask, reference)) == [count[level] for count in curve]


def test_adaptive_threshold_is_twice_the_mean_up_to_one():
    assert curves.adaptive_threshold(np.array([[0.0, 0.1, 0.5]])) == pytest.approx(0.4)
    assert curves.adaptive_threshold(np.array([[0.9, 0.8]])) == 1.0


def test_protocols_give_different_numbers_for_one_prediction():
    prediction, reference = case()
    curve = curves.dice(curves.curve_counts(prediction, reference))
    at_half = curves.dice(curves.mask_counts(prediction > 0.5, reference))
    assert soft_dice(prediction, reference) < curve.mean() < at_half <= curve.max()


def test_empty_reference_never_gives_nan():
    empty = np.zeros((4, 5), dtype=bool)
    prediction = np.zeros((4, 5))
    prediction[0, 0] = 0.5
    counts = curves.curve_counts(prediction, empty)
    for score in (curves.dice, curves.jaccard, curves.precision, curves.recall, curves.hit_specificity):
        assert score(counts).tolist() == [0.0] * 256
    # Thresholds 0; up to 127/255; above.
    assert curves.e_measure(counts).tolist() == pytest.approx([0, *[19 / 19] * 127, *[20 / 19] * 128])
    assert curves.specificity(counts)[[0, 1, 255]].tolist() == [0, 19 / 20, 1]
    nothing = curves.mask_counts(empty, empty)
    assert (curves.dice(nothing), curves.smooth_jaccard(nothing)) == (0, 1)


def test_full_reference_never_gives_nan():
    full = np.ones((2, 2), dtype=bool)
    counts = curves.mask_counts(np.array([[True, False], [True, True]]), full)
    assert curves.e_measure(counts) == pytest.approx(3 / 3)
    assert (curves.specificity(counts), curves.recall(counts)) == (1, 3 / 4)
    assert curves.e_measure(curves.mask_counts(full[:1, :1], full[:1, :1])) == 1


def test_maps_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        curves.curve_counts(np.full((2, 2), -0.1), np.zeros((2, 2), dtype=bool))
