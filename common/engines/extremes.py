"""Evaluator handler that draws the cases a model did worst and best."""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.config import PathLike
from monai.utils import convert_to_numpy

from common.engines.panels import Views
from common.engines.pictures import absent_entry, case_masks, case_name, mask_views, save_picture
from common.errors import InputError

_PICTURE = re.compile(r"(worst|best)_\d+_dice_\d\.\d{3}_.+\.png")


class Candidate(NamedTuple):
    """A case that may be drawn: its mean Dice, name, and views with the image in 256 steps (uint8)."""

    dice: float
    name: str
    views: list[Views]


class ExtremePictures:
    """Draw the worst and the best cases of an evaluation, half each, when it has ended.

    Files are ``worst_1_dice_0.123_<case name>.png`` (the worst of all) and ``best_1_dice_0.987_<case
    name>.png``; panels are those of ``CasePictures``. A case is drawn once: of fewer than ``max_cases`` cases
    the lower half counts as worst, and of an odd number the case in the middle, too. Cases are ranked by
    :func:`mean_dice`; which of several with the same value are drawn depends on their order only.

    Only the first process draws, and only among its own share of the cases: for the extremes of a whole data
    set, evaluate in one process. Pictures of an earlier evaluation are removed from the folder after the new
    ones have been written. In memory are the slices to be drawn, of ``max_cases`` cases.

    Args:
        output_dir: folder of the pictures.
        max_cases: number of cases to draw; 0 for none, which also leaves earlier pictures alone.
        class_names: foreground classes in their order, for the legend.
        prediction_key: entry of the output with the predicted mask, one-hot or label map.
        reference_key: entry with the reference, on the same grid.

    Raises:
        InputError: ``max_cases`` is negative; while running, an output without one of the masks, masks of
            different shapes, or probabilities in the place of a mask.
    """

    def __init__(
        self,
        output_dir: PathLike,
        max_cases: int = 8,
        class_names: Sequence[str] | None = None,
        prediction_key: str = "pred",
        reference_key: str = "label",
    ) -> None:
        if max_cases < 0:
            raise InputError(f"max_cases: expected at least 0, found {max_cases}")
        self.output_dir = Path(output_dir)
        self.max_cases = max_cases
        self.class_names = class_names
        self.keys = prediction_key, reference_key
        self._middle = (max_cases + 1) // 2  # number of worst cases, and place of the case that drops out
        self._num_seen = 0
        self._kept: list[Candidate] = []  # from the worst to the best

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose decollated output holds ``image`` and both masks."""
        if self.max_cases == 0:
            return
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._rank_cases)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self._num_seen = 0
        self._kept.clear()

    def _rank_cases(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        for case in engine.state.output:
            prediction, reference = self._masks(case)
            self._num_seen += 1
            dice = mean_dice(convert_to_numpy(prediction), convert_to_numpy(reference))
            place = self._place(dice)
            if place is None:
                continue
            views = [_compact(view) for view in mask_views(case["image"], prediction, reference)]
            self._kept.insert(place, Candidate(dice, case_name(case["image"], self._num_seen), views))
            if len(self._kept) > self.max_cases:
                del self._kept[self._middle]

    def _masks(self, case: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        prediction, reference = case_masks(case, *self.keys)
        if reference is None:
            raise absent_entry("reference_key", self.keys[1], case)
        if prediction.shape != reference.shape:
            raise InputError(
                f"{' and '.join(self.keys)}: expected masks of equal shape,"
                f" found {tuple(prediction.shape[1:])} and {tuple(reference.shape[1:])}"
            )
        return prediction, reference

    def _place(self, dice: float) -> int | None:
        """Where a case belongs among the kept ones; None if it is neither among the worst nor the best."""
        scores = [candidate.dice for candidate in self._kept]
        first, last = bisect.bisect_left(scores, dice), bisect.bisect_right(scores, dice)
        if len(scores) < self.max_cases or last < self._middle:
            return last
        return first if first > self._middle else None

    def _write(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        num_worst = (len(self._kept) + 1) // 2
        ranked = {"worst": self._kept[:num_worst], "best": self._kept[num_worst:][::-1]}
        written = set()
        for kind, candidates in ranked.items():
            for number, (dice, name, views) in enumerate(candidates, start=1):
                path = self.output_dir / f"{kind}_{number}_dice_{dice:.3f}_{name}.png"
                save_picture([_expanded(view) for view in views], self.class_names, path)
                written.add(path)
        self._kept.clear()
        for path in sorted(self.output_dir.glob("*.png")):
            if _PICTURE.fullmatch(path.name) and path not in written:
                path.unlink()


def mean_dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Mean Dice over the foreground classes that occur in either mask.

    Args:
        prediction: class indices uint8 (...).
        reference: like ``prediction``, of the same shape.

    Returns:
        Between 0 and 1; 1.0 if both masks are empty.
    """
    agreeing = prediction[prediction == reference]
    sizes = [np.bincount(mask.ravel(), minlength=256)[1:] for mask in (prediction, reference, agreeing)]
    total = sizes[0] + sizes[1]
    occurs = total > 0
    return float((2 * sizes[2][occurs] / total[occurs]).mean()) if occurs.any() else 1.0


def _compact(view: Views) -> Views:
    """Views as small as the screen needs them, and without hold on the volumes they were cut from."""
    masks = {title: mask.astype(np.uint8) for title, mask in view.masks.items()}
    return view._replace(image=np.rint(view.image * 255).astype(np.uint8), masks=masks)


def _expanded(view: Views) -> Views:
    return view._replace(image=view.image / 255)
