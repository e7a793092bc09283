"""Averages of per-case values that pass over undefined ones: over cases first, then over classes."""

from __future__ import annotations

import numpy as np


def mean_over_cases(values: np.ndarray) -> np.ndarray:
    """Mean of the finite values of each class.

    Args:
        values: float (N, K), one row per case; ``nan`` or ``inf`` where a case has no value for a class.

    Returns:
        float64 (K,); ``nan`` for a class without any finite value.
    """
    finite = np.isfinite(values)
    total = np.where(finite, values, 0.0).sum(axis=0, dtype=np.float64)
    count = finite.sum(axis=0)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def mean_over_classes(class_values: np.ndarray) -> float:
    """Plain mean of the finite class values (K,), ``nan`` if there is none."""
    return float(mean_over_cases(np.asarray(class_values, dtype=np.float64)[:, None])[0])
