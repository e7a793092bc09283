"""What the CHAOS challenge measures of one organ in one scan, and what it lacks for five-column tables.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv June 2020; Kavur et al., "CHAOS Challenge - combined (CT-MR) healthy abdominal organ
segmentation", Medical Image Analysis 69, 2021, and the organizers' evaluation code.
Implements: equations 7, 8 and 10-12 of the first; DICE, RAVD, ASSD and MSSD of the second.
Differs from them: the organizers' Python code fails on empty masks; here they have the worst values of its
MATLAB version, and two empty masks agree.
Axes: X Y Z space, any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from common.metrics.overlap import dice, relative_volume_difference, volume_overlap
from common.metrics.surface import assd, hausdorff, mask_distances, rmsd
from common.metrics.threshold_curves import mask_counts

SURFACE_MEASURES = {"assd_mm": assd, "rmsd_mm": rmsd, "mssd_mm": hausdorff}
ORGAN_MEASURES = ("vo", "dice", "rvd", "ravd", *SURFACE_MEASURES)


def organ_values(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], neighbors: int | None = None
) -> dict[str, float]:
    """Raw values of one organ in one scan.

    Borders follow the organizers' code: beyond the ends of the scan lies foreground, so an organ cut off by
    the last slice has no border there. MONAI's surface metrics count one.

    Args:
        prediction: bool (X, Y, Z), the mask to judge, on the grid of the scan.
        reference: bool, same shape.
        spacing_mm: edge length of a voxel along each array axis, in mm. Along the slices this is the step of
            their positions; the DICOM slice thickness may be larger and gives other numbers.
        neighbors: which neighbors make a border voxel, see :func:`common.metrics.surface.mask_distances`;
            ``None``: those across the faces, as CHAOS.

    Returns:
        ``vo`` in percent, ``dice``, ``rvd`` in percent with its sign, ``ravd`` without, ``assd_mm``,
        ``rmsd_mm``, ``mssd_mm``. Two empty masks have VO 100, DICE 1, all others 0. If exactly one is empty,
        VO and DICE are 0, RVD is -100 (prediction) or ``inf`` (reference), distances are the diagonal of the
        scan; they are so, too, if only one mask has a border because the other fills the scan.

    Raises:
        ValueError: see :func:`common.metrics.surface.mask_distances`.
    """
    counts = mask_counts(prediction, reference)
    difference = relative_volume_difference(counts)
    values = {"vo": volume_overlap(counts), "dice": dice(counts), "rvd": difference, "ravd": abs(difference)}
    distances = mask_distances(prediction, reference, spacing_mm, neighbors, outside="foreground")
    diagonal_mm = math.hypot(*(size * edge for size, edge in zip(prediction.shape, spacing_mm)))
    for name, reduce in SURFACE_MEASURES.items():
        # A full mask has no border, as an empty one; that the two do not agree only their volumes tell.
        value = math.inf if is_one_sided(difference) else reduce(distances)
        values[name] = 0.0 if math.isnan(value) else min(value, diagonal_mm)
    return values


def is_one_sided(rvd: float) -> bool:
    """Whether exactly one of two masks is empty.

    Args:
        rvd: signed relative volume difference in percent. Only an empty prediction has -100 exactly, and only
            an empty reference ``inf``.

    Returns:
        False if both or none are empty.
    """
    return rvd in (-100.0, math.inf)
