"""What sets the runs behind a table apart from the paper's: data, settings, pretraining, repeats, gaps."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle.utils import ID_SEP_KEY

from tools.bundle_command import bundle_command
from tools.reproduce_runs import FINISHED, WITHOUT_EFFECT, Plan, config_files

LONGEST_VALUE = 60
PRETRAINING = ("pretrained", "pretrained_path", "feature_weight", "vgg16_weights_path")


class Change(NamedTuple):
    """A setting that was asked for, where the table has another value."""

    source: str
    key: str
    before: str
    now: str


def departures(plan: Plan, results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything to know before the numbers are compared, as pairs of topic and sentence.

    Args:
        plan: what was asked for.
        results: see :func:`tools.reproduce_results.results`.
    """
    table, changes = plan.table, changed_settings(plan)
    found = [("Data", _data(plan, results))]
    by_source: dict[str, list[str]] = {}
    for change in changes:
        by_source.setdefault(change.source, []).append(f"{change.key} {change.before} -> {change.now}")
    found += [("Other settings", f"{source}: {'; '.join(lines)}.") for source, lines in by_source.items()]
    pretraining = table.setting["pretraining"]
    touched = [f"{c.key} {c.before} -> {c.now}" for c in changes if c.key in PRETRAINING]
    if touched:
        found.append(("Pretraining", f"The paper: {pretraining}. Here {'; '.join(touched)}."))
    found.append(("Repeats", _repeats(plan)))
    found += [("Incomplete", line) for line in _gaps(plan, results)]
    return found + [("In any case", line) for line in table.differs]


def changed_settings(plan: Plan) -> list[Change]:
    """Settings that overlays and command line give another value than the table's own files."""
    bundle, table = plan.table.bundle, plan.table
    own_files, kept_files = (_files(bundle, names, plan) for names in (table.overlays, plan.kept_overlays))
    new = _files(bundle, plan.shared_overlays, plan)[len(kept_files) :]
    settings, without, set_anew = (_merged(files, plan) for files in (own_files, kept_files, new))
    changes = []
    for file in (file for file in own_files if file not in kept_files):
        keys = [key for key in _read(plan.repository / file) if key not in set_anew]
        back = {key: _value(without, key) for key in keys}
        changes += _changes(f"without {Path(file).stem}", back, settings)
        settings |= back
    for file in new:
        overlay = _read(plan.repository / file)
        changes += _changes(Path(file).stem, overlay, settings)
        settings |= overlay
    given = {key: _literal(word) for key, word in plan.overrides.items()}
    changes += _changes("command line", given, settings)
    return changes


def _files(bundle: str, overlays: Sequence[str], plan: Plan) -> list[str]:
    words = [word for word in overlays if not word.startswith("evaluate")]
    return config_files(bundle_command("train", bundle, words, repository=plan.repository))


def _merged(files: Sequence[str], plan: Plan) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for file in files:
        settings |= _read(plan.repository / file)
    return settings


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _changes(source: str, overlay: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Change]:
    pairs = [(key, _text(_value(settings, key)), _text(value)) for key, value in overlay.items()]
    return [
        Change(source, key, before, now)
        for key, before, now in pairs
        if before != now and key not in WITHOUT_EFFECT
    ]


def _value(settings: Mapping[str, Any], path: str) -> Any:
    """Value of a key, also of one inside a component, or "nothing"."""
    if path in settings:
        return settings[path]
    found: Any = settings
    for key in path.split(ID_SEP_KEY):
        if not isinstance(found, Mapping) or key not in found:
            return "nothing"
        found = found[key]
    return found


def _literal(word: str) -> Any:
    """Value of a setting on the command line."""
    try:
        return None if word == "$None" else ast.literal_eval(word)
    except (SyntaxError, ValueError):
        return word


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def _data(plan: Plan, results: Mapping[str, Any]) -> str:
    text = f"The paper: {plan.table.setting['data']}. Here: {plan.dataset_dir}."
    agreed = False
    for name, evaluation in plan.table.evaluations.items():
        counts = {run["test_cases"].get(name) for run in results["runs"]} - {None}
        if evaluation.test_cases is None or not counts:
            continue
        if counts == {evaluation.test_cases}:
            agreed = True
            continue
        shown = ", ".join(map(str, sorted(counts)))
        text += f" OTHER TEST CASES ({name}): {shown}, in the paper {evaluation.test_cases}."
    text += _other_structures(plan, results)
    if agreed:
        text += " The number of test cases is the paper's; whether they are the same ones is not checked."
    return text


def _other_structures(plan: Plan, results: Mapping[str, Any]) -> str:
    text = ""
    for name in plan.table.evaluations:
        found = {tuple(run["classes"].get(name, ())) for run in results["runs"]} - {()}
        for classes in sorted(found):
            foreign = plan.table.foreign_structures(classes)
            if foreign:
                here, there = ", ".join(classes), ", ".join(foreign)
                text += f" OTHER STRUCTURES ({name}): {here}; the paper's {there} are not in these data."
    return text


def _repeats(plan: Plan) -> str:
    seeds = f"{len(plan.seeds)} seed(s): {', '.join(map(str, plan.seeds))}"
    folds = f"; folds {', '.join(map(str, plan.folds))}" if plan.folds else ""
    return f"The paper: {plan.table.setting['repeats']}. Here {seeds}{folds}."


def _gaps(plan: Plan, results: Mapping[str, Any]) -> list[str]:
    asked = {row.id for row in plan.rows}
    left_out = [row.name for row in plan.table.rows if row.is_runnable and row.id not in asked]
    lines = [f"Rows not asked for: {'; '.join(left_out)}."] if left_out else []
    unfinished = [f"{run['folder']} ({run['state']})" for run in results["runs"] if run["state"] != FINISHED]
    lines += [f"No numbers yet from: {', '.join(unfinished)}."] if unfinished else []
    if missing := sorted(set(plan.table.folds) - set(plan.folds)):
        lines.append(f"Folds of the paper's cross-validation left out: {', '.join(map(str, missing))}.")
    return lines
