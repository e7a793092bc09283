"""Reads report pages as a browser does, and makes one in two processes (importable, as they are spawned)."""

from html.parser import HTMLParser
from pathlib import Path

import torch
import torch.distributed as dist

from common.engines.report import EvaluationReport
from common.engines.report_page import ReportPage
from tests.helpers.evaluation import evaluate, located

VOID = {"meta", "img", "link", "br"}


class PageReader(HTMLParser):
    """Tables by their caption, and everything that a rule may be about.

    Attributes:
        tables: caption -> rows, the head first; a cell is its number at full precision, or its text.
        text: what is shown, without style and script.
        tags: all elements as (name, attributes).
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[float | str]]] = {}
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self._rows: list[list[float | str]] = []
        self._caption = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in VOID:
            return
        self._open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")
            self._value = dict(attrs).get("data-value")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if {"style", "script"} & set(self._open):
            return
        self.text += data
        if "caption" in self._open:
            self._caption += data
        elif {"th", "td"} & set(self._open):
            self._rows[-1][-1] += data

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag == "td" and self._value:
            self._rows[-1][-1] = float(self._value)
        elif tag == "table":
            self.tables[self._caption] = self._rows

    def attributes(self, name: str) -> list[str]:
        """Values of an attribute wherever it stands."""
        return [attrs[name] for _, attrs in self.tags if name in attrs]


def row_case(name: str, num_right: int, **entries: str) -> dict:
    """A row of 12 pixels, 5 of them object: Dice is 2 k / (k + 5) for k of them predicted."""
    pixels = torch.arange(12)[None, None]
    return {
        "image": located((pixels < num_right).float(), name=name),
        "label": located((pixels < 5).float(), name=name),
        **entries,
    }


def evaluate_share(rank: int, folder: Path) -> None:
    """One of two processes: the first evaluates cases ``a`` and ``b``, the second ``c``."""
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    shares = [("a", 1, "x"), ("b", 2, "y")], [("c", 3, "x")]
    cases = [row_case(name, k, clip=clip, id=f"case {name}") for name, k, clip in shares[rank]]
    report = EvaluationReport(folder, ["node"], {"Dice": "val_mean_dice"}, "native")
    evaluate(cases, 2, [report, ReportPage(folder, group_key="clip")])
    dist.destroy_process_group()
