"""Means that pass over undefined values."""

import numpy as np
import pytest

from common.metrics.averages import mean_over_cases, mean_over_classes


def test_undefined_values_do_not_count():
    values = np.array([[1.0, 2.0, np.nan], [3.0, np.inf, np.nan], [8.0, 5.0, np.inf]])
    assert mean_over_cases(values) == pytest.approx([4.0, 3.5, np.nan], nan_ok=True)


def test_every_class_weighs_the_same_whatever_its_number_of_cases():
    values = np.array([[1.0, 6.0], [3.0, np.nan]])
    assert mean_over_classes(mean_over_cases(values)) == pytest.approx((2.0 + 6.0) / 2)


def test_nothing_finite_gives_nan():
    assert np.isnan(mean_over_classes(np.array([np.nan, np.inf])))
