"""Scores of one soft map against one mask: MAE, soft Dice, weighted F-measure and S-measure.

Paper: Zhao et al., "M2SNet: Multi-scale in Multi-scale Subtraction Network for Medical Image Segmentation",
arXiv 2303.10894.
Implements: columns of its tables; the measures are those of Margolin et al., CVPR 2014 (weighted F) and Fan
et al., ICCV 2017 (S-measure).
Differs from the paper: "mean Dice" there is a soft Dice, see ``soft_dice``. For the S-measure the released
script divides some variances by n, here all are divided by n - 1; they agree to 3e-5.
Axes: H W space.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SMOOTH = 1e-5
EPS = np.finfo(np.float64).eps


def check_maps(prediction: np.ndarray, reference: np.ndarray) -> None:
    """Refuse what the measures of this folder cannot judge.

    Args:
        prediction: float (H, W) in [0, 1].
        reference: bool (H, W).

    Raises:
        ValueError: other shapes, types or values, no pixels, or not finite.
    """
    if prediction.shape != reference.shape or prediction.ndim != 2 or not prediction.size:
        raise ValueError(
            "prediction and reference: expected equal shapes (H, W),"
            f" got {prediction.shape}, {reference.shape}"
        )
    if reference.dtype != bool:
        raise ValueError(f"reference: expected bool, got {reference.dtype}")
    lowest, highest = prediction.min(), prediction.max()
    if not (lowest >= 0 and highest <= 1):  # also refuses nan
        raise ValueError(f"prediction: expected values in [0, 1], got {lowest} to {highest}")


def stretched(prediction: np.ndarray) -> np.ndarray:
    """Shift and scale a map so that it runs from 0 to 1, as both published protocols do with every image.

    This makes an object out of the faintest response, so images without an object can only lose by it.

    Args:
        prediction: float (H, W) in [0, 1].

    Returns:
        float64 (H, W); a constant map as it is.
    """
    prediction = prediction.astype(np.float64)
    lowest, highest = prediction.min(), prediction.max()
    if lowest == highest:
        return prediction
    return (prediction - lowest) / (highest - lowest)


def mae(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Mean absolute difference.

    Args:
        prediction: float (H, W) in [0, 1].
        reference: bool (H, W).

    Returns:
        Number in [0, 1].

    Raises:
        ValueError: see :func:`check_maps`.
    """
    check_maps(prediction, reference)
    return float(np.abs(prediction.astype(np.float64) - reference).mean())


def soft_dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice of the map as it is, without any threshold: "mean Dice" of the authors' script.

    Args:
        prediction: float (H, W) in [0, 1].
        reference: bool (H, W).

    Returns:
        (2 sum(p g) + 1e-5) / (sum(p) + sum(g) + 1e-5); 1 if both are empty, nearly 0 if one is.

    Raises:
        ValueError: see :func:`check_maps`.

    Source: Zhao 2023, released code. Elsewhere Dice is taken of binary masks, which is a larger number.
    """
    check_maps(prediction, reference)
    prediction = prediction.astype(np.float64)
    total = prediction.sum() + reference.sum()
    return float((2 * prediction[reference].sum() + SMOOTH) / (total + SMOOTH))


def weighted_f(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Weighted F-measure with beta 1: errors count less beside correct pixels and less near the object.

    Args:
        prediction: float (H, W) in [0, 1].
        reference: bool (H, W).

    Returns:
        Number in [0, 1]; 0 if the reference is empty.

    Raises:
        ValueError: see :func:`check_maps`.

    Source: Margolin 2014; 7 x 7 Gaussian of 5 px, half of the penalty of distance within 5 px.
    """
    check_maps(prediction, reference)
    if not reference.any():
        return 0.0
    error = np.abs(prediction.astype(np.float64) - reference)
    distance, nearest = ndimage.distance_transform_edt(~reference, return_indices=True)
    # Background carries the error of the nearest object pixel, so that smoothing mixes object pixels only.
    smoothed = _gaussian_7(error[tuple(nearest)])
    error_inside = np.minimum(error, smoothed)[reference]
    penalty = 2 - np.exp(np.log(0.5) / 5 * distance[~reference])
    false_positive = (error[~reference] * penalty).sum()
    recall = 1 - error_inside.mean()
    true_positive = reference.sum() * recall
    eps = 1e-6
    precision = true_positive / (true_positive + false_positive + eps)
    return float(2 * recall * precision / (recall + precision + eps))


def _gaussian_7(image: np.ndarray) -> np.ndarray:
    """Smooth by a 7 x 7 Gaussian of 5 px whose weights sum to 1, zeros around the image."""
    weights = np.exp(-(np.arange(-3.0, 4.0) ** 2) / (2 * 5.0**2))
    weights /= weights.sum()
    for axis in (0, 1):
        image = ndimage.correlate1d(image, weights, axis=axis, mode="constant")
    return image


def s_measure(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Structure measure: half likeness of object and background, half likeness of four quarters.

    Args:
        prediction: float (H, W) in [0, 1].
        reference: bool (H, W).

    Returns:
        Number in [0, 1]. Without object in the reference 1 - mean of the map, without background its mean.

    Raises:
        ValueError: see :func:`check_maps`.

    Source: Fan 2017 with alpha 0.5; variances are divided by n - 1.
    """
    check_maps(prediction, reference)
    prediction = prediction.astype(np.float64)
    share = reference.mean()
    if share in (0, 1):
        return float(prediction.mean() if share else 1 - prediction.mean())
    objects = share * _object_score(prediction[reference])
    objects += (1 - share) * _object_score(1 - prediction[~reference])
    return float(max(0.0, 0.5 * objects + 0.5 * _quarters_score(prediction, reference)))


def _object_score(values: np.ndarray) -> float:
    """High if all values are close to 1."""
    mean = values.mean()
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + EPS)


def _quarters_score(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Mean likeness of the quarters around the center of the object, weighted by their areas."""
    row, column = (int(np.round(axis.mean())) + 1 for axis in np.nonzero(reference))
    score = 0.0
    for rows in (slice(row), slice(row, None)):
        for columns in (slice(column), slice(column, None)):
            part = prediction[rows, columns], reference[rows, columns].astype(np.float64)
            score += part[0].size / prediction.size * (_likeness(*part) if part[0].size else 0.0)
    return score


def _likeness(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity of two blocks from their means, variances and covariance."""
    # Differences to a pixel instead of the mean keep the variance of a constant block exactly zero.
    deviations = [block - block.flat[0] for block in (prediction, reference)]
    deviations = [block - block.mean() for block in deviations]
    divisor = max(prediction.size - 1, 1)
    variances = sum((block**2).sum() for block in deviations) / divisor
    covariance = (deviations[0] * deviations[1]).sum() / divisor
    means = prediction.mean(), reference.mean()
    numerator = 4 * means[0] * means[1] * covariance
    denominator = (means[0] ** 2 + means[1] ** 2) * variances
    if numerator == 0:
        return float(denominator == 0)
    return numerator / (denominator + EPS)
