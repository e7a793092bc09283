"""A page of headings, boxes, tables and pictures, as Markdown and as HTML that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border: 1px solid #bbb; padding: .25rem .6rem; text-align: left; white-space: pre-line; }
th { background: #eee; }
.box { background: #fff4d6; border: 3px solid #c77700; padding: .5rem 1.5rem; margin: 1rem 0; }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto; }
img { max-width: 100%; }
"""


@dataclass
class Document:
    """Parts in the order in which they were added; all text is plain and escaped where it is written out.

    Args:
        title: of the page.
    """

    title: str
    _markdown: list[str] = field(default_factory=list)
    _html: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._add(f"## {_plain(text)}", f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._add(_plain(text), f"<p>{html.escape(text)}</p>")

    def box(self, title: str, items: Sequence[tuple[str, str]]) -> None:
        """Add a box that cannot be overlooked; items are pairs of topic and sentence."""
        lines = [f"> **{_plain(title)}**", ">", *(f"> - **{_plain(a)}.** {_plain(b)}" for a, b in items)]
        entries = [f"<li><b>{html.escape(a)}.</b> {html.escape(b)}</li>" for a, b in items]
        head = f"<h2>{html.escape(title)}</h2>"
        self._add("\n".join(lines), f'<div class="box">{head}<ul>{"".join(entries)}</ul></div>')

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table; a cell may have several lines."""
        lines = [header, ["---"] * len(header), *rows]
        markdown = ["| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines]
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
        filled = "".join(f"<tr>{cells}</tr>\n" for cells in body)
        self._add("\n".join(markdown), f"<table><tr>{head}</tr>\n{filled}</table>")

    def code(self, text: str) -> None:
        """Add lines to be read or pasted as they are."""
        indented = "\n".join(f"    {line}" for line in text.splitlines())
        self._add(indented, f"<pre>{html.escape(text)}</pre>")

    def picture(self, png: bytes, file_name: str, alt: str) -> None:
        """Add a PNG, which Markdown finds under ``file_name`` beside it and HTML holds itself."""
        data = base64.b64encode(png).decode("ascii")
        image = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
        self._add(f"![{_plain(alt)}]({file_name})", image)

    @property
    def markdown(self) -> str:
        """The page as Markdown."""
        return "\n\n".join([f"# {_plain(self.title)}", *self._markdown]) + "\n"

    @property
    def html(self) -> str:
        """The page as HTML."""
        title = html.escape(self.title)
        head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        body = "\n".join([f"<h1>{title}</h1>", *self._html])
        return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'

    def _add(self, markdown: str, as_html: str) -> None:
        self._markdown.append(markdown)
        self._html.append(as_html)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, also in a cell of a table."""
    text = text.replace("\\", "\\\\")
    for character in "|*_`<>[]":
        text = text.replace(character, f"\\{character}")
    return "<br>".join(text.splitlines())
