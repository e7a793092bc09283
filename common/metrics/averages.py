"""Averages of per-case values that pass over undefined ones: over cases first, then over classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mean_over_cases(values: np.ndarray) -> np.ndarray:
    """Mean of the finite values of each class.

    Args:
        values: float (N, ...), one row per case, usually (N, K); ``nan`` or ``inf`` where a case has no
            value.

    Returns:
        float64 (...); ``nan`` where no value is finite.
    """
    finite = np.isfinite(values)
    total = np.where(finite, values, 0.0).sum(axis=0, dtype=np.float64)
    count = finite.sum(axis=0)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def mean_over_groups(values: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Mean of the finite values within each group, e.g. over the frames of each video clip.

    The mean over cases of the result weighs every group alike, however many cases it has.

    Args:
        values: float (N, ...), one row per case; ``nan`` or ``inf`` where a case has no value.
        groups: name of the group of each case, N names.

    Returns:
        float64 (G, ...), the groups sorted by name; ``nan`` where no value of a group is finite.

    Raises:
        ValueError: not one name per case.
    """
    if len(groups) != len(values):
        raise ValueError(f"groups: expected {len(values)} names, one per case, found {len(groups)}")
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    means = np.empty((len(names), *values.shape[1:]))
    for group in range(len(names)):
        means[group] = mean_over_cases(values[index == group])
    return means


def mean_over_classes(class_values: np.ndarray) -> float:
    """Plain mean of the finite class values (K,), ``nan`` if there is none."""
    return float(mean_over_cases(np.asarray(class_values, dtype=np.float64)[:, None])[0])
