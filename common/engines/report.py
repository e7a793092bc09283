"""Evaluator handler that writes the table of scores per structure."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from monai.config import PathLike
from monai.utils import convert_to_numpy

from common.data.writers import atomic_path
from common.engines.case_metrics import CaseGroups
from common.errors import InputError
from common.metrics.averages import mean_over_classes

logger = logging.getLogger(__name__)


class Column(NamedTuple):
    """One column of the table: a value per class, their mean, and per class the cases without a value."""

    metric: str
    values: list[float]
    mean: float
    missing: list[int]


class EvaluationReport:
    """Log and write ``report.md`` and ``report.json`` when the evaluation has ended.

    A cell is the mean over the cases in which the value is finite; the row ``mean`` is the plain mean over
    the classes, as in the tables of the papers; the row ``missing`` counts the values that are not finite. A
    metric that is one number without values per case (pooled pixel counts) fills only the row ``mean``.

    With ``group_key`` a cell is the mean over groups of the mean within each group, as usual for frames of
    video clips; the title counts the groups. A metric without values per case is shown as it is published:
    ``SaliencyMetrics`` needs the same key for its maxima.

    Args:
        output_dir: folder of the two files.
        class_names: rows, the foreground classes in their order.
        columns: title of each column and the name of its metric in ``engine.state.metrics``.
        grid: the voxel grid on which the scores were computed, e.g. ``native`` or ``1 x 1 x 1 mm``. Distances
            mean little without it.
        group_key: entry of the cases that names their group; ``None``: every case weighs the same.

    Raises:
        InputError: when the evaluation has ended, a column names no metric, or the number of names is wrong;
            while running, a case without group.
    """

    def __init__(
        self,
        output_dir: PathLike,
        class_names: Sequence[str],
        columns: Mapping[str, str],
        grid: str,
        group_key: str | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.class_names = list(class_names)
        self.columns = dict(columns)
        self.grid = grid
        self._groups = CaseGroups(group_key)
        self._num_cases = 0

    def attach(self, engine: Engine) -> None:
        """Register the handler with an evaluator whose output is a decollated list."""
        self._groups.attach(engine)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self._num_cases = 0

    def _count(self, engine: Engine) -> None:
        self._num_cases += len(engine.state.output)

    def _write(self, engine: Engine) -> None:
        num_cases = int(idist.all_reduce(self._num_cases))
        if idist.get_rank() != 0:
            return
        columns = {title: self._column(engine, metric) for title, metric in self.columns.items()}
        header = {"grid": self.grid, "cases": num_cases, "classes": self.class_names}
        counted = f"{num_cases} case(s)"
        if self._groups.key is not None:
            num_groups = len(set(self._groups.names))
            header |= {"group_key": self._groups.key, "groups": num_groups}
            counted += f" in {num_groups} groups of equal weight"
        table = _table(self.class_names, columns)
        title = f"Evaluation of {counted}, grid: {self.grid}"
        logger.info("%s\n%s", title, table)
        content = header | {"columns": {name: column._asdict() for name, column in columns.items()}}
        with atomic_path(self.output_dir / "report.json") as path:
            path.write_text(json.dumps(_finite_or_null(content), indent=2) + "\n", encoding="utf-8")
        with atomic_path(self.output_dir / "report.md") as path:
            path.write_text(f"# {title}\n\n{table}\n", encoding="utf-8")

    def _column(self, engine: Engine, metric: str) -> Column:
        if metric not in engine.state.metrics:
            known = ", ".join(engine.state.metrics)
            raise InputError(f"columns: expected names among {known}, found {metric!r}")
        num_classes = len(self.class_names)
        details = engine.state.metric_details.get(metric)
        per_case = details is not None and details.ndim == 2
        if per_case:
            cases = convert_to_numpy(details)
            values, missing = self._groups.mean(cases), (~np.isfinite(cases)).sum(axis=0)
        else:
            values = np.atleast_1d(convert_to_numpy(engine.state.metrics[metric]))
            missing = np.zeros(len(values), dtype=int)
        mean = mean_over_classes(values)
        if not per_case and len(values) == 1 < num_classes:
            values, missing = np.full(num_classes, np.nan), np.zeros(num_classes, dtype=int)
        if len(values) != num_classes:
            raise InputError(
                f"class_names: expected {len(values)} names, as {metric} has, found {num_classes}"
            )
        return Column(metric, values.tolist(), mean, missing.tolist())


def _table(class_names: Sequence[str], columns: Mapping[str, Column]) -> str:
    """Markdown table padded to equal widths, so that it also reads well in a log."""
    rows = [["structure", *columns]]
    for index, name in enumerate(class_names):
        rows.append([name, *(_cell(column.values[index]) for column in columns.values())])
    rows.append(["mean", *(_cell(column.mean) for column in columns.values())])
    rows.append(["missing", *(str(sum(column.missing)) for column in columns.values())])
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _finite_or_null(content: Any) -> Any:
    """Replace numbers that JSON does not know by null, in dictionaries and lists of any depth."""
    if isinstance(content, Mapping):
        return {key: _finite_or_null(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite_or_null(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def case_meta(batch: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Meta data of a decollated batch's images, as ``MetricsSaver`` wants them (``batch_transform``)."""
    return [case["image"].meta for case in batch]
