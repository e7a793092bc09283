"""Figures inside the report page, no files beside it: box plots as SVG, pictures of cases as data URIs."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# Up to so many values of a box each of them is drawn; of more only those beyond the whiskers.
MAX_POINTS = 50
# Characters; longer names would leave no room for the boxes. The tables show them whole.
MAX_LABEL, MAX_TITLE = 22, 44
MAX_PICTURE_EDGE_PX = 1200
JPEG_QUALITY = 85
# Stands for the color of the page's text, which may be dark or light.
_INK = "#010203"
_FILL = "#4a86c5"


def box_plot(values: Mapping[str, np.ndarray], title: str, prefix: str) -> str:
    """Horizontal box plots, one below the other, as an ``<svg>`` element that goes into a page as it is.

    The same values give the same text. Nothing in it points outside: no document type, no name space, no
    metadata.

    Args:
        values: label of each box -> finite values (N,), which may be none.
        title: what is measured, for the axis.
        prefix: start of all ids, different for each figure of a page.

    Returns:
        Lines and text in the color of the surrounding text (``currentColor``).
    """
    figure = Figure(figsize=(4.8, 0.75 + 0.3 * len(values)), layout="constrained")
    axes = figure.add_subplot()
    _draw_boxes(axes, list(values.values()))
    # Names are no formulas, even if they hold dollar signs.
    labels = [_shortened(label, MAX_LABEL) for label in values]
    axes.set_yticks(range(1, len(values) + 1), labels, parse_math=False)
    axes.set_xlabel(_shortened(title, MAX_TITLE), parse_math=False)
    axes.invert_yaxis()
    axes.tick_params(colors=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.grid(axis="x", color=_INK, alpha=0.15)
    buffer = io.StringIO()
    # Ids are hashes of a random number unless a salt is given.
    with matplotlib.rc_context({"svg.hashsalt": prefix, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    label = escape(f"Box plots of {title}; the table of its spread has the numbers")
    return _inline(buffer.getvalue(), prefix).replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _draw_boxes(axes: Axes, values: list[np.ndarray]) -> None:
    line = {"color": _INK}
    shows_points = max(map(len, values), default=0) <= MAX_POINTS
    axes.boxplot(
        values,
        orientation="horizontal",
        widths=0.6,
        patch_artist=True,
        showfliers=not shows_points,
        boxprops={"facecolor": _FILL, "alpha": 0.5, "edgecolor": _INK},
        medianprops={"color": _INK, "linewidth": 2},
        whiskerprops=line,
        capprops=line,
        flierprops={"marker": "o", "markersize": 3, "markeredgecolor": _INK, "alpha": 0.6},
    )
    if shows_points:
        for position, points in enumerate(values, start=1):
            heights = np.full(len(points), position)
            axes.plot(points, heights, "o", markersize=3.5, color=_INK, alpha=0.6, markeredgewidth=0)


def _shortened(text: str, length: int) -> str:
    """Both ends of a long text, as names often differ in the last word."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}\u2026{text[-half:]}"


def _inline(svg: str, prefix: str) -> str:
    """The element alone, its ids made unique in the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'( id="| xlink:href="#|url\(#)', rf"\g<1>{prefix}_", svg)
    return svg.replace(_INK, "currentColor").strip()


def picture_uri(path: Path) -> str:
    """A picture as data URI with no edge longer than ``MAX_PICTURE_EDGE_PX``: JPEG, or the file if smaller.

    Args:
        path: PNG file without transparency.
    """
    with Image.open(path) as picture:
        is_small = max(picture.size) <= MAX_PICTURE_EDGE_PX
        colors = picture.convert("RGB")
    colors.thumbnail((MAX_PICTURE_EDGE_PX, MAX_PICTURE_EDGE_PX))
    buffer = io.BytesIO()
    colors.save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    kind, content = "jpeg", buffer.getvalue()
    if is_small and path.stat().st_size <= len(content):
        kind, content = "png", path.read_bytes()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
