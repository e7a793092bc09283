"""Means that pass over undefined values."""

import numpy as np
import pytest

from common.metrics.averages import mean_over_cases, mean_over_classes, mean_over_groups


def test_undefined_values_do_not_count():
    values = np.array([[1.0, 2.0, np.nan], [3.0, np.inf, np.nan], [8.0, 5.0, np.inf]])
    assert mean_over_cases(values) == pytest.approx([4.0, 3.5, np.nan], nan_ok=True)


def test_every_class_weighs_the_same_whatever_its_number_of_cases():
    values = np.array([[1.0, 6.0], [3.0, np.nan]])
    assert mean_over_classes(mean_over_cases(values)) == pytest.approx((2.0 + 6.0) / 2)


def test_nothing_finite_gives_nan():
    assert np.isnan(mean_over_classes(np.array([np.nan, np.inf])))


def test_groups_weigh_the_same_whatever_their_number_of_cases():
    # Clip a: frames 0.9, 0.8, 0.7, mean 0.8; clip b: one frame of 0.2. Frames: 2.6 / 4; clips: 1.0 / 2.
    values = np.array([[0.9], [0.2], [0.8], [0.7]])
    means = mean_over_groups(values, ["a", "b", "a", "a"])
    assert means == pytest.approx(np.array([[0.8], [0.2]]))
    assert mean_over_cases(values) == pytest.approx([0.65])
    assert mean_over_cases(means) == pytest.approx([0.5])


def test_groups_are_sorted_by_name_and_without_finite_value_nan():
    values = np.array([[np.nan, 3.0], [np.inf, 5.0], [4.0, np.nan]])
    expected = np.array([[4.0, np.nan], [np.nan, 4.0]])
    np.testing.assert_allclose(mean_over_groups(values, ["z", "z", "b"]), expected)


def test_group_means_keep_all_further_axes():
    values = np.random.default_rng(0).normal(size=(11, 2, 5))
    values[values > 1] = np.nan
    names = np.array(list("abcacbbacab"))
    expected = [np.nanmean(values[names == name], axis=0) for name in "abc"]
    np.testing.assert_allclose(mean_over_groups(values, names.tolist()), expected)
    np.testing.assert_allclose(mean_over_groups(values[:, 0, 0], names.tolist()), np.array(expected)[:, 0, 0])


def test_one_group_name_per_case_is_needed():
    with pytest.raises(ValueError, match="groups: expected 2 names, one per case, found 3"):
        mean_over_groups(np.zeros((2, 1)), ["a", "b", "c"])
