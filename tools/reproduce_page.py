"""The page about a table: what differs from the paper, its numbers and ours, plots, runs, failures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data.writers import atomic_path
from tools.bundle_command import shell_line
from tools.reproduce_departures import departures
from tools.reproduce_document import Document
from tools.reproduce_plot import draw
from tools.reproduce_results import results, shown_figures
from tools.reproduce_runs import Plan
from tools.reproduce_tables import Figure

PLOT = "table.png"


def write_pages(plan: Plan, folder: Path) -> dict[str, Any]:
    """Write ``results.json``, ``table.md``, ``table.png`` and ``table.html``, each whole or not at all.

    Args:
        plan: what was asked for; whatever is finished is in the pages.
        folder: where they go.

    Returns:
        What ``results.json`` holds.

    Raises:
        InputError: a file cannot be written.
    """
    found = results(plan)
    found["departures"] = [{"topic": topic, "text": text} for topic, text in departures(plan, found)]
    plot = draw(found, plan.table.headline)
    document = page(plan, found, plot)
    contents = {
        "results.json": (json.dumps(found, indent=2) + "\n").encode(),
        PLOT: plot,
        "table.md": document.markdown.encode(),
        "table.html": document.html.encode(),
    }
    for name, content in contents.items():
        with atomic_path(folder / name) as path:
            path.write_bytes(content)
    return found


def page(plan: Plan, found: Mapping[str, Any], plot: bytes) -> Document:
    """The page itself, from what :func:`write_pages` found."""
    table = plan.table
    document = Document(f"{table.bundle}, table {table.table}: {table.title}")
    document.text(f"Paper's numbers: {table.source} ({table.evidence}).")
    box = [(item["topic"], item["text"]) for item in found["departures"]]
    document.box("What differs from the paper's setting", box)
    document.heading("Results")
    document.text(
        "Each cell: the paper's number; ours as mean ± population standard deviation (number of runs); the"
        " difference, ours minus the paper's."
    )
    _add_overview(document, found, table.headline)
    document.picture(plot, PLOT, "The paper's numbers and ours")
    document.heading("All numbers")
    _add_all(document, found, shown_figures(table, found["runs"]))
    document.heading("Runs")
    _add_runs(document, plan, found)
    return document


def _add_overview(document: Document, found: Mapping[str, Any], figures: Sequence[Figure]) -> None:
    header = ["row", *(f"{f.title} ({f.column.better} is better)" for f in figures), "runs"]
    rows = []
    for row in found["rows"]:
        cells = [_cell(row["figures"].get(figure.title), figure) for figure in figures]
        asked = f"{row['finished']} of {row['asked']}" if row["asked"] else "not asked for"
        name = row["name"] + (f"\n({row['note']})" if row["note"] else "")
        rows.append([name, *cells, row["why_not"] or asked])
    document.table(header, rows)


def _cell(item: Mapping[str, Any] | None, figure: Figure) -> str:
    if item is None:
        return ""
    lines = [_with_spread(item["paper"], item["paper_spread"], figure)]
    if item["n"]:
        lines.append(f"{_ours(item, figure)} ({item['n']})")
    if item["difference"] is not None:
        lines.append(f"{item['difference']:+.{figure.column.digits}f}")
    return "\n".join(lines)


def _ours(item: Mapping[str, Any], figure: Figure) -> str:
    """Mean and spread; a single run has none."""
    return _with_spread(item["mean"], item["spread"] if item["n"] > 1 else None, figure)


def _with_spread(value: float | None, spread: float | None, figure: Figure) -> str:
    digits = figure.column.digits
    if value is None:
        return "-"
    return f"{value:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def _add_all(document: Document, found: Mapping[str, Any], figures: Sequence[Figure]) -> None:
    rows = []
    for row in found["rows"]:
        for figure in figures:
            item = row["figures"].get(figure.title)
            if item is None or not row["asked"]:
                continue
            difference = item["difference"]
            rows.append(
                [
                    row["name"],
                    figure.title,
                    _with_spread(item["paper"], item["paper_spread"], figure),
                    _ours(item, figure),
                    str(item["n"]),
                    "-" if difference is None else f"{difference:+.{figure.column.digits}f}",
                ]
            )
    document.table(["row", "figure", "paper", "here", "runs", "difference"], rows)


def _add_runs(document: Document, plan: Plan, found: Mapping[str, Any]) -> None:
    rows = []
    for run in found["runs"]:
        made = ", ".join(f"{key} {value}" for key, value in (run["made_with"] or {}).items())
        rows.append(
            [run["folder"], run["state"], *map(_time, (run["training_s"], run["evaluation_s"])), made]
        )
    document.table(["run", "state", "training", "evaluation", "made with"], rows)
    for run in found["runs"]:
        for problem in run["problems"]:
            document.text(f"Problem in {run['folder']}, see {problem['log']}:")
            document.code("\n".join(problem.get("last_lines") or [str(problem.get("missing"))]))
    document.text("Commands of each run, in the root of the repository (the last ones evaluate):")
    lines = []
    for run in plan.runs:
        commands = [run.training_command(), *map(run.evaluation_command, plan.table.evaluations)]
        lines += [shell_line(["python", *command]) for command in commands]
    document.code("\n".join(lines))


def _time(seconds: float | None) -> str:
    if not seconds:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
