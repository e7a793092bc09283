"""Evaluator handler that reports how far the edges of layers lie from those of the reference."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from monai.utils import convert_to_numpy

from common.engines.case_metrics import CaseMetrics
from common.errors import InputError
from common.metrics.layers import mean_edge_distance


class LayerMetrics(CaseMetrics):
    """Report how far the edges of predicted layers are from those of the reference, in pixels.

    ``engine.state.metric_details["<prefix>med_px"]`` holds float32 (cases, K - 1), without background,
    gathered over all processes: 0 for a layer absent from both masks, ``inf`` if no column has it in both.
    ``engine.state.metrics["<prefix>med_px"]`` holds the mean of the finite values, over cases first and then
    over classes; ``<prefix>layers_missing`` counts the other values.

    Args:
        num_classes: K, background included.
        prefix: start of all names.
        prediction_key: entry of the decollated output with class indices (1, W, H), the axes as MONAI reads
            pictures: layers run along W.
        reference_key: like ``prediction_key``.

    Raises:
        InputError: while running, an entry is not (1, W, H).
    """

    def __init__(
        self,
        num_classes: int,
        prefix: str = "val_",
        prediction_key: str = "prediction",
        reference_key: str = "reference",
    ) -> None:
        super().__init__(prefix)
        self.num_classes = num_classes
        self.keys = prediction_key, reference_key

    def _measure(self, engine: Engine) -> None:
        for case in engine.state.output:
            maps = [convert_to_numpy(case[key]) for key in self.keys]
            for key, labels in zip(self.keys, maps):
                if labels.ndim != 3 or labels.shape[0] != 1:
                    raise InputError(f"{key}: expected class indices (1, W, H), found {labels.shape}")
            # The metric wants rows first, a picture in memory has columns first.
            prediction, reference = (labels[0].T for labels in maps)
            distances = [
                mean_edge_distance(prediction == k, reference == k) for k in range(1, self.num_classes)
            ]
            self._values.append(torch.tensor(distances))

    def _publish(self, engine: Engine) -> None:
        details = self._values.get_buffer()
        self._publish_details(engine, f"{self.prefix}med_px", details)
        engine.state.metrics[f"{self.prefix}layers_missing"] = int((~torch.isfinite(details)).sum())
