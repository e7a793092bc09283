"""The page of an evaluation report: one HTML text that needs nothing else, made from plain data.

All text from outside is escaped. A content policy in the head forbids the browser to fetch anything, and to
run any script but the one that sorts the tables.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from common.engines.report_figures import MAX_POINTS, box_plot
from common.engines.report_style import SCRIPT, STYLE
from common.metrics.averages import mean_over_cases, mean_over_groups

# Up to so many groups (domains) have boxes and rows of their own; more of them (clips) are a column only.
MAX_SPLIT = 4
# Tables per structure of more cases are folded at first.
MAX_OPEN_CASES = 30
SPREAD = ("values", "missing", "mean", "SD", "median", "25 %", "75 %", "lowest", "highest")


@dataclass
class Picture:
    """A case as it was drawn: where it ranks (``worst`` or ``best``), what to say of it, and its data URI."""

    kind: str
    text: str
    uri: str


@dataclass
class Report:
    """What the page shows.

    Attributes:
        title: heading.
        facts: first lines below the heading, e.g. the date.
        scores: content of ``report.json``; null where there is no number.
        case_names: name of each case.
        cases: title of each metric with values per case -> float (cases, K), not finite where missing.
        group_key: what the groups are; ``None`` without groups.
        groups: group of each case; empty without groups.
        pictures: from the worst and from the best inwards.
        picture_note: what to know of the choice of pictures.
        settings: the configuration as text; ``None`` if it is not known.
        versions: name -> version.
    """

    title: str
    facts: dict[str, str]
    scores: Mapping[str, Any]
    case_names: Sequence[str]
    cases: Mapping[str, np.ndarray]
    group_key: str | None = None
    groups: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    picture_note: str = ""
    settings: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    def split_groups(self) -> list[str]:
        """Names of the groups that are shown apart; none if there is one, or too many."""
        names = sorted(set(self.groups))
        return names if 1 < len(names) <= MAX_SPLIT else []


def page(report: Report) -> str:
    """The whole document."""
    sections = {
        "Scores": _scores(report),
        "Spread": _spreads(report),
        "Worst and best cases": _pictures(report),
        "Cases": _cases(report),
        "Configuration": _settings(report),
        "Versions": _pairs(report.versions),
    }
    sections = {title: content for title, content in sections.items() if content}
    ids = {title: title.split()[0].lower() for title in sections}
    links = "".join(f'<li><a href="#{ids[title]}">{title}</a></li>' for title in sections)
    body = "".join(
        f'<section aria-labelledby="{ids[title]}"><h2 id="{ids[title]}">{title}</h2>\n{content}</section>\n'
        for title, content in sections.items()
    )
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(report.title)}</h1>\n{_pairs(report.facts)}</header>\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>\n{body}</main>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def spread(values: np.ndarray) -> list[float]:
    """Numbers of the columns ``SPREAD`` for the values (N,) of one structure.

    Returns:
        Counts of finite and of other values; then of the finite ones mean, standard deviation (with N - 1;
        ``nan`` for one value), median, quartiles, lowest and highest; ``nan`` if there is none.
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    counts = [len(finite), len(values) - len(finite)]
    if not len(finite):
        return [*counts, *[math.nan] * (len(SPREAD) - len(counts))]
    deviation = finite.std(ddof=1) if len(finite) > 1 else math.nan
    quartiles = np.percentile(finite, (50, 25, 75))
    return [*counts, *map(float, (finite.mean(), deviation, *quartiles, finite.min(), finite.max()))]


def _scores(report: Report) -> str:
    scores = report.scores
    columns = scores["columns"].values()
    weighed = "the cases"
    if "groups" in scores:
        weighed = f"{scores['groups']} groups of equal weight ({scores['group_key']})"
    rows = [
        _row(name, (_number(column["values"][index]) for column in columns))
        for index, name in enumerate(scores["classes"])
    ]
    foot = [
        _row("mean", (_number(column["mean"]) for column in columns)),
        _row("missing", (_count(sum(column["missing"])) for column in columns)),
    ]
    note = (
        f"Mean over {weighed}; below it the plain mean over the structures, and the number of"
        " values that are missing and left out. A metric that pools all cases may have a mean only."
    )
    return _note(note) + _table("Mean of each structure", ["structure", *scores["columns"]], rows, foot)


def _pictures(report: Report) -> str:
    parts = [_note(report.picture_note)] if report.picture_note else []
    for kind in ("worst", "best"):
        figures = [
            f'<figure><img src="{picture.uri}" alt="Image and masks of {escape(picture.text)}">'
            f"<figcaption>{escape(picture.text)}</figcaption></figure>\n"
            for picture in report.pictures
            if picture.kind == kind
        ]
        if figures:
            parts.append(f'<h3>{kind.capitalize()}</h3>\n<div class="pictures">{"".join(figures)}</div>\n')
    return "".join(parts)


def _spreads(report: Report) -> str:
    if not report.cases:
        return ""
    note = (
        "Boxes reach from the lower to the upper quartile, the line in them is the median; whiskers end at"
        " the last value within 1.5 box lengths. Dots are cases: all of them if no box has more than"
        f" {MAX_POINTS}, else those beyond the whiskers. SD is the standard deviation, with N - 1."
    )
    parts = [_note(note)]
    for number, (title, values) in enumerate(report.cases.items()):
        subsets = _subsets(report, values)
        finite = {label: subset[np.isfinite(subset)] for label, subset in subsets.items()}
        rows = []
        for index, (label, subset) in enumerate(subsets.items()):
            counted, missing, mean, *others = spread(subset)
            if report.groups and not report.split_groups():
                mean = float(mean_over_cases(mean_over_groups(values[:, index], report.groups)))
            cells = [_count(counted), _count(missing), *map(_number, (mean, *others))]
            rows.append(_row(label, cells))
        parts.append(
            f"<h3>{escape(title)}</h3>\n<figure>{box_plot(finite, title, f'plot{number}')}</figure>\n"
            + _table(f"Spread of {title}", ["structure", *SPREAD], rows)
        )
    return "".join(parts)


def _subsets(report: Report, values: np.ndarray) -> dict[str, np.ndarray]:
    """Values (N,) of every structure, or of every structure in every group."""
    split = report.split_groups()
    classes = enumerate(report.scores["classes"])
    if not split:
        return {name: values[:, index] for index, name in classes}
    groups = np.array(report.groups)
    return {f"{name}, {group}": values[groups == group, index] for index, name in classes for group in split}


def _cases(report: Report) -> str:
    if not report.cases:
        return _note("No metric of this evaluation has values per case.")
    note = (
        "Mean over the structures of each case. A dash is an undefined value, the sign of infinity one"
        " without bound; both count as missing. The headings sort."
    )
    means = [mean_over_cases(values.T) for values in report.cases.values()]
    table = _case_table(report, "Mean of each case", list(report.cases), np.stack(means, axis=1))
    parts = [_note(note), table]
    classes = report.scores["classes"]
    if len(classes) > 1:
        state = " open" if len(report.case_names) <= MAX_OPEN_CASES else ""
        for title, values in report.cases.items():
            table = _case_table(report, f"{title} of each case", classes, values)
            parts.append(
                f"<details{state}><summary>{escape(title)} by structure</summary>{table}</details>\n"
            )
    return "".join(parts)


def _case_table(report: Report, title: str, heads: Sequence[str], values: np.ndarray) -> str:
    grouped = [report.group_key] if report.group_key is not None else []
    groups = report.groups or [None] * len(report.case_names)
    rows = [
        _row(name, [*([_word(group)] if grouped else []), *map(_number, line)])
        for name, group, line in zip(report.case_names, groups, values.tolist())
    ]
    return _table(title, ["case", *grouped, *heads], rows)


def _settings(report: Report) -> str:
    if report.settings is None:
        return ""
    note = "All files and the settings of the command line, merged as the run used them."
    return (
        f"{_note(note)}<details><summary>Show the configuration</summary>"
        f'<pre tabindex="0">{escape(report.settings)}</pre></details>\n'
    )


def _pairs(pairs: Mapping[str, str]) -> str:
    entries = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs.items())
    return f"<dl>{''.join(entries)}</dl>\n" if pairs else ""


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>\n'


def _table(title: str, heads: Iterable[str], rows: list[str], foot: Sequence[str] = ()) -> str:
    """Sortable table in a box of its own, which is scrolled sideways where the page is narrow."""
    title = escape(title)
    cells = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    end = f"<tfoot>{''.join(foot)}</tfoot>" if foot else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table class="sortable">'
        f"<caption>{title}</caption>\n<thead><tr>{cells}</tr></thead>\n"
        f"<tbody>\n{''.join(rows)}</tbody>{end}</table></div>\n"
    )


def _row(name: str, cells: Iterable[str]) -> str:
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>\n'


def _number(value: float | None) -> str:
    """Cell with three digits to read and all of them to sort by."""
    if value is not None and math.isfinite(value):
        return f'<td data-value="{float(value)!r}">{value:.3f}</td>'
    is_bound = value is not None and not math.isnan(value)
    sign = "&minus;" if is_bound and value < 0 else ""
    return f'<td data-value="" class="missing">{sign}{"&infin;" if is_bound else "&ndash;"}</td>'


def _count(value: int) -> str:
    return f'<td data-value="{value}">{value}</td>'


def _word(text: str) -> str:
    return f'<td class="text">{escape(text)}</td>'
