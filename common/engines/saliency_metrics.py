"""Evaluator handler that reports the scores of soft maps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from ignite.engine import Engine
from monai.utils import convert_to_numpy

from common.engines.case_metrics import CaseMetrics
from common.errors import InputError
from common.metrics import saliency
from common.metrics import threshold_curves as curves


class JudgedMap:
    """One predicted map with its mask, and what several measures need of them, made when first asked for.

    Args:
        prediction: float (H, W) in [0, 1].
        reference: bool (H, W).
        stretch: judge the map stretched from 0 to 1 where a measure's protocol does so.
    """

    def __init__(self, prediction: np.ndarray, reference: np.ndarray, stretch: bool = True) -> None:
        saliency.check_maps(prediction, reference)
        self.plain = prediction
        self.prediction = saliency.stretched(prediction) if stretch else prediction
        self.reference = reference

    @functools.cached_property
    def curve(self) -> curves.PixelCounts:
        """Counts at 256 thresholds."""
        return curves.curve_counts(self.prediction, self.reference)

    @functools.cached_property
    def above_half(self) -> curves.PixelCounts:
        """Counts above 0.5."""
        return curves.mask_counts(self.prediction > 0.5, self.reference)

    @functools.cached_property
    def plain_above_half(self) -> curves.PixelCounts:
        """Counts above 0.5, never stretched."""
        return curves.mask_counts(self.plain > 0.5, self.reference)

    @functools.cached_property
    def adaptive(self) -> curves.PixelCounts:
        """Counts at the adaptive threshold of the map."""
        mask = self.prediction >= curves.adaptive_threshold(self.prediction)
        return curves.mask_counts(mask, self.reference)


# Numbers of one image.
MEASURES: dict[str, Callable[[JudgedMap], float]] = {
    "weighted_f": lambda m: saliency.weighted_f(m.prediction, m.reference),
    "s_measure": lambda m: saliency.s_measure(m.prediction, m.reference),
    "mae": lambda m: saliency.mae(m.prediction, m.reference),
    "e_adaptive": lambda m: curves.e_measure(m.adaptive),
    "e_mean": lambda m: curves.e_measure(m.curve).mean(),
    "authors_dice": lambda m: saliency.soft_dice(m.prediction, m.reference),
    "authors_iou": lambda m: curves.smooth_jaccard(m.above_half),
    "pranet_dice": lambda m: curves.dice(m.curve).mean(),
    "pranet_iou": lambda m: curves.jaccard(m.curve).mean(),
    "pranet_precision": lambda m: curves.precision(m.curve).mean(),
    "pranet_recall": lambda m: curves.recall(m.curve).mean(),
    "pranet_specificity": lambda m: curves.hit_specificity(m.curve).mean(),
    "dice_at_half": lambda m: curves.dice(m.plain_above_half),
    "jaccard_at_half": lambda m: curves.jaccard(m.plain_above_half),
    "precision_at_half": lambda m: curves.precision(m.plain_above_half),
    "recall_at_half": lambda m: curves.recall(m.plain_above_half),
    "specificity_at_half": lambda m: curves.specificity(m.plain_above_half),
}
# Curves of one image; their mean over all images has the published number as its maximum.
CURVES: dict[str, Callable[[curves.PixelCounts], np.ndarray]] = {
    "e_max": curves.e_measure,
    "pranet_max_dice": curves.dice,
    "pranet_max_iou": curves.jaccard,
}


class SaliencyMetrics(CaseMetrics):
    """Judge predicted probability maps by the measures usual for polyps, infections and lesions.

    ``weighted_f``, ``s_measure``, ``mae``; the E-measure at the adaptive threshold, as mean and as maximum
    over 256 thresholds (``e_adaptive``, ``e_mean``, ``e_max``). Dice and IoU come in three protocols, whose
    numbers must not be compared with one another: ``authors_*`` (soft Dice, IoU above 0.5), ``pranet_*``
    (mean over 256 thresholds, ``pranet_max_*`` their maximum; with precision, recall and specificity) and
    ``*_at_half`` (binary masks above 0.5, never stretched).

    After each epoch ``engine.state.metrics[<prefix><measure>]`` holds the mean over cases, then classes;
    ``engine.state.metric_details`` the values, float32 (cases, K), gathered over all processes. The maxima
    belong to the mean curve of all cases and have no details. ``<prefix>empty_references`` counts masks
    without foreground. Every value is finite: an empty mask has 0 as weighted F and Dice of ``pranet``; as
    ``authors_*`` 1 if nothing is predicted, else nearly 0; its E- and S-measure tell how little is predicted.

    With ``group_key`` (frames of video clips) every mean over cases, that of the curves included, becomes the
    mean over groups of the mean within each. Details and the count of empty masks stay those of cases.

    Args:
        measures: some of the names above; ``None``: all. Others are not computed.
        prefix: start of all names.
        prediction_key: entry of the decollated output with probabilities (K, H, W), every channel a
            structure.
        reference_key: entry with the masks (K, H, W) in [0, 1]; above 0.5 is object.
        stretch: shift and scale every map to run from 0 to 1, as the published protocols do; without, the
            noise on images that hold no object stays noise.
        group_key: entry of the cases that names their group; ``None``: every case weighs the same.

    Raises:
        InputError: unknown measure; while running, shapes that differ, predictions outside [0, 1], or a case
            without group.
    """

    def __init__(
        self,
        measures: Sequence[str] | None = None,
        prefix: str = "val_",
        prediction_key: str = "pred",
        reference_key: str = "label",
        stretch: bool = True,
        group_key: str | None = None,
    ) -> None:
        super().__init__(prefix, group_key)
        known = [*MEASURES, *CURVES]
        wanted = known if measures is None else list(measures)
        if not wanted or set(wanted) - set(known):
            raise InputError(f"measures: expected some of {', '.join(known)}, found {wanted}")
        self.measures = [name for name in MEASURES if name in wanted]
        self.curves = [name for name in CURVES if name in wanted]
        self.keys = prediction_key, reference_key
        self.stretch = stretch

    def _measure(self, engine: Engine) -> None:
        for case in engine.state.output:
            pairs = self._pairs(case)
            values = [[MEASURES[name](pair) for name in self.measures] for pair in pairs]
            lines = [[CURVES[name](pair.curve) for name in self.curves] for pair in pairs]
            empty = [float(not pair.reference.any()) for pair in pairs]
            self._values.append(*(torch.tensor(np.array(part)) for part in (values, lines, empty)))

    def _pairs(self, case: Mapping[str, torch.Tensor]) -> list[JudgedMap]:
        predictions, references = (convert_to_numpy(case[key]) for key in self.keys)
        if predictions.shape != references.shape:
            raise InputError(
                f"{' and '.join(self.keys)}: expected equal shapes (K, H, W),"
                f" found {predictions.shape} and {references.shape}"
            )
        try:
            return [JudgedMap(*pair, self.stretch) for pair in zip(predictions, references > 0.5)]
        except ValueError as error:
            raise InputError(f"{self.keys[0]}: {error}") from error

    def _publish(self, engine: Engine) -> None:
        values, lines, empty = self._values.get_buffer()  # (cases, K, measures), (cases, K, curves, 256)
        for index, name in enumerate(self.measures):
            details = values[:, :, index].float()
            self._publish_details(engine, self.prefix + name, details)
        for index, name in enumerate(self.curves):
            highest = self._groups.mean(lines[:, :, index].numpy()).max(axis=-1)
            engine.state.metrics[self.prefix + name] = float(highest.mean())
        engine.state.metrics[f"{self.prefix}empty_references"] = int(empty.sum())
