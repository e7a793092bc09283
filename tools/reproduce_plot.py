"""Picture of a table: for each figure the paper's numbers and ours, row by row."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from tools.reproduce_tables import Figure

COLUMNS = 3
MOST_PANELS = 12
PANEL_WIDTH_IN = 4.2
ROW_HEIGHT_IN = 0.28
PAPER, OURS = "#777777", "#c2410c"


def draw(results: Mapping[str, Any], figures: Sequence[Figure]) -> bytes:
    """Draw one panel per figure, the first twelve; rows from top to bottom as in the table.

    Args:
        results: see :func:`tools.reproduce_results.results`.
        figures: to draw.

    Returns:
        PNG file.
    """
    figures = figures[:MOST_PANELS]
    columns = min(COLUMNS, len(figures))
    lines = math.ceil(len(figures) / columns)
    height_in = lines * (1.4 + ROW_HEIGHT_IN * len(results["rows"]))
    picture = Picture(figsize=(2 + PANEL_WIDTH_IN * columns, height_in), layout="constrained")
    axes = picture.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    for figure, panel in zip(figures, axes):
        _draw_panel(panel, results, figure)
    for panel in axes[len(figures) :]:
        panel.axis("off")
    picture.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    stream = io.BytesIO()
    picture.savefig(stream, format="png", dpi=90)
    return stream.getvalue()


def _draw_panel(panel: Axes, results: Mapping[str, Any], figure: Figure) -> None:
    rows = results["rows"]
    heights = range(len(rows))
    found = [row["figures"].get(figure.title, {}) for row in rows]
    paper = [_or_nan(item.get("paper")) for item in found]
    paper_spread = [item.get("paper_spread") or 0.0 for item in found]
    panel.errorbar(paper, heights, xerr=paper_spread, fmt="|", color=PAPER, markersize=14, label="paper")
    mean = [_or_nan(item.get("mean")) for item in found]
    spread = [item.get("spread") or 0.0 for item in found]
    panel.errorbar(mean, heights, xerr=spread, fmt="o", color=OURS, capsize=3, label="here, mean and spread")
    singles = [
        (run["figures"][figure.title], height)
        for height, row in enumerate(rows)
        for run in results["runs"]
        if run["row"] == row["id"] and run["figures"].get(figure.title) is not None
    ]
    panel.scatter([x for x, _ in singles], [y for _, y in singles], s=9, color=OURS, alpha=0.5, label="runs")
    panel.set_title(f"{figure.title} ({figure.column.better} is better)", fontsize=10)
    panel.set_yticks(heights, [row["name"] for row in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.grid(axis="x", alpha=0.3)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
