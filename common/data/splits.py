"""Which cases train and validate, drawn once from a seed and written down as ids; cases by data set."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import PathLike

from common.data.image_files import joined
from common.data.pairing import Case
from common.data.writers import atomic_path
from common.errors import InputError, raise_problems

Roles = dict[str, list[str]]


def seeded_split(
    cases: Sequence[Case],
    split_file: PathLike,
    seed: int = 0,
    num_folds: int = 5,
    fold: int = 0,
    held_out_role: str = "validation",
    num_held_out: int | Mapping[str, int] | None = None,
) -> dict[str, list[Case]]:
    """Split cases into training and validation, and keep the result in a file of ids.

    Without official roles the groups (or ids) are sorted, shuffled by ``random.Random(seed)`` and cut into
    contiguous folds counted from the end: 20 cases in 5 folds give the last 4 to fold 0. Where cases have
    strata this is done in each of them, so that a fold holds the same share of all. Every process that
    computes the split of the same cases gets the same one, so that several may run at once.

    Args:
        cases: with ``id`` and, if any, ``group`` (never divided), ``stratum`` (e.g. the source of an image;
            cases without one are a stratum of their own) or ``split`` (the official role).
        split_file: JSON file, written if absent; if present its ids are used.
        seed: of the shuffle, the same in all strata.
        num_folds: at least 2, at most the number of groups in the smallest stratum.
        fold: which fold is held out, 0 to ``num_folds`` - 1.
        held_out_role: the official role that takes the place of validation; unused without official roles.
        num_held_out: hold out so many groups of each stratum, or so many by stratum, instead of a fold;
            ``None``: a fold.

    Returns:
        ``{"training": [...], "validation": [...]}``, every case as it was given.

    Raises:
        InputError: the numbers make no split, a group lies in two strata, only some cases have a role, a role
            has no cases, or ``split_file`` is malformed or was written for other cases or settings.
    """
    if any("split" in case for case in cases):
        settings, roles = {"official": True}, official_roles(cases)
    else:
        part = {"num_folds": num_folds, "fold": fold}
        if num_held_out is not None:
            part = {"num_held_out": num_held_out}
        settings = {"seed": seed, **part}
        roles, held_out_role = _drawn_roles(cases, seed, part), "validation"
    roles = kept_roles(Path(split_file), settings, roles, cases)
    by_id = {case["id"]: case for case in cases}
    ids = {"training": roles.get("training", []), "validation": roles.get(held_out_role, [])}
    _refuse_empty(ids, held_out_role, roles)
    return {name: [by_id[case_id] for case_id in ids[name]] for name in ids}


def of_datasets(cases: Sequence[Case], names: Sequence[str] | None) -> list[Case]:
    """Cases of some of several data sets, in their order.

    Args:
        cases: with ``dataset``, as layouts with several test sets give them.
        names: data sets to keep; ``None``: all cases, with or without ``dataset``.

    Raises:
        InputError: no names, or names that no case has; it tells those that there are.
    """
    if names is None:
        return list(cases)
    known = sorted({case["dataset"] for case in cases if "dataset" in case})
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        expected = f"some of {joined(known)}" if known else "null, as the cases name no data set"
        raise InputError(f"datasets: expected {expected}, found {joined(unknown) or 'none'}")
    return [case for case in cases if case.get("dataset") in names]


def _drawn_roles(cases: Sequence[Case], seed: int, part: Mapping[str, Any]) -> Roles:
    strata = groups_by_stratum(cases) or {"": []}  # no cases at all are too few for any number of folds
    held_out: set[str] = set()
    for stratum, groups in sorted(strata.items()):
        where = f" in stratum {stratum!r}" if stratum else ""
        shuffled = list(groups)
        random.Random(seed).shuffle(shuffled)
        if "num_held_out" in part:
            held_out |= set(_last(shuffled, part["num_held_out"], stratum, where))
        else:
            held_out |= set(_fold(shuffled, where=where, **part))
    roles: Roles = {"training": [], "validation": []}
    for case in sorted(cases, key=lambda case: case["id"]):
        roles["validation" if case.get("group", case["id"]) in held_out else "training"].append(case["id"])
    return roles


def groups_by_stratum(cases: Sequence[Case]) -> dict[str, list[str]]:
    """Sorted groups (or ids) of each stratum; cases without stratum are in the one named ``""``.

    Args:
        cases: with ``id`` and, if any, ``group`` and ``stratum``.

    Raises:
        InputError: a group lies in two strata.
    """
    strata_of: dict[str, set[str]] = {}
    for case in cases:
        strata_of.setdefault(case.get("group", case["id"]), set()).add(case.get("stratum", ""))
    raise_problems(
        "stratum: expected every group in one",
        [f"group {group}: {joined(sorted(found))}" for group, found in strata_of.items() if len(found) > 1],
    )
    strata: dict[str, list[str]] = {}
    for group in sorted(strata_of):
        (stratum,) = strata_of[group]
        strata.setdefault(stratum, []).append(group)
    return strata


def _last(
    groups: Sequence[str], num_held_out: int | Mapping[str, int], stratum: str, where: str
) -> Sequence[str]:
    """So many groups from the end; ``where`` is added to the message if there are too few."""
    if isinstance(num_held_out, Mapping):
        num_held_out = num_held_out.get(stratum, 0)
    if not 1 <= num_held_out < len(groups):
        raise InputError(
            f"num_held_out: expected 1 to {len(groups) - 1} (of {len(groups)} cases or patients{where}), "
            f"found {num_held_out}"
        )
    return groups[-num_held_out:]


def _fold(groups: Sequence[str], num_folds: int, fold: int, where: str) -> Sequence[str]:
    """Groups of one fold, counted from the end."""
    if not 2 <= num_folds <= len(groups):
        raise InputError(
            f"num_folds: expected 2 to {len(groups)} (the number of cases or patients{where}), "
            f"found {num_folds}"
        )
    if not 0 <= fold < num_folds:
        raise InputError(f"fold: expected 0 to {num_folds - 1}, found {fold}")
    block = num_folds - 1 - fold
    return groups[block * len(groups) // num_folds : (block + 1) * len(groups) // num_folds]


def official_roles(cases: Sequence[Case]) -> Roles:
    """Ids of each official role, sorted.

    Args:
        cases: with ``id`` and ``split``, the official role.

    Raises:
        InputError: a case without role.
    """
    raise_problems(
        "official roles",
        [f"{case['id']}: no role, but other cases have one" for case in cases if "split" not in case],
    )
    roles: Roles = {"training": []}
    for case in sorted(cases, key=lambda case: case["id"]):
        roles.setdefault(case["split"], []).append(case["id"])
    return roles


def kept_roles(path: Path, settings: dict[str, object], roles: Roles, cases: Sequence[Case]) -> Roles:
    """Ids of each role from a split file, which is written if it is absent.

    Args:
        path: JSON file with a list of ids per role, and the settings that it was written with.
        settings: of this run.
        roles: ids of each role as drawn by this run, to be written.
        cases: with ``id``.

    Raises:
        InputError: malformed, or written for other cases or settings.
    """
    if path.exists():
        return _read_roles(path, settings, cases)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings | roles, indent=2) + "\n", encoding="utf-8")
    return roles


def _read_roles(path: Path, settings: dict[str, object], cases: Sequence[Case]) -> Roles:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        roles = {name: list(map(str, ids)) for name, ids in content.items() if isinstance(ids, list)}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: expected a split file in JSON ({error}); delete it to draw a new split"
        ) from error
    written = {name: value for name, value in content.items() if name not in roles}
    counts, ids = (
        Counter(case_id for listed in roles.values() for case_id in listed),
        {case["id"] for case in cases},
    )
    problems = [
        f"{name}: {values}"
        for name, values in {
            "settings": f"expected {settings}, found {written}" if written != settings else "",
            "cases only in the data": joined(sorted(ids - counts.keys())),
            "cases only in the split file": joined(sorted(counts.keys() - ids)),
            "cases listed twice": joined(sorted(name for name, count in counts.items() if count > 1)),
        }.items()
        if values
    ]
    raise_problems(
        f"{path} was written for other cases or settings; give back what it was written for, choose another "
        "split_file, or delete it to draw a new split (results of the old one are then not comparable)",
        problems,
    )
    return roles


def _refuse_empty(ids: Roles, held_out_role: str, roles: Roles) -> None:
    for name, role in {"training": "training", "validation": held_out_role}.items():
        if not ids[name]:
            raise InputError(
                f"split: expected cases with role {role!r}, found only {', '.join(sorted(roles))}"
            )
