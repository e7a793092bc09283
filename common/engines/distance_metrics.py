"""Evaluator handler that reports all distances between predicted and reference structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.utils import convert_to_numpy

from common.engines.case_metrics import CaseMetrics
from common.errors import InputError
from common.metrics.surface import assd, hausdorff, hausdorff_95, mask_distances, region_distance

MEASURES = {
    "hausdorff": hausdorff,
    "hausdorff95": hausdorff_95,
    "assd": assd,
    "adb_region": region_distance,
}
UNITS = ("vox", "mm")


class DistanceMetrics(CaseMetrics):
    """Measure every structure of every case once and publish each measure as a metric of its own.

    The evaluator's decollated output holds one-hot masks ``pred`` and ``label`` (K, [D,] H, W).

    Names are ``<prefix><measure>_<unit>``, e.g. ``val_hausdorff95_mm``; measures are ``hausdorff``,
    ``hausdorff95``, ``assd`` and ``adb_region``. After each epoch ``engine.state.metric_details[name]`` holds
    float32 (cases, K - 1), without background, gathered over all processes: ``nan`` for a structure absent
    from both masks, ``inf`` if absent from one. ``engine.state.metrics[name]`` holds the mean of the finite
    values, over cases first and then over classes; ``<prefix>distances_missing`` counts the other values.

    Args:
        units: ``vox`` (edge length 1 along each axis), ``mm`` (edge lengths from the affine of the label).
        prefix: start of all names.

    Raises:
        InputError: unknown unit; while running, a label without affine where millimeters are asked for.
    """

    def __init__(self, units: Sequence[str] = UNITS, prefix: str = "val_") -> None:
        unknown = [unit for unit in units if unit not in UNITS]
        if unknown or not units:
            raise InputError(f"units: expected some of {', '.join(UNITS)}, found {list(units)}")
        super().__init__(prefix)
        self.units = tuple(units)
        self.names = [f"{prefix}{measure}_{unit}" for unit in self.units for measure in MEASURES]

    def _measure(self, engine: Engine) -> None:
        for case in engine.state.output:
            self._values.append(torch.from_numpy(self._case_values(case)))

    def _case_values(self, case: Mapping[str, torch.Tensor]) -> np.ndarray:
        """Values of one case, float32 (names, K - 1)."""
        label = case["label"]
        spacings = [spacing_mm(label, "label") if unit == "mm" else None for unit in self.units]
        predictions = convert_to_numpy(case["pred"][1:] > 0)
        references = convert_to_numpy(label[1:] > 0)
        columns = []
        for prediction, reference in zip(predictions, references, strict=True):
            pairs = [mask_distances(prediction, reference, spacing, with_region=True) for spacing in spacings]
            columns.append([reduce(pair) for pair in pairs for reduce in MEASURES.values()])
        return np.array(columns, dtype=np.float32).T

    def _publish(self, engine: Engine) -> None:
        values = self._values.get_buffer()
        for name, details in zip(self.names, values.unbind(dim=1), strict=True):
            self._publish_details(engine, name, details)
        missing = ~torch.isfinite(values[:, 0])
        engine.state.metrics[f"{self.prefix}distances_missing"] = int(missing.sum())


def spacing_mm(image: torch.Tensor, name: str) -> list[float]:
    """Edge lengths of the voxels of an image.

    Args:
        image: (C, [D,] H, W) with an affine.
        name: entry of the case, for the message.

    Returns:
        Millimeters along each spatial axis.

    Raises:
        InputError: a plain tensor.
    """
    if not isinstance(image, MetaTensor):
        raise InputError(f"{name}: expected a MetaTensor with an affine to measure mm, found a plain tensor")
    return image.pixdim.tolist()[: image.ndim - 1]
