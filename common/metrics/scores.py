"""Scores from 0 to 100 for an organ in one scan: named profiles that turn raw values into one scale.

Scores are clipped per scan. A score of averaged raw values is another number, so average scores, not values.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv June 2020.
Implements: its columns VO to MSSD and "overall" as far as they are known (``paper_reconstruction``); the
official scores of CHAOS 2019 and of SLIVER07.
Differs from the paper: its table of thresholds is not in the published text. VO as it is, and the mean of
five, follow from its numbers; the other four zero points are our choice that fits them. No choice fits its
distance scores in MR, which must not be compared with ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from common.errors import InputError
from common.metrics.organs import is_one_sided


class Line(NamedTuple):
    """Straight line from score 0 to score 100, clipped beyond both.

    Attributes:
        zero: raw value of score 0.
        full: raw value of score 100.
        lowest: raw values below it score 0 whatever the line says.
    """

    zero: float
    full: float = 0.0
    lowest: float = -math.inf


@dataclass(frozen=True)
class Profile:
    """A way to score, as data.

    Attributes:
        name: start of the names under which scores are published.
        lines: what is scored, a subset of :data:`common.metrics.organs.ORGAN_MEASURES`.
        neighbors: border rule of the distances; ``None``: faces.
    """

    name: str
    lines: Mapping[str, Line]
    neighbors: int | None = None


def paper_reconstruction(
    ravd: float = 20.0, assd_mm: float = 15.0, rmsd_mm: float = 27.0, mssd_mm: float = 60.0
) -> Profile:
    """Our reconstruction of the paper's scores. Every report must call it a reconstruction.

    Args:
        ravd: absolute relative volume difference of score 0, in percent.
        assd_mm: ASSD of score 0, in mm; CHAOS's value.
        rmsd_mm: RMSD of score 0, in mm: that of ASSD times SLIVER07's ratio of the two.
        mssd_mm: MSSD of score 0, in mm; CHAOS's value.

    Returns:
        Profile of five measures; VO scores as it is.

    Raises:
        InputError: a zero point is not positive.

    Source: our choice, within the bounds that tables 2 and 5 of Baydar 2020 allow.
    """
    zero_points = {"ravd": ravd, "assd_mm": assd_mm, "rmsd_mm": rmsd_mm, "mssd_mm": mssd_mm}
    for name, zero in zero_points.items():
        if not 0 < zero < math.inf:
            raise InputError(f"{name}: expected a positive zero point, found {zero}")
    lines = {name: Line(zero) for name, zero in zero_points.items()}
    return Profile("paper_reconstruction", {"vo": Line(0.0, full=100.0)} | lines)


# CHAOS: the organizers' code; DICE jumps at 0.8. SLIVER07: 25 points less per error of a second human rater,
# who has VOE 6.4 %, RVD 4.7 %, ASSD 1.0, RMSD 1.8 and MSSD 19 mm.
PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            "chaos2019",
            {
                "dice": Line(0.0, full=1.0, lowest=0.8),
                "ravd": Line(5.0),
                "assd_mm": Line(15.0),
                "mssd_mm": Line(60.0),
            },
        ),
        Profile(
            "sliver07",
            {
                "vo": Line(100.0 - 25.6, full=100.0),
                "ravd": Line(18.8),
                "assd_mm": Line(4.0),
                "rmsd_mm": Line(7.2),
                "mssd_mm": Line(76.0),
            },
            neighbors=18,
        ),
        paper_reconstruction(),
    )
}


def organ_scores(values: Mapping[str, float], profile: Profile) -> dict[str, float]:
    """Scores of one organ in one scan.

    Args:
        values: raw values of :func:`common.metrics.organs.organ_values`, with the borders of the profile.
        profile: how to score them.

    Returns:
        Score in [0, 100] of each measure of the profile, and their mean as ``overall``. All are 0 if exactly
        one mask is empty.

    Source: CHAOS 2019 evaluation; SLIVER07; Baydar 2020, tables 2 and 5 (the mean).
    """
    # In a small scan even the diagonal may lie on the good side of a zero point.
    is_lost = is_one_sided(values["rvd"])
    scores = {name: 0.0 if is_lost else _score(values[name], line) for name, line in profile.lines.items()}
    return scores | {"overall": sum(scores.values()) / len(scores)}


def _score(value: float, line: Line) -> float:
    share = (value - line.zero) / (line.full - line.zero)
    return 0.0 if value < line.lowest else 100 * min(max(share, 0.0), 1.0)
