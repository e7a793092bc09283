"""Evaluator handlers for scores on a common resized grid: those of the tables, and the key metric."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

import numpy as np
import torch
from ignite.engine import Engine
from monai.utils import convert_to_numpy

from common.engines.case_metrics import MaskMetrics
from common.errors import InputError
from common.metrics.resized_grid import dice_percent, selection_dice, surface_distance_vox

Measure = Callable[[np.ndarray, np.ndarray], float]


class _MeasuredMasks(MaskMetrics):
    """Measure every foreground class of every case; all values are finite, and all count.

    Args:
        num_classes: K, background included.
        prefix: start of all names.
        prediction_key: entry of the decollated output with class indices (1, D, H, W).
        reference_key: likewise, on the same grid.

    Raises:
        InputError: fewer than two classes; attached under a name that is not published; while running, shapes
            that differ or are not (1, D, H, W), or values that are no class indices.
    """

    @property
    @abstractmethod
    def measures(self) -> dict[str, Measure]:
        """What is measured, by name without prefix."""

    @property
    def names(self) -> list[str]:
        """Of the measures."""
        return list(self.measures)

    def _measure(self, engine: Engine) -> None:
        for case in engine.state.output:
            prediction, reference = (self._class_map(case, key) for key in self.keys)
            if prediction.shape != reference.shape:
                raise InputError(
                    f"{' and '.join(self.keys)}: expected one grid, found {prediction.shape} and "
                    f"{reference.shape}"
                )
            masks = [(prediction == k, reference == k) for k in range(1, self.num_classes)]
            values = [[measure(*pair) for pair in masks] for measure in self.measures.values()]
            self._values.append(torch.tensor(values, dtype=torch.float64))

    def _class_map(self, case: Mapping[str, torch.Tensor], key: str) -> np.ndarray:
        """Class indices (D, H, W). Probabilities or one-hot maps would otherwise pass for empty masks."""
        labels = convert_to_numpy(case[key])
        if labels.ndim != 4 or labels.shape[0] != 1:
            raise InputError(f"{key}: expected class indices (1, D, H, W), found {labels.shape}")
        if not np.isin(labels, range(self.num_classes)).all():
            raise InputError(
                f"{key}: expected class indices 0 to {self.num_classes - 1}, found values from "
                f"{labels.min()} to {labels.max()}"
            )
        return labels[0]

    def _publish(self, engine: Engine) -> None:
        values = self._values.get_buffer()  # (cases, measures, K - 1)
        for name, details in zip(self.measures, values.unbind(dim=1), strict=True):
            self._publish_details(engine, self.prefix + name, details)


class ResizedGridMetrics(_MeasuredMasks):
    """Report Dice and ASD as the tables of SKCDF and the methods it compares with count them.

    After each epoch ``engine.state.metric_details`` holds float64 (cases, K - 1), without background,
    gathered over all processes, and ``engine.state.metrics`` the means over cases first and then over
    classes, each after ``prefix``: ``resized_dice`` in percent and ``resized_asd`` in voxels, one way. How
    empty masks count is told in :mod:`common.metrics.resized_grid`.

    Arguments and errors are those of :class:`SelectionDice`.

    Source: Zhang 2025, released code.
    """

    @property
    def measures(self) -> dict[str, Measure]:
        """Dice in percent, and the surface distance."""
        return {"resized_dice": dice_percent, "resized_asd": surface_distance_vox}


class SelectionDice(_MeasuredMasks):
    """Report the Dice by which the best epoch is chosen, on the central patch of every validation scan.

    The crop is for the transforms to make. After each epoch ``engine.state.metric_details`` holds float64
    (cases, K - 1), gathered over all processes, and ``engine.state.metrics`` the mean over cases first and
    then over classes, under ``<prefix>selection_dice``. It is a key metric: ``key_val_metric=
    {"val_selection_dice": SelectionDice(14)}``.

    Args:
        num_classes: K, background included.
        prefix: start of the name.
        prediction_key: entry of the decollated output with class indices (1, D, H, W).
        reference_key: likewise, on the same grid.

    Raises:
        InputError: fewer than two classes; attached under another name than its own; while running, shapes
            that differ or are not (1, D, H, W), or values that are no class indices.

    Source: Zhang 2025, released code.
    """

    @property
    def measures(self) -> dict[str, Measure]:
        """The Dice with which an absent structure counts one half."""
        return {"selection_dice": selection_dice}
