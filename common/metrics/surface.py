"""Surface and region distances between two masks.

One distance map per direction is computed for a structure; every measure is a small reduction of it.

Paper: H. Chen, H. Zheng, Y. Zhang et al., kCBAC-Net, MICCAI 2021, doi 10.1007/978-3-030-87193-2_32.
Implements: the columns "Hausdorff" and "ADB" of the MM-WHS table.
Differs from the paper: ADB is not defined there. Its numbers are ten times too small for an average over the
surface and fit an average over the region, hence ``region_distance``; ``assd`` is the usual surface average.
Axes: K class, D H W space.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from monai.data import MetaTensor
from monai.handlers import from_engine
from monai.metrics import Cumulative
from scipy import ndimage

from common.errors import InputError

_PREDICTION_AND_LABEL = from_engine(["pred", "label"])
_SUFFIXES = {"voxel": "vox", "mm": "mm"}


@dataclass(frozen=True)
class MaskDistances:
    """All distances between a prediction and a reference, in the unit of the spacing they were made with.

    The first array of each pair runs from the prediction to the reference, the second the other way round.

    Attributes:
        border: float64 (n,) and (m,), from every border voxel of one mask to the border of the other.
        region: float64 (p,) and (q,), from every foreground voxel of one mask to the other mask; 0 inside it.
    """

    border: tuple[np.ndarray, np.ndarray]
    region: tuple[np.ndarray, np.ndarray]


def mask_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float] | None = None
) -> MaskDistances:
    """Distances between two masks, both ways.

    A border voxel is a foreground voxel with a background voxel, or the end of the array, across one of its
    faces (MONAI's rule). Distances run between voxel centers.

    Args:
        prediction: bool (D, H, W) or (H, W), the mask to judge.
        reference: bool, same shape as ``prediction``.
        spacing: edge length of a voxel along each array axis, in the unit wanted; ``None``: voxels.

    Returns:
        The distances. Arrays that start at an empty mask are empty, arrays that lead to one hold ``inf``.

    Raises:
        ValueError: the shapes differ, or ``spacing`` and the arrays disagree on the number of axes.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction and reference: expected equal shapes, got {prediction.shape}, {reference.shape}"
        )
    if spacing is not None and len(spacing) != prediction.ndim:
        raise ValueError(f"spacing: expected {prediction.ndim} numbers, got {list(spacing)}")
    box = ndimage.find_objects((prediction | reference).astype(np.uint8), max_label=1)[0] or ()
    masks = prediction[box], reference[box]
    borders = tuple(mask & ~ndimage.binary_erosion(mask) for mask in masks)
    to_prediction, to_reference = (_distance_map(border, spacing) for border in borders)
    # The foreground voxel nearest to a point outside a mask is always on its border, so the map to the border
    # serves the region as well once the inside is set to zero.
    return MaskDistances(
        border=(to_reference[borders[0]], to_prediction[borders[1]]),
        region=(
            np.where(masks[1], 0.0, to_reference)[masks[0]],
            np.where(masks[0], 0.0, to_prediction)[masks[1]],
        ),
    )


def _distance_map(border: np.ndarray, spacing: Sequence[float] | None) -> np.ndarray:
    if not border.any():
        return np.full(border.shape, np.inf)
    return ndimage.distance_transform_edt(~border, sampling=spacing)


def _of_two_masks(reduce: Callable[[MaskDistances], float]) -> Callable[[MaskDistances], float]:
    """Answer ``nan`` if both masks are empty and ``inf`` if one is, else reduce."""

    @functools.wraps(reduce)
    def measure(distances: MaskDistances) -> float:
        empty = [side.size == 0 for side in distances.border]
        if any(empty):
            return np.nan if all(empty) else np.inf
        return float(reduce(distances))

    return measure


@_of_two_masks
def hausdorff(distances: MaskDistances) -> float:
    """Largest distance from any border voxel to the other border.

    Returns:
        Distance in the unit of ``distances``; ``nan`` if both masks are empty, ``inf`` if exactly one is.
    """
    return max(side.max() for side in distances.border)


@_of_two_masks
def hausdorff_95(distances: MaskDistances) -> float:
    """Larger of the two directed 95th percentiles of the border distances.

    Returns:
        Distance in the unit of ``distances``; ``nan`` if both masks are empty, ``inf`` if exactly one is,
        where MONAI's ``compute_hausdorff_distance(percentile=95)`` answers ``nan``.
    """
    return max(np.percentile(side, 95) for side in distances.border)


@_of_two_masks
def assd(distances: MaskDistances) -> float:
    """Average symmetric surface distance, pooled over both directions.

    Every border voxel of either mask counts once, so the longer border weighs more. The same number as
    MONAI's ``compute_average_surface_distance(symmetric=True)``.

    Returns:
        Distance in the unit of ``distances``; ``nan`` if both masks are empty, ``inf`` if exactly one is.
    """
    return np.concatenate(distances.border).mean()


@_of_two_masks
def region_distance(distances: MaskDistances) -> float:
    """Mean of the two directed averages over all foreground voxels ("ADB").

    A directed average is the mean, over every foreground voxel of one mask, of the distance to the other
    mask, which is zero inside it. Much smaller than :func:`assd`, as the voxels of the overlap count.

    Returns:
        Distance in the unit of ``distances``; ``nan`` if both masks are empty, ``inf`` if exactly one is.

    Source: kCBAC-Net 2021, MM-WHS table; the definition is inferred from the size of its numbers.
    """
    return sum(side.mean() for side in distances.region) / 2


_MEASURES: dict[str, Callable[[MaskDistances], float]] = {
    measure.__name__: measure for measure in (hausdorff, hausdorff_95, assd, region_distance)
}


def finite_mean(values: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """Mean over the finite entries along one axis.

    Args:
        values: float tensor.
        dim: axis that vanishes.

    Returns:
        The means; ``nan`` where no entry is finite.
    """
    finite = torch.isfinite(values)
    return torch.where(finite, values, 0.0).sum(dim) / finite.sum(dim)


class SurfaceDistances(Metric):
    """Ignite metric that adds one metric per measure to an evaluator, all from the same distance maps.

    Attach it once, under any name. For every measure, e.g. ``hausdorff``, it writes ``hausdorff_vox`` or
    ``hausdorff_mm`` into ``engine.state.metrics`` (mean of the finite values over cases per structure, then
    over structures) and into ``engine.state.metric_details`` (float32 (cases, structures), from all ranks),
    where ``MetricsSaver`` and ``EvaluationReport`` find it. Two counts say what the means leave out:
    ``missing_structures`` (exactly one of the two masks is empty, distance ``inf``) and ``absent_structures``
    (both are, ``nan``).

    Args:
        include_background: whether the first channel counts as a structure.
        measures: names of functions of this module.
        unit: ``voxel``, or ``mm`` by the spacing that the reference MetaTensor of each case carries.
        output_transform: takes ``engine.state.output`` to (predictions, references): two lists of one-hot
            (K, H, W) or (K, D, H, W) tensors, or two tensors with a batch axis in front.

    Raises:
        InputError: a measure or the unit is unknown.
    """

    def __init__(
        self,
        include_background: bool = False,
        measures: Sequence[str] = tuple(_MEASURES),
        unit: str = "voxel",
        output_transform: Callable = _PREDICTION_AND_LABEL,
    ) -> None:
        if unknown := set(measures) - set(_MEASURES):
            raise InputError(
                f"measures: expected some of {', '.join(_MEASURES)}, found {', '.join(sorted(unknown))}"
            )
        if unit not in _SUFFIXES:
            raise InputError(f"unit: expected one of {', '.join(_SUFFIXES)}, found {unit!r}")
        self.first_channel = 0 if include_background else 1
        self.measures = {f"{measure}_{_SUFFIXES[unit]}": _MEASURES[measure] for measure in measures}
        self.unit = unit
        super().__init__(output_transform, skip_unrolling=True, metrics_result_mode="flatten")

    def reset(self) -> None:
        """Forget all cases."""
        self._cases = Cumulative()

    def update(self, output: tuple[Iterable[torch.Tensor], Iterable[torch.Tensor]]) -> None:
        """Measure some cases.

        Args:
            output: predictions and references as described in the class.

        Raises:
            InputError: the unit is mm and a reference has no spacing.
            ValueError: the two masks of a case differ in shape, or have no channel left to measure.
        """
        for prediction, reference in zip(*output, strict=True):
            self._cases.append(self._measure_case(prediction, reference))

    def details(self) -> dict[str, torch.Tensor]:
        """Values of all cases of all ranks; a collective call.

        Returns:
            Metric name to float32 (cases, structures).

        Raises:
            NotComputableError: no case has been measured.
        """
        values = self._cases.get_buffer()
        if values is None:
            raise NotComputableError("SurfaceDistances: no case has been measured")
        return dict(zip(self.measures, values.unbind(-1)))

    def compute(self) -> dict[str, float]:
        """Means and counts, see the class; a collective call.

        Returns:
            Metric name to number.
        """
        details = self.details()
        any_measure = next(iter(details.values()))
        return {
            **{name: finite_mean(finite_mean(values)).item() for name, values in details.items()},
            "missing_structures": int(torch.isinf(any_measure).sum()),
            "absent_structures": int(torch.isnan(any_measure).sum()),
        }

    def completed(self, engine: Engine, name: str) -> None:
        """Write metrics and details into the state of the engine.

        Args:
            engine: MONAI engine to which this is attached.
            name: the name it was attached under, not used for the entries.
        """
        engine.state.metric_details.update(self.details())
        super().completed(engine, name)

    def _measure_case(self, prediction: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Float32 (structures, measures) of one-hot (K, ...) masks."""
        if prediction.shape != reference.shape or len(reference) <= self.first_channel:
            raise ValueError(
                f"expected two equal one-hot shapes with more than {self.first_channel} channel(s), got"
                f" {tuple(prediction.shape)} and {tuple(reference.shape)}"
            )
        spacing = _spacing_mm(reference) if self.unit == "mm" else None
        masks = [np.asarray(mask.detach().cpu()) == 1 for mask in (prediction, reference)]
        rows = []
        for channel in range(self.first_channel, len(reference)):
            distances = mask_distances(masks[0][channel], masks[1][channel], spacing)
            rows.append([measure(distances) for measure in self.measures.values()])
        return torch.tensor(rows, dtype=torch.float32)


def _spacing_mm(reference: torch.Tensor) -> list[float]:
    if not isinstance(reference, MetaTensor):
        raise InputError(
            f"unit: mm needs references with a spacing (MetaTensor), found {type(reference).__name__}"
        )
    return reference.pixdim.tolist()
