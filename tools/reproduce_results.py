"""Numbers of the runs behind a table: read from their reports, averaged, compared with the paper's."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tools.reproduce_runs import FAILED, FINISHED, Plan, Run
from tools.reproduce_tables import MEAN, REPORT, Figure, Row, Table

NOT_STARTED, CUT_OFF = "not started", "begun, not finished"


class Summary(NamedTuple):
    """Our numbers of one figure of a row.

    Attributes:
        mean: over runs.
        spread: population standard deviation over runs.
        n: number of runs with this number.
        difference: mean minus the paper's number.
    """

    mean: float | None
    spread: float | None
    n: int
    difference: float | None


def summary(values: Sequence[float | None], paper: float | None) -> Summary:
    """Mean, spread and difference; runs without a finite number do not count."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    if not found:
        return Summary(None, None, 0, None)
    mean = statistics.fmean(found)
    difference = None if paper is None else mean - paper
    return Summary(mean, statistics.pstdev(found), len(found), difference)


def results(plan: Plan) -> dict[str, Any]:
    """Everything that is known about a table now, as plain values.

    Returns:
        ``table`` (what it is), ``asked`` (what was asked for), ``runs`` (settings, state, time, versions and
        numbers of each), ``rows`` (for each figure the paper's number and ours). Numbers are in the paper's
        unit.
    """
    runs = [run_result(run) for run in plan.runs]
    table = plan.table
    return {
        "table": {
            "bundle": table.bundle,
            "table": table.table,
            "title": table.title,
            "source": table.source,
            "evidence": table.evidence,
            "setting": dict(table.setting),
        },
        "asked": {
            "rows": [row.id for row in plan.rows],
            "dataset_dir": str(plan.dataset_dir),
            "seeds": list(plan.seeds),
            "folds": list(plan.folds),
            "overlays": list(plan.overlays),
            "settings": dict(plan.overrides),
        },
        "runs": runs,
        "rows": [_row_result(row, known_figures(table, runs), runs) for row in table.rows],
    }


def known_figures(table: Table, runs: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """The table's numbers, and those of structures that only the data of these runs have."""
    own = [f for run in runs for classes in run["classes"].values() for f in table.figures_of(classes)]
    # Columns hold lists, so figures are told apart by their titles.
    return list({figure.title: figure for figure in [*table.figures, *own]}.values())


def shown_figures(table: Table, runs: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """All numbers but those of structures that no run has, once there is a run."""
    classes = {name for run in runs for names in run["classes"].values() for name in names}
    known = known_figures(table, runs)
    return [f for f in known if not classes or not f.is_of_structure or f.structure in classes]


def run_result(run: Run) -> dict[str, Any]:
    """State, time and numbers of one run; problems with its reports are listed, not raised."""
    record = run.record()
    training = record["training"]
    evaluations = {name: record["evaluations"].get(name, {}) for name in run.plan.table.evaluations}
    problems = [part["error"] for part in (training, *evaluations.values()) if "error" in part]
    figures, cases, classes = {}, {}, {}
    for name in evaluations:
        if run.is_evaluated(name):
            report = _report(run, name)
            found, missing = _numbers(run, name, report.get("classes"))
            figures |= found
            problems += [{"missing": missing, "log": str(run.evaluation_folder(name))}] if missing else []
            cases[name], classes[name] = report.get("cases"), report.get("classes", [])
    return {
        "row": run.row.id,
        "seed": run.seed,
        "fold": run.fold,
        "folder": run.name,
        "state": _state(run, training, evaluations),
        "training_s": training.get("seconds"),
        "evaluation_s": sum(part.get("seconds", 0.0) for part in evaluations.values()),
        "settings": training.get("settings"),
        "made_with": training.get("made_with"),
        "test_cases": cases,
        "classes": classes,
        "figures": figures,
        "problems": problems,
    }


def _state(run: Run, training: Mapping[str, Any], evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    parts = [training, *evaluations.values()]
    if run.is_finished():
        return FINISHED
    if any(part.get("state") == FAILED for part in parts):
        return FAILED
    return CUT_OFF if training else NOT_STARTED


def _numbers(
    run: Run, evaluation: str, classes: Sequence[str] | None
) -> tuple[dict[str, float | None], list[str]]:
    """Figures that an evaluation measured, in the paper's unit, and titles of those that it should have."""
    found, missing = {}, []
    table = run.plan.table
    for figure in table.figures if classes is None else table.figures_of(classes):
        if not figure.column.is_measured or figure.column.evaluation != evaluation:
            continue
        try:
            value = _number(run, figure)
        except (OSError, ValueError, LookupError, TypeError):
            # A network for one modality has no number for the other, nor has the paper.
            if figure.of_paper(run.row) is not None:
                missing.append(figure.title)
            continue
        found[figure.title] = None if value is None else value * figure.column.scale
    return found, missing


def _number(run: Run, figure: Figure) -> float | None:
    column = figure.column
    content = json.loads((run.evaluation_folder(column.evaluation) / column.file).read_text(encoding="utf-8"))
    if column.path:
        for key in column.path:
            content = content[key]
        return content
    (found,) = [item for item in content["columns"].values() if item["metric"] == column.metric]
    if figure.structure == MEAN:
        return found["mean"]
    return found["values"][content["classes"].index(figure.structure)]


def _report(run: Run, evaluation: str) -> dict[str, Any]:
    """What an evaluation reports, empty if it wrote other files only."""
    file = run.evaluation_folder(evaluation) / REPORT
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _row_result(row: Row, figures: Sequence[Figure], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = [run for run in runs if run["row"] == row.id]
    by_title = {}
    for figure in figures:
        paper = figure.of_paper(row)
        ours = summary([run["figures"].get(figure.title) for run in own], paper)
        if paper is not None or ours.n:
            by_title[figure.title] = {
                "paper": paper,
                "paper_spread": figure.spread_of_paper(row),
                **ours._asdict(),
            }
    return {
        "id": row.id,
        "name": row.name,
        "overlays": None if row.overlays is None else list(row.overlays),
        "why_not": row.why_not,
        "note": row.note,
        "finished": sum(run["state"] == FINISHED for run in own),
        "asked": len(own),
        "figures": by_title,
    }
