"""Published result tables as data: reads and checks the files in a bundle's folder ``tables``.

A file holds the numbers of one table with their source, and for each row the overlays that make it. A column
says which metric of which evaluation the number is to be compared with. Rows that the bundle cannot form say
why (``why_not``); they are shown, never run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from common.errors import InputError

MEAN = "mean"
REPORT = "report.json"
_Part = TypeVar("_Part")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of trained weights.

    Attributes:
        overlays: merged after ``evaluate.json``.
        settings: further settings, as values.
        test_cases: how many cases the paper judges on; ``None``: it does not say.
    """

    overlays: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    test_cases: int | None = None


@dataclass(frozen=True)
class Column:
    """One metric of the table, for one or several structures.

    Attributes:
        name: as shown.
        metric: name of the metric in ``report.json``; ``None``: evaluation does not measure it.
        structures: rows of the report, ``mean`` is that over structures.
        evaluation: which one measures it.
        file: where the evaluation writes the number.
        path: keys that lead to it in another file than ``report.json``.
        unit: of the paper's number.
        scale: from our unit to the paper's.
        better: "higher" or "lower".
        digits: after the point.
        headline: whether it is in the first table of the page and in its plots.
    """

    name: str
    metric: str | None = None
    structures: Sequence[str] = (MEAN,)
    evaluation: str | None = None
    file: str = REPORT
    path: Sequence[str] = ()
    unit: str = ""
    scale: float = 1.0
    better: str = "higher"
    digits: int = 3
    headline: bool = True

    @property
    def is_measured(self) -> bool:
        """Whether an evaluation gives this number."""
        return self.metric is not None or bool(self.path)


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        id: folder of its runs; rows of one data set have the same one if they are the same training.
        name: as in the paper.
        overlays: what makes it, after those of the table; ``None`` if it cannot be made.
        paper: the numbers of each column in the order of its structures.
        spread: standard deviations of the paper, likewise.
        why_not: why the bundle cannot form it.
        note: what is uncertain about it.
    """

    id: str
    name: str
    overlays: Sequence[str] | None = None
    paper: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    spread: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    why_not: str | None = None
    note: str | None = None

    @property
    def is_runnable(self) -> bool:
        """Whether the bundle can form it."""
        return self.overlays is not None


class Figure(NamedTuple):
    """One number of a row: a structure in a column."""

    column: Column
    structure: str

    @property
    def title(self) -> str:
        """Name as shown."""
        name = self.column.name if self.structure == MEAN else f"{self.column.name} {self.structure}"
        return f"{name} [{self.column.unit}]" if self.column.unit else name

    @property
    def is_of_structure(self) -> bool:
        """Whether it is the number of one class of the report."""
        return self.column.metric is not None and not self.column.path and self.structure != MEAN

    def of_paper(self, row: Row) -> float | None:
        """The paper's number of a row, ``None`` if it has none."""
        return self._value(row.paper)

    def spread_of_paper(self, row: Row) -> float | None:
        """The paper's standard deviation."""
        return self._value(row.spread)

    def _value(self, numbers: Mapping[str, Sequence[float | None]]) -> float | None:
        found = numbers.get(self.column.name)
        if found is None or self.structure not in self.column.structures:
            return None
        return found[list(self.column.structures).index(self.structure)]


@dataclass(frozen=True)
class Table:
    """A published table.

    Attributes:
        bundle: folder under ``bundles``.
        table: its number or name, as the file is called.
        title: what it compares.
        source: paper and number of the table.
        evidence: how sure the numbers are.
        data: short name of the data set; tables with the same one may share their runs.
        columns: what is measured.
        rows: what is compared.
        evaluations: by name.
        setting: what the paper did: "data", "training", "pretraining", "repeats".
        overlays: of every row, before all others.
        seeds: used unless others are asked for.
        folds: of a cross-validation; empty: the setting ``fold`` is left alone.
        differs: where our setting departs from the paper's whatever is asked for.
    """

    bundle: str
    table: str
    title: str
    source: str
    evidence: str
    data: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    evaluations: Mapping[str, Evaluation]
    setting: Mapping[str, str]
    overlays: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    folds: Sequence[int] = ()
    differs: Sequence[str] = ()

    @property
    def figures(self) -> list[Figure]:
        """All numbers of a row."""
        return [Figure(column, name) for column in self.columns for name in column.structures]

    def foreign_structures(self, classes: Sequence[str]) -> list[str]:
        """Structures of the table that data with these classes do not have."""
        named = [f.structure for f in self.figures if f.is_of_structure]
        return [name for name in dict.fromkeys(named) if name not in classes]

    def figures_of(self, classes: Sequence[str]) -> list[Figure]:
        """Numbers of a row on data with these classes.

        Where a structure of the table is missing there, the data are other ones: then what they have instead
        takes the place of the table's structures.
        """
        foreign = self.foreign_structures(classes)
        kept = [f for f in self.figures if not (f.is_of_structure and f.structure in foreign)]
        columns = list(dict.fromkeys(f.column.name for f in self.figures if f.is_of_structure))
        own = [Figure(c, name) for c in self.columns if foreign and c.name in columns for name in classes]
        return kept + [figure for figure in own if figure not in kept]

    @property
    def headline(self) -> list[Figure]:
        """The numbers to look at first: means where there are means."""
        shown = [figure for figure in self.figures if figure.column.headline]
        return [f for f in shown if f.structure == MEAN or MEAN not in f.column.structures]


def table_files(bundle_dir: Path) -> dict[str, Path]:
    """Files of a bundle's tables by name, sorted."""
    return {file.stem: file for file in sorted((bundle_dir / "tables").glob("*.json"))}


def find_table(bundle_dir: Path, name: str) -> Table:
    """Read a bundle's table.

    Raises:
        InputError: there is none of this name (the message lists those that there are), or the file is wrong.
    """
    files = table_files(bundle_dir)
    if name not in files:
        known = ", ".join(files) or "none"
        raise InputError(f"--table: expected a table of {bundle_dir.name} ({known}), found {name!r}")
    return read_table(files[name])


def read_table(file: Path) -> Table:
    """Read a table and check that its parts fit together.

    Raises:
        InputError: names the file and what is wrong in it.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        parts = {
            "columns": [_part(Column, item) for item in content.pop("columns")],
            "rows": [_part(Row, item) for item in content.pop("rows")],
            "evaluations": {
                name: _part(Evaluation, item) for name, item in content.pop("evaluations").items()
            },
        }
        table = _part(Table, {**content, **parts})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: expected a table, found {type(error).__name__}: {error}") from error
    problems = [*_own_problems(table, file), *_row_problems(table)]
    if problems:
        raise InputError(f"{file}: {'; '.join(problems)}")
    return table


def chosen_rows(table: Table, ids: Sequence[str] | None) -> list[Row]:
    """Rows to run, in the order of the table.

    Args:
        table: whose rows.
        ids: of the rows wanted; ``None``: all that can be formed.

    Raises:
        InputError: an id that does not exist, or of a row that cannot be formed.
    """
    by_id = {row.id: row for row in table.rows}
    runnable = [row.id for row in table.rows if row.is_runnable]
    for name in ids or ():
        if name not in by_id:
            raise InputError(
                f"--rows: expected some of {', '.join(runnable) or 'no rows'} (table {table.table}),"
                f" found {name!r}"
            )
        if not by_id[name].is_runnable:
            raise InputError(f"--rows: {name} cannot be formed here: {by_id[name].why_not}")
    wanted = runnable if ids is None else ids
    return [row for row in table.rows if row.id in wanted]


def _part(kind: type[_Part], content: Mapping[str, Any]) -> _Part:
    return kind(**content)


def _own_problems(table: Table, file: Path) -> list[str]:
    problems = []
    if table.table != file.stem:
        problems.append(f"table: expected {file.stem!r} as the file is called, found {table.table!r}")
    if table.bundle != file.parents[1].name:
        problems.append(f"bundle: expected {file.parents[1].name!r}, found {table.bundle!r}")
    if missing := {"data", "training", "pretraining", "repeats"} - set(table.setting):
        problems.append(f"setting: expected also {', '.join(sorted(missing))}")
    for column in table.columns:
        if column.is_measured and column.evaluation not in table.evaluations:
            problems.append(f"column {column.name}: no evaluation {column.evaluation!r}")
        if column.better not in ("higher", "lower"):
            problems.append(f"column {column.name}: better is 'higher' or 'lower', found {column.better!r}")
    return problems


def _row_problems(table: Table) -> list[str]:
    sizes = {column.name: len(column.structures) for column in table.columns}
    problems = []
    for row in table.rows:
        if not re.fullmatch(r"[a-z0-9_]+", row.id):
            problems.append(f"row {row.id!r}: expected an id of a-z, 0-9 and _")
        if row.is_runnable == (row.why_not is not None):
            problems.append(f"row {row.id}: expected either overlays or why_not")
        for name, numbers in [*row.paper.items(), *row.spread.items()]:
            if len(numbers) != sizes.get(name):
                problems.append(f"row {row.id}: {len(numbers)} numbers for column {name!r}")
    ids = [row.id for row in table.rows]
    return problems + [f"row {name} appears twice" for name in sorted(set(ids)) if ids.count(name) > 1]
