"""Which slices of a volume to train on with label, and which without.

Paper: Fang and Li, "DMNet: Difference Minimization Network for Semi-supervised Segmentation in Medical
Images", MICCAI 2020, 10.1007/978-3-030-59710-8_52.
Implements: its choice of one labeled and two unlabeled slices of every patient.
Differs from the paper: it does not tell which slices. Here labels choose them: the one with the largest
target is the labeled one, and those nearest to the quarter points of the target are unlabeled. So the labels
of unlabeled slices help to find them, but are never trained on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.data.image_files import joined
from common.data.slice_index import VolumeSlices
from common.errors import InputError

_LABELED = ("largest", "target", "all")
_UNLABELED = ("quantile", "neighbor", "random", "target", "all")


@dataclass(frozen=True)
class SliceRule:
    """Which slices of a volume to take.

    Attributes:
        labeled: ``"largest"``: the slice with the largest target, the lowest of several; ``"target"``: all
            that show the target; ``"all"``. Validation and test slices follow the same rule.
        unlabeled: ``"quantile"``: nearest to the points that divide the range of slices with target evenly,
            for two those at 25 and 75 percent; ``"neighbor"``: nearest to the slice with the largest target;
            ``"random"``: nearest to points drawn from the range; ``"target"``, ``"all"``: as above. Never one
            that is labeled. Without label, the range is the whole volume.
        num_unlabeled: slices per volume for the first three, fewer where there are not so many.
        unused_as_unlabeled: whether labeled slices beyond the budget join the unlabeled ones. The paper has a
            fixed set of unlabeled slices; pictures, with one slice each, have none without this.

    Raises:
        InputError: an unknown word or a negative number.
    """

    labeled: str = "largest"
    unlabeled: str = "quantile"
    num_unlabeled: int = 2
    unused_as_unlabeled: bool = False

    def __post_init__(self) -> None:
        for name, known in (("labeled", _LABELED), ("unlabeled", _UNLABELED)):
            if getattr(self, name) not in known:
                raise InputError(f"{name}: expected one of {joined(known)}, found {getattr(self, name)!r}")
        if not isinstance(self.num_unlabeled, int) or self.num_unlabeled < 0:
            raise InputError(f"num_unlabeled: expected 0 or more, found {self.num_unlabeled!r}")


PAPER_RULE = SliceRule()


class Picks(NamedTuple):
    """Slices taken from one image, in ascending order; none is in both lists."""

    labeled: list[int]
    unlabeled: list[int]


def pick_slices(volume: VolumeSlices, rule: SliceRule = PAPER_RULE, seed: int | str = 0) -> Picks:
    """Slices of one image to train on with and without label.

    Args:
        volume: its entry in the index.
        rule: which to take.
        seed: of ``"random"``; different for every image.

    Returns:
        The slices. None where the label shows no target, unless all slices are asked for.

    Raises:
        InputError: the rule needs to know the target of an image without label.

    Source: our choice, the paper is silent.
    """
    everything = list(range(volume.num_slices))
    area = None if volume.counts is None else volume.counts.sum(axis=0)
    if area is None:
        if rule.unlabeled in ("neighbor", "target"):
            raise InputError(
                f"unlabeled: expected quantile, random or all for images without label, "
                f"found {rule.unlabeled!r}"
            )
        labeled, bearing = [], everything
    else:
        bearing = np.flatnonzero(area).tolist()
        if not bearing and rule.labeled != "all":
            return Picks([], [])
        labeled = {"largest": [int(area.argmax())], "target": bearing, "all": everything}[rule.labeled]
    free = sorted(set(everything) - set(labeled))
    if rule.unlabeled == "all":
        return Picks(labeled, free)
    if rule.unlabeled == "target":
        return Picks(labeled, sorted(set(free) & set(bearing)))
    points = _points(bearing or everything, area, rule, seed)
    taken: list[int] = []
    for point in points[: len(free)]:
        taken.append(min(set(free) - set(taken), key=lambda index: (abs(index - point), index)))
    return Picks(labeled, sorted(taken))


def _points(bearing: Sequence[int], area: np.ndarray | None, rule: SliceRule, seed: int | str) -> list[float]:
    """Where unlabeled slices are wanted, in the order in which they choose."""
    number, first, last = rule.num_unlabeled, bearing[0], bearing[-1]
    if rule.unlabeled == "neighbor":
        return [float(area.argmax())] * number
    if rule.unlabeled == "random":
        generator = random.Random(seed)
        return [float(generator.randint(first, last)) for _ in range(number)]
    return [first + (last - first) * (2 * i + 1) / (2 * number) for i in range(number)]
