"""Evaluator handler that reports the measures and scores of abdominal organs, in total and per domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from ignite.engine import Engine
from monai.utils import convert_to_numpy

from common.engines.case_metrics import CaseMetrics
from common.engines.distance_metrics import spacing_mm
from common.errors import InputError
from common.metrics.averages import mean_over_cases, mean_over_classes
from common.metrics.organs import ORGAN_MEASURES, organ_values
from common.metrics.scores import PROFILES, Profile, organ_scores

TITLES = {
    "vo": "VO [%]",
    "ravd": "RVD [%]",
    "assd_mm": "ASSD [mm]",
    "rmsd_mm": "RMSD [mm]",
    "mssd_mm": "MSSD [mm]",
}


class OrganMetrics(CaseMetrics):
    """Measure every organ of every scan as CHAOS does, and score it by named profiles.

    Measures are ``vo`` (Jaccard in percent), ``dice``, ``rvd`` (percent, signed), ``ravd`` (its absolute
    value), ``assd_mm``, ``rmsd_mm`` and ``mssd_mm``, all with the borders of CHAOS. Each profile adds
    ``score_<profile>``, the overall score, and ``score_<profile>_<measure>``, its parts; they are made per
    scan, with the profile's own borders.

    After each epoch ``engine.state.metric_details[<prefix><name>]`` holds float32 (cases, K), without
    background, gathered over all processes. ``engine.state.metrics[<prefix><name>_<domain>]`` holds the mean
    over the cases of a domain, then classes, with the domain's name in lower case; ``<prefix><name>`` that
    over all domains, each of equal weight. Means pass over values that are not finite: the RVD where the
    reference alone is empty. All other values of empty masks count, see
    :func:`common.metrics.organs.organ_values`; ``<prefix>flagged_cases`` is the number of cases with one.

    Args:
        profiles: names among ``chaos2019``, ``sliver07`` and ``paper_reconstruction``, or a
            :class:`common.metrics.scores.Profile`.
        prefix: start of all names.
        prediction_key: entry of the decollated output with class indices (1, X, Y, Z) on the scan's own grid.
        reference_key: entry with the reference, likewise; its affine gives the spacing.
        group_key: entry of the batch's cases that names their domain, ``CT`` or ``MR``; ``None``: no domains,
            every case weighs the same.
        num_classes: classes with background; every other one is an organ.

    Raises:
        InputError: unknown or repeated profile, fewer than two classes; while running, shapes that differ or
            are not (1, X, Y, Z), values that are no class indices, a reference without affine, or a case
            without domain.
    """

    def __init__(
        self,
        profiles: Sequence[str | Profile] = ("chaos2019", "paper_reconstruction"),
        prefix: str = "val_",
        prediction_key: str = "prediction",
        reference_key: str = "reference",
        group_key: str | None = "domain",
        num_classes: int = 2,
    ) -> None:
        super().__init__(prefix, group_key)
        if num_classes < 2:
            raise InputError(
                f"num_classes: expected at least 2, background and one organ, found {num_classes}"
            )
        self.profiles = [_profile(profile) for profile in profiles]
        self.names = list(ORGAN_MEASURES)
        for profile in self.profiles:
            score = f"score_{profile.name}"
            self.names += [*(f"{score}_{measure}" for measure in profile.lines), score]
        if len(set(self.names)) < len(self.names):
            found = [profile.name for profile in self.profiles]
            raise InputError(f"profiles: expected each name once, found {found}")
        self.keys = prediction_key, reference_key
        self.num_classes = num_classes

    def _measure(self, engine: Engine) -> None:
        for case in engine.state.output:
            prediction, reference = (self._class_indices(case, key) for key in self.keys)
            if prediction.shape != reference.shape:
                raise InputError(
                    f"{' and '.join(self.keys)}: expected equal shapes, found {prediction.shape} and"
                    f" {reference.shape}"
                )
            edges_mm = spacing_mm(case[self.keys[1]], self.keys[1])
            organs = [(prediction == k, reference == k) for k in range(1, self.num_classes)]
            values = [self._organ_values(*masks, edges_mm) for masks in organs]
            is_flagged = not all(mask.any() for masks in organs for mask in masks)
            self._values.append(torch.tensor(values, dtype=torch.float64), torch.tensor(float(is_flagged)))

    def _class_indices(self, case: Mapping[str, torch.Tensor], key: str) -> np.ndarray:
        """Class map (X, Y, Z). Gray values or probabilities would otherwise pass for empty masks."""
        labels = convert_to_numpy(case[key])
        if labels.ndim != 4 or labels.shape[0] != 1 or not labels.size:
            raise InputError(f"{key}: expected shape (1, X, Y, Z), found {labels.shape}")
        lowest, highest = labels.min(), labels.max()
        if not (lowest >= 0 and highest < self.num_classes and np.array_equal(labels, np.rint(labels))):
            raise InputError(
                f"{key}: expected class indices 0 to {self.num_classes - 1}, found values from {lowest} to"
                f" {highest}"
            )
        return labels[0]

    def _organ_values(
        self, prediction: np.ndarray, reference: np.ndarray, edges_mm: Sequence[float]
    ) -> list[float]:
        """Measures and scores in the order of ``names``; each border rule is evaluated once."""
        rules = {None, *(profile.neighbors for profile in self.profiles)}
        by_rule = {rule: organ_values(prediction, reference, edges_mm, rule) for rule in rules}
        values = [by_rule[None][measure] for measure in ORGAN_MEASURES]
        for profile in self.profiles:
            values += organ_scores(by_rule[profile.neighbors], profile).values()
        return values

    def _publish(self, engine: Engine) -> None:
        values, flagged = self._values.get_buffer()  # (cases, K, names), (cases,)
        self._groups.names = [name.lower() for name in self._groups.names]
        domains = np.array(self._groups.names)
        for name, details in zip(self.names, values.float().unbind(dim=-1), strict=True):
            self._publish_details(engine, self.prefix + name, details)
            for domain in np.unique(domains):
                mean = mean_over_classes(mean_over_cases(details.numpy()[domains == domain]))
                engine.state.metrics[f"{self.prefix}{name}_{domain}"] = mean
        engine.state.metrics[f"{self.prefix}flagged_cases"] = int(flagged.sum())


def _profile(profile: str | Profile) -> Profile:
    if isinstance(profile, Profile):
        return profile
    if profile not in PROFILES:
        raise InputError(f"profiles: expected some of {', '.join(PROFILES)}, found {profile!r}")
    return PROFILES[profile]


def domain_columns(cases: Sequence[Mapping[str, str]], profile: str, prefix: str = "val_") -> dict[str, str]:
    """Columns of the evaluation's table: every measure and the overall score, for each domain.

    Args:
        cases: with ``domain``.
        profile: name of the profile that makes the score.
        prefix: as for :class:`OrganMetrics`.

    Returns:
        Title of each column -> name of its metric, as ``EvaluationReport`` wants them; the score's mean over
        the domains is the last one.

    Raises:
        InputError: no cases, or one without domain.
    """
    if not cases or any("domain" not in case for case in cases):
        raise InputError("cases: expected cases with a domain, found none or one without")
    domains = sorted({case["domain"] for case in cases})
    measures = {**TITLES, f"score_{profile}": "score"}
    columns = {
        f"{title} {domain}": f"{prefix}{measure}_{domain.lower()}"
        for measure, title in measures.items()
        for domain in domains
    }
    return columns | {"score": f"{prefix}score_{profile}"}
