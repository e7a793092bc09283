"""What the responses of a network's layers tell about the domains: numbers, a table and a figure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.metrics.activity import BIN_EDGES, LayerResponses, mean_activity, pooled_activity, separation
from common.metrics.averages import mean_over_classes

# Responses of each domain by layer, the same layers in all domains.
Responses = Mapping[str, Mapping[str, LayerResponses]]
COLUMNS = 4
NUM_STEPS = 80
SHOWN_SHARES = (0.002, 0.998)


def activity_content(responses: Responses, cases: Mapping[str, int], eps: float) -> dict[str, Any]:
    """What ``activity.json`` holds; lists by layer are in the order of ``layers``.

    Args:
        responses: by domain and layer, the same layers in all domains.
        cases: number of cases of each domain.
        eps: see :meth:`common.metrics.activity.LayerResponses.fraction_beyond`.

    Returns:
        Plain values; ``None`` where a separation is infinite, or all of those in a mean. Domains have
        ``fraction`` (share above 0) and ``beyond_eps``, by layer and as means.
    """
    layers = list(next(iter(responses.values())))
    separations = _separations(responses)
    domains = {}
    for domain, by_layer in responses.items():
        found = list(by_layer.values())
        beyond = [layer.fraction_beyond(eps) for layer in found]
        domains[domain] = {
            "mean_over_layers": mean_activity(found),
            "mean_over_responses": pooled_activity(found),
            "beyond_eps_mean_over_layers": float(np.mean(beyond)),
            "fraction": [layer.active_fraction for layer in found],
            "beyond_eps": beyond,
            "active": [layer.num_active for layer in found],
            "responses": [layer.num_responses for layer in found],
        }
    pairs = {}
    for pair, by_layer in separations.items():
        means = [mean_over_classes(values) for values in by_layer.values()]
        pairs[pair] = {
            "mean_over_layers": _number(mean_over_classes(np.array(means))),
            "mean_over_channels": [_number(mean) for mean in means],
        }
    channels = {
        name: {
            "mean": {domain: by_layer[name].mean.tolist() for domain, by_layer in responses.items()},
            "variance": {domain: by_layer[name].variance.tolist() for domain, by_layer in responses.items()},
            "separation": {p: [_number(v) for v in by_layer[name]] for p, by_layer in separations.items()},
        }
        for name in layers
    }
    return {
        "cases": {domain: cases[domain] for domain in responses},
        "eps": eps,
        "layers": layers,
        "domains": domains,
        "separation": pairs,
        "channels": channels,
    }


def activity_table(content: Mapping[str, Any]) -> str:
    """Markdown table of :func:`activity_content`, padded to equal widths."""
    columns: list[list[str]] = [["layer", *content["layers"], "mean over layers", "mean over responses"]]
    for name, found in content["domains"].items():
        values = [*found["fraction"], found["mean_over_layers"], found["mean_over_responses"]]
        columns.append([f"{name}: > 0", *map(_cell, values)])
    for name, found in content["domains"].items():
        values = [*found["beyond_eps"], found["beyond_eps_mean_over_layers"], None]
        columns.append([f"{name}: beyond {content['eps']:g} std", *map(_cell, values)])
    for pair, found in content["separation"].items():
        values = [*found["mean_over_channels"], found["mean_over_layers"], None]
        columns.append([f"separation {pair}", *map(_cell, values)])
    widths = [max(map(len, column)) for column in columns]
    padded = [[cell.ljust(width) for cell in column] for column, width in zip(columns, widths)]
    lines = [f"| {' | '.join(row)} |" for row in zip(*padded)]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def draw_activity(responses: Responses) -> Figure:
    """Figure of the shares of active responses, the separation, and single channels.

    Args:
        responses: by domain and layer.

    Returns:
        Two panels of curves over the layers, then for each layer the distribution of the responses of the
        channel that separates two domains best; with one domain, of the channel that varies most.
    """
    layers = list(next(iter(responses.values())))
    separations = _separations(responses)
    num_rows = 1 + math.ceil(len(layers) / COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 3.0 * num_rows), dpi=110, layout="constrained")
    grid = figure.add_gridspec(num_rows, COLUMNS)
    shares = {
        domain: [layer.active_fraction for layer in by_layer.values()]
        for domain, by_layer in responses.items()
    }
    means = {
        pair: [mean_over_classes(values) for values in by_layer.values()]
        for pair, by_layer in separations.items()
    }
    _show_curves(figure.add_subplot(grid[0, : COLUMNS // 2]), "share of responses > 0", layers, shares)
    _show_curves(figure.add_subplot(grid[0, COLUMNS // 2 :]), "separation, mean of channels", layers, means)
    for index, name in enumerate(layers):
        panel = figure.add_subplot(grid[1 + index // COLUMNS, index % COLUMNS])
        found = {domain: by_layer[name] for domain, by_layer in responses.items()}
        ranking = [by_layer[name] for by_layer in separations.values()] or [
            layer.variance for layer in found.values()
        ]
        channel = int(np.argmax(np.max(ranking, axis=0)))
        _show_distribution(panel, f"{_short(name)}, channel {channel}", found, channel)
    return figure


def _show_curves(
    panel: Axes, title: str, layers: Sequence[str], curves: Mapping[str, Sequence[float]]
) -> None:
    for name, values in curves.items():
        panel.plot(range(len(layers)), values, marker="o", label=name)
    panel.set_xticks(range(len(layers)), [_short(name) for name in layers], rotation=30, ha="right")
    panel.set_ylim(bottom=0)
    panel.set_title(title if curves else f"{title}: needs two domains")
    if curves:
        panel.legend(frameon=False)


def _show_distribution(panel: Axes, title: str, found: Mapping[str, LayerResponses], channel: int) -> None:
    """Densities between the outermost percentiles, so that single values do not set the range."""
    below = {domain: layer.shares_below[channel] for domain, layer in found.items()}
    ends = np.array([np.interp(SHOWN_SHARES, shares, BIN_EDGES) for shares in below.values()])
    edges = np.linspace(ends[:, 0].min(), ends[:, 1].max(), NUM_STEPS + 1)
    for domain, shares in below.items():
        density = np.diff(np.interp(edges, BIN_EDGES, shares)) / np.diff(edges)
        panel.stairs(density, edges, label=domain)
    panel.axvline(0, color="gray", linewidth=0.5)
    panel.set_yticks([])
    panel.set_title(title)
    panel.legend(frameon=False)


def _separations(responses: Responses) -> dict[str, dict[str, np.ndarray]]:
    """Separation of each pair of domains by layer; empty with one domain."""
    return {
        f"{first} - {second}": {
            name: separation(responses[first][name], responses[second][name]) for name in responses[first]
        }
        for first, second in itertools.combinations(responses, 2)
    }


def _short(name: str) -> str:
    return name.removesuffix(".activation")


def _number(value: float) -> float | None:
    """JSON knows neither infinity nor NaN."""
    return float(value) if math.isfinite(value) else None


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
