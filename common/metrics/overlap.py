"""Overlap and volume of two masks, from their voxel counts.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv June 2020.
Implements: equations 7 and 8 (VO, RVD), and DICE as the CHAOS organizers take it.
Differs from the paper: the sign of RVD is kept; its absolute value is the organizers' RAVD. Empty masks, on
which all sources are silent, have the values below.
"""

from __future__ import annotations

import numpy as np

from common.metrics.threshold_curves import PixelCounts


def volume_overlap(counts: PixelCounts) -> float:
    """Share of the voxels of either mask that are in both, in percent (Jaccard).

    Args:
        counts: of a prediction against a reference, see :func:`common.metrics.threshold_curves.mask_counts`.

    Returns:
        100 tp / (tp + fp + fn); 100 if both masks are empty, 0 if one is.

    Source: Baydar 2020, equation 7. 100 - VO is the volumetric overlap error (VOE) of SLIVER07.
    """
    union = counts.tp + counts.fp + counts.fn
    return float(100 * counts.tp / union) if union else 100.0


def dice(counts: PixelCounts) -> float:
    """Dice of two masks, between 0 and 1.

    Args:
        counts: of a prediction against a reference.

    Returns:
        2 tp / (2 tp + fp + fn); 1 if both masks are empty, 0 if one is.

    Source: CHAOS evaluation, "DICE".
    """
    total = 2 * counts.tp + counts.fp + counts.fn
    return float(2 * counts.tp / total) if total else 1.0


def relative_volume_difference(counts: PixelCounts) -> float:
    """How much larger the prediction is than the reference, in percent of the reference (RVD, signed).

    Two masks of one size have 0, wherever they are.

    Args:
        counts: of a prediction against a reference.

    Returns:
        Negative if the prediction is too small: -100 exactly if it alone is empty; ``inf`` if the reference
        alone is empty, 0 if both are.

    Source: Baydar 2020, equation 8, without the absolute value.
    """
    reference = counts.tp + counts.fn
    if not reference:
        return np.inf if counts.fp else 0.0
    return float(100 * (counts.fp - counts.fn) / reference)
