"""Whole scans by role in a semi-supervised training: labeled, unlabeled, validation and test.

Paper: Zhang et al., "A Semantic Knowledge Complementarity based Decoupling Framework for Semi-supervised
Class-imbalanced Medical Image Segmentation" (SKCDF), CVPR 2025.
Implements: its division of the training cases into labeled ones and the rest, whose labels are never used,
from published lists of ids.
Differs from the paper: own data are divided at random, with the rules of
:mod:`common.data.semi_supervised`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from monai.config import PathLike

from common.data.image_files import joined
from common.data.pairing import Case
from common.data.semi_supervised import label_budget, patient_split
from common.data.splits import Roles, kept_roles
from common.errors import InputError, raise_problems

logger = logging.getLogger(__name__)

STREAMS = ("labeled", "unlabeled", "validation", "test")
SUPERVISION = ("semi", "labeled", "full")


def published_split(
    cases: Sequence[Case], published_file: PathLike, split_file: PathLike, supervision: str = "semi"
) -> dict[str, list[Case]]:
    """Streams of cases from published lists of ids, which are also kept beside the results.

    Args:
        cases: with ``id`` and ``label``, exactly those of the split.
        published_file: JSON file with the lists of ids ``labeled``, ``unlabeled``, ``validation`` and
            ``test`` and, under other names, what describes it.
        split_file: JSON file to keep the same content in; if present it must say the same.
        supervision: ``semi``; ``labeled`` to train on the labeled cases alone; ``full`` to use the labels of
            all training cases (the tables' upper bound).

    Returns:
        ``{"labeled": [...], "unlabeled": [...], "validation": [...], "test": [...], "withheld": [...]}``,
        each by id; unlabeled cases have no ``label``, and there are none unless ``supervision`` is ``semi``.
        With ``labeled`` they are withheld, and known only so that an epoch can last as long as with them.

    Raises:
        InputError: unknown ``supervision``; ``published_file`` is unreadable or lacks a list, an id is in two
            lists, a case or its label is missing, a case is in no list; an empty stream; or ``split_file``
            says something else.
    """
    description, roles = _read_published(Path(published_file))
    by_id = {case["id"]: case for case in cases}
    listed = [case_id for ids in roles.values() for case_id in ids]
    raise_problems(
        f"{published_file}: expected exactly the cases of this split",
        [
            *(f"{case_id}: listed, but not in the data" for case_id in listed if case_id not in by_id),
            *(f"{case_id}: in the data, but not listed" for case_id in by_id if case_id not in listed),
            *(f"{i}: expected a label" for i in listed if i in by_id and "label" not in by_id[i]),
        ],
    )
    if kept_roles(Path(split_file), description, roles, cases) != roles:
        raise InputError(
            f"{split_file} was written for another split than {published_file}; choose another split_file, "
            "or delete it (results of the old one are then not comparable)"
        )
    return _streams({role: [by_id[case_id] for case_id in ids] for role, ids in roles.items()}, supervision)


def labeled_fraction_split(
    cases: Sequence[Case],
    split_file: PathLike,
    seed: int = 0,
    parts: Sequence[float] = (7, 1, 2),
    budget: float = 0.2,
    supervision: str = "semi",
) -> dict[str, list[Case]]:
    """Streams of cases drawn from a seed: by role first, then which training cases keep their label.

    Args:
        cases: as for :func:`common.data.semi_supervised.patient_split`, which draws training, validation and
            test; cases without ``label`` are added to the unlabeled ones.
        split_file: JSON file of the three roles, written if absent; if present its ids are used.
        seed: of both draws.
        parts: shares of training, validation and test.
        budget: share of the training patients whose labels are used (``label_budget``), see
            :func:`common.data.semi_supervised.label_budget`; those of a smaller one are among those of a
            larger one.
        supervision: as for :func:`published_split`.

    Returns:
        As :func:`published_split`; with parts of 0 there is nothing to validate or to test.

    Raises:
        InputError: unknown ``supervision``; a budget that leaves no labeled or, if semi-supervised, no
            unlabeled patient; and as :func:`common.data.semi_supervised.patient_split`.
    """
    split = patient_split(cases, split_file, seed, parts)
    training = split["training"]
    patients = sorted({_group(case) for case in training})
    kept = label_budget(patients, budget, seed)
    if not kept:
        raise InputError(
            f"label_budget: expected a share that labels at least 1 of {len(patients)} training patients, "
            f"such as {1 / len(patients):.2g}, found {budget}"
        )
    labeled = [case for case in training if _group(case) in kept]
    unlabeled = [case for case in training if _group(case) not in kept] + split["unlabeled"]
    if supervision == "semi" and not unlabeled:
        raise InputError(
            f"label_budget: expected a share that leaves at least 1 of {len(patients)} training patients "
            f"unlabeled, found {budget}; lower it, or set supervision to labeled"
        )
    logger.info("labeled: %d of %d training cases: %s", len(labeled), len(training), joined(_ids(labeled)))
    roles = {"labeled": labeled, "unlabeled": unlabeled}
    return _streams(roles | {role: split[role] for role in STREAMS[2:]}, supervision)


def _read_published(path: Path) -> tuple[dict[str, object], Roles]:
    """What describes a published split, and its ids by role."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a readable JSON file, found: {error}") from error
    roles = {role: content.get(role) for role in STREAMS} if isinstance(content, dict) else {}
    if not roles or not all(isinstance(ids, list) and ids for ids in roles.values()):
        raise InputError(f"{path}: expected a JSON object with the lists of ids {joined(STREAMS)}")
    roles = {role: list(map(str, ids)) for role, ids in roles.items()}
    lists_of: dict[str, list[str]] = {}
    for role, ids in roles.items():
        for case_id in ids:
            lists_of.setdefault(case_id, []).append(role)
    raise_problems(
        f"{path}: expected every id once",
        [f"{case_id}: {joined(lists)}" for case_id, lists in lists_of.items() if len(lists) > 1],
    )
    return {name: value for name, value in content.items() if name not in STREAMS}, roles


def _streams(roles: Mapping[str, Sequence[Case]], supervision: str) -> dict[str, list[Case]]:
    if supervision not in SUPERVISION:
        raise InputError(f"supervision: expected one of {joined(SUPERVISION)}, found {supervision!r}")
    streams = {role: sorted(roles[role], key=lambda case: case["id"]) for role in STREAMS}
    others = streams["unlabeled"]
    streams["unlabeled"], streams["withheld"] = [], []
    if supervision == "semi":
        streams["unlabeled"] = [{k: v for k, v in case.items() if k != "label"} for case in others]
    elif supervision == "labeled":
        streams["withheld"] = others
    else:
        with_label = [case for case in others if "label" in case]
        streams["labeled"] = sorted(streams["labeled"] + with_label, key=lambda case: case["id"])
    return streams


def _group(case: Case) -> str:
    return case.get("group", case["id"])


def _ids(cases: Sequence[Case]) -> list[str]:
    return [case["id"] for case in cases]
