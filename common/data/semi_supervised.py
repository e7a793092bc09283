"""Patients by role, and the slices of a semi-supervised training: few labeled, many unlabeled.

Paper: Fang and Li, "DMNet: Difference Minimization Network for Semi-supervised Segmentation in Medical
Images", MICCAI 2020, 10.1007/978-3-030-59710-8_52.
Implements: its division of patients, 7 : 1 : 2, and its amounts of labeled data, 10 to 100 percent, beside
which all unlabeled slices of the training patients are always used.
Differs from the paper: BraTS 2018 has 285 labeled patients, where the paper says 385.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike

from common.data.image_files import joined
from common.data.image_layouts import ImageCase
from common.data.slice_choice import PAPER_RULE, SliceRule, pick_slices
from common.data.slice_index import MEAN_KEY, STD_KEY, VolumeSlices
from common.data.splits import Roles, groups_by_stratum, kept_roles, official_roles
from common.errors import InputError, raise_problems

logger = logging.getLogger(__name__)

_ROLES = ("training", "validation", "test")


def patient_split(
    cases: Sequence[ImageCase], split_file: PathLike, seed: int = 0, parts: Sequence[float] = (7, 1, 2)
) -> dict[str, list[ImageCase]]:
    """Split patients into training, validation and test, and keep the result in a file of ids.

    The groups (or ids) of labeled cases are sorted and shuffled by ``random.Random(seed)``; test patients are
    taken from the end, validation patients before them, in each stratum if there are any. 210 patients give
    147, 21 and 42; 285 give 200, 28 and 57 (28.5 is rounded to the even number). Official roles take the
    place of this.

    Args:
        cases: with ``id`` and, if any, ``group`` (never divided), ``stratum`` and ``split`` (the official
            role); cases without ``label`` are for training only.
        split_file: JSON file, written if absent; if present its ids are used.
        seed: of the shuffle.
        parts: shares of training, validation and test. A share above 0 has one patient at least.

    Returns:
        Cases of ``training``, ``validation``, ``test`` and ``unlabeled``, every case as it was given.
        Unlabeled cases of validation and test patients are left out, with a warning.

    Raises:
        InputError: unusable parts, too few patients, a role without cases, a patient in two roles (a file of
            ids may be edited, official roles may be wrong), or ``split_file`` is malformed or was written for
            other cases or settings.
    """
    labeled = [case for case in cases if "label" in case]
    if len(parts) != 3 or min(parts) < 0 or not parts[0]:
        raise InputError(f"parts: expected three shares, that of training above 0, found {list(parts)}")
    if any("split" in case for case in labeled):
        settings, roles = {"official": True}, official_roles(labeled)
    else:
        # As text: to the reader of split files, a list is a list of ids.
        settings = {"seed": seed, "parts": ":".join(f"{part:g}" for part in parts)}
        roles = _drawn_roles(labeled, seed, parts)
    roles = kept_roles(Path(split_file), settings, roles, labeled)
    by_id = {case["id"]: case for case in labeled}
    split = {role: [by_id[case_id] for case_id in roles.get(role, [])] for role in _ROLES}
    empty = [role for role, part in zip(_ROLES, parts) if part and not split[role]]
    if empty:
        found = joined(role for role in roles if roles[role])
        raise InputError(f"split: expected cases with role {joined(empty)}, found only {found}")
    _refuse_overlap(split)
    return {**split, "unlabeled": _outside(cases, split)}


def label_budget(groups: Sequence[str], budget: float, seed: int = 0) -> list[str]:
    """The patients whose labels are used; those of a smaller budget are among those of a larger one.

    Args:
        groups: patients, in any order.
        budget: share of them, in (0, 1]; halves are rounded up, so that 0.1, 0.3 and 0.5 of 147 are 15, 44
            and 74.
        seed: of the order in which patients are added.

    Returns:
        Patients, sorted.

    Raises:
        InputError: ``budget`` is not in (0, 1].
    """
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget <= 1:
        raise InputError(f"label_budget: expected above 0 and at most 1, found {budget!r}")
    shuffled = sorted(set(groups))
    random.Random(f"{seed} budget").shuffle(shuffled)
    # As the decimal that was written: 0.7 * 45 falls below 31.5 in binary.
    count = math.floor(Fraction(str(budget)) * len(shuffled) + Fraction(1, 2))
    return sorted(shuffled[:count])


def slice_streams(
    split: Mapping[str, Sequence[ImageCase]],
    index: Mapping[str, VolumeSlices],
    budget: float = 1.0,
    seed: int = 0,
    rule: SliceRule = PAPER_RULE,
    with_unlabeled: bool = True,
    class_names: Sequence[str] | None = None,
) -> dict[str, list[ImageCase]]:
    """The slices to train on with and without label, to validate and to test.

    Args:
        split: from :func:`patient_split`.
        index: of all its cases, from :func:`common.data.slice_index.slice_index`.
        budget: share of the training patients whose labels are used, see :func:`label_budget`. Unlabeled
            slices are those of all training patients at every budget.
        seed: of the budget and of ``rule``.
        rule: which slices of a volume.
        with_unlabeled: False for a training with labels alone, whose ``unlabeled`` is empty.
        class_names: of the foreground classes, for messages.

    Returns:
        ``labeled``, ``validation`` and ``test`` slices ``{"id", "image", "label", "slice", "group"}`` and
        ``unlabeled`` ones ``{"id", "image", "slice"}``, all for
        :class:`~common.transforms.slice_of_volume.LoadSliced`, by id; with the intensities of their volume if
        the index has them. The id is that of the case and, of volumes, the slice. Patients whose label shows
        no target are left out, with a warning.

    Raises:
        InputError: ``budget`` is not in (0, 1]; fewer than 2 labeled slices, which batch normalization needs;
            a class that no labeled slice shows; no unlabeled slices; nothing to validate or test.
    """
    picks = {
        case["id"]: pick_slices(index[case["id"]], rule, f"{seed} {case['id']}")
        for cases in split.values()
        for case in cases
    }
    to_label = {case_id: picked.labeled for case_id, picked in picks.items()}
    unlabeled = {case_id: picked.unlabeled for case_id, picked in picks.items()}
    usable = {role: _with_target(role, split.get(role, []), to_label) for role in _ROLES}
    kept = set(label_budget([_group(case) for case in usable["training"]], budget, seed))
    used = [case for case in usable["training"] if _group(case) in kept]
    streams = {
        "labeled": _items(used, index, to_label),
        "unlabeled": [],
        "validation": _items(usable["validation"], index, to_label),
        "test": _items(usable["test"], index, to_label),
    }
    _check_labeled(streams["labeled"], used, index, to_label, class_names)
    if with_unlabeled:
        found = _items([*usable["training"], *split.get("unlabeled", [])], index, unlabeled)
        if rule.unused_as_unlabeled:
            unused = [case for case in usable["training"] if _group(case) not in kept]
            found += _items(unused, index, to_label)
        streams["unlabeled"] = sorted(map(_without_label, found), key=lambda item: item["id"])
        if not found:
            raise InputError(
                "unlabeled: expected slices to train on without label, found none; raise num_unlabeled, set "
                "unused_as_unlabeled, add images without label, or train with labels alone"
            )
    return streams


def _drawn_roles(cases: Sequence[ImageCase], seed: int, parts: Sequence[float]) -> Roles:
    role_of: dict[str, str] = {}
    for stratum, groups in sorted((groups_by_stratum(cases) or {"": []}).items()):
        shuffled = list(groups)
        random.Random(seed).shuffle(shuffled)
        for role, part in (("test", parts[2]), ("validation", parts[1])):
            count = max(1, round(len(groups) * part / sum(parts))) if part else 0
            role_of |= dict.fromkeys(shuffled[len(shuffled) - count :], role)
            shuffled = shuffled[: max(0, len(shuffled) - count)]
        if not shuffled:
            where = f" in stratum {stratum!r}" if stratum else ""
            raise InputError(
                f"split: expected at least {sum(part > 0 for part in parts)} labeled patients{where}, "
                f"found {len(groups)}"
            )
    roles: Roles = {role: [] for role in _ROLES}
    for case in sorted(cases, key=lambda case: case["id"]):
        roles[role_of.get(_group(case), "training")].append(case["id"])
    return roles


def _group(case: Mapping[str, Any]) -> str:
    return case.get("group", case["id"])


def _refuse_overlap(split: Mapping[str, Sequence[ImageCase]]) -> None:
    roles_of: dict[str, list[str]] = {}
    for role, cases in split.items():
        for group in {_group(case) for case in cases}:
            roles_of.setdefault(group, []).append(role)
    raise_problems(
        "split: expected every patient in one role",
        [f"{group}: {joined(roles)}" for group, roles in sorted(roles_of.items()) if len(roles) > 1],
    )


def _outside(cases: Sequence[ImageCase], split: Mapping[str, Sequence[ImageCase]]) -> list[ImageCase]:
    """Unlabeled cases of patients that are neither validated nor tested."""
    held_out = {_group(case) for role in _ROLES[1:] for case in split[role]}
    unlabeled = [case for case in cases if "label" not in case]
    left_out = [case["id"] for case in unlabeled if _group(case) in held_out]
    if left_out:
        logger.warning("unlabeled cases of validation and test patients are left out: %s", joined(left_out))
    return [case for case in unlabeled if _group(case) not in held_out]


def _with_target(role: str, cases: Sequence[ImageCase], to_label: Mapping[str, list[int]]) -> list[ImageCase]:
    usable = [case for case in cases if to_label[case["id"]]]
    left_out = [case["id"] for case in cases if not to_label[case["id"]]]
    if left_out:
        logger.warning("%s cases without target are left out: %s", role, joined(left_out))
    if left_out and not usable:
        raise InputError(f"{role}: expected labels with the target, found none in {joined(left_out)}")
    return usable


def _items(
    cases: Sequence[ImageCase], index: Mapping[str, VolumeSlices], numbers: Mapping[str, list[int]]
) -> list[ImageCase]:
    """The slices of these numbers, by id."""
    items = []
    for case in sorted(cases, key=lambda case: case["id"]):
        volume = index[case["id"]]
        shared = {key: case[key] for key in ("image", "label") if key in case} | {"group": _group(case)}
        if volume.mean is not None:
            shared |= {MEAN_KEY: list(volume.mean), STD_KEY: list(volume.std)}
        for number in numbers[case["id"]]:
            name = case["id"] if volume.num_slices == 1 else f"{case['id']}_slice_{number:04d}"
            items.append({"id": name, "slice": number, **shared})
    return items


def _without_label(item: ImageCase) -> ImageCase:
    return {key: value for key, value in item.items() if key not in ("label", "group")}


def _check_labeled(
    items: Sequence[ImageCase],
    cases: Sequence[ImageCase],
    index: Mapping[str, VolumeSlices],
    numbers: Mapping[str, list[int]],
    class_names: Sequence[str] | None,
) -> None:
    """Refuse labeled slices that are too few or lack a class."""
    if len(items) < 2:
        raise InputError(
            f"labeled: expected at least 2 slices (batch normalization needs them), found {len(items)}; "
            "raise label_budget or add labeled cases"
        )
    shown = sum(index[case["id"]].counts[:, numbers[case["id"]]].sum(axis=1) for case in cases)
    absent = [int(k) for k in np.flatnonzero(shown == 0) + 1]
    if absent:
        names = [f"{k} ({class_names[k - 1]})" if class_names else str(k) for k in absent]
        raise InputError(
            f"labeled: expected every class in {len(items)} slices, found none of class {joined(names)}; "
            "raise label_budget or choose slices by another rule"
        )
