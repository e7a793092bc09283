"""Distance between the edges of a layer in two masks of an optical coherence scan.

Paper: Zhao et al., "M2SNet: Multi-scale in Multi-scale Subtraction Network for Medical Image Segmentation",
arXiv 2303.10894.
Implements: the column "MED" of the GOALS table.
Differs from the paper: the challenge's exact formula is not published; the one here is our reading of "mean
Euclidean distance of the layer edges".
Axes: H W space, layers run along W.
"""

from __future__ import annotations

import numpy as np


def mean_edge_distance(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Mean vertical distance of the upper and of the lower edge of a layer, over the columns that have both.

    The edges of a column are its first and its last pixel of the layer. Holes between them do not matter.

    Args:
        prediction: bool (H, W), the layer to judge.
        reference: bool (H, W).

    Returns:
        Distance in pixels; 0 if both masks are empty, ``inf`` if no column has the layer in both.

    Raises:
        ValueError: the shapes differ or are not (H, W).

    Source: our choice, see the module.
    """
    if prediction.shape != reference.shape or prediction.ndim != 2:
        raise ValueError(
            "prediction and reference: expected equal shapes (H, W),"
            f" got {prediction.shape}, {reference.shape}"
        )
    columns = prediction.any(axis=0) & reference.any(axis=0)
    if not columns.any():
        return np.inf if prediction.any() or reference.any() else 0.0
    differences = [
        np.abs(first[:, columns].argmax(axis=0) - second[:, columns].argmax(axis=0)).mean()
        for first, second in ((prediction, reference), (prediction[::-1], reference[::-1]))
    ]
    return float(sum(differences) / 2)
