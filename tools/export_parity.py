"""How far an exported network is from the one that was trained, and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

CALLS = 3
SLOW_MS = 5000.0  # calls that take longer are timed once
HEADINGS = ("format", "MB", "input", "largest difference", "relative", "equal labels", "ms per call", "of")


@dataclass(frozen=True)
class Agreement:
    """Two networks on the same images.

    Args:
        largest_difference: between logits.
        relative_difference: the same, divided by the largest absolute logit of the reference.
        equal_labels: share of pixels or voxels with the same label.
    """

    largest_difference: float
    relative_difference: float
    equal_labels: float


def labels_of(logits: Tensor) -> Tensor:
    """Class indices (B, ...) of logits (B, K, ...); of a single map, where it is above 0."""
    return logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()


def agreement(reference: Sequence[Tensor], exported: Sequence[Tensor]) -> Agreement:
    """Compare logits.

    Args:
        reference: (B, K, ...) for each image.
        exported: the same of another network.

    Raises:
        ValueError: the shapes differ, or a logit is not finite.
    """
    largest, magnitude, equal, count = 0.0, 0.0, 0, 0
    for wanted, found in zip(reference, exported):
        if wanted.shape != found.shape:
            raise ValueError(f"logits: expected the shape {tuple(wanted.shape)}, found {tuple(found.shape)}")
        if not bool(torch.isfinite(found).all()):
            raise ValueError("logits: found numbers that are not finite")
        largest = max(largest, float((wanted - found).abs().max()))
        magnitude = max(magnitude, float(wanted.abs().max()))
        same = labels_of(wanted) == labels_of(found)
        equal, count = equal + int(same.sum()), count + same.numel()
    return Agreement(largest, largest / magnitude if magnitude else largest, equal / count)


def call_ms(network: Callable[[Tensor], Tensor], image: Tensor) -> float:
    """Median time of a call in milliseconds, after one that only counts if calls are slow."""
    first = _timed_ms(network, image)
    return first if first > SLOW_MS else median(_timed_ms(network, image) for _ in range(CALLS))


def parity_report(
    networks: Mapping[str, Callable[[Tensor], Tensor]],
    images: Mapping[str, Sequence[Tensor]],
    sizes_mb: Mapping[str, float],
    takes: Callable[[str, Tensor], bool],
) -> list[dict[str, Any]]:
    """One row for each network and kind of input.

    Args:
        networks: by name, the reference first.
        images: by kind of input; each image (B, C, ...).
        sizes_mb: of the files, by name of the network, where there is one.
        takes: whether a network, by name, takes an image of this size. Each is timed on the first that it
            takes.

    Returns:
        Rows with the columns of the table, ready for JSON. None for a kind of which a network takes no image.
    """
    reference = next(iter(networks.values()))
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        wanted = {kind: [reference(image).float() for image in given] for kind, given in images.items()}
        for name, network in networks.items():
            timed = next(image for given in images.values() for image in given if takes(name, image))
            ms = call_ms(network, timed)
            for kind, given in images.items():
                taken = [index for index, image in enumerate(given) if takes(name, image)]
                if taken:
                    found = [network(given[index]).float() for index in taken]
                    row = {"format": name, "size_mb": sizes_mb.get(name), "input": kind, "ms_per_call": ms}
                    row |= {"timed_on": list(timed.shape), "images": len(taken)}
                    rows.append(row | asdict(agreement([wanted[kind][index] for index in taken], found)))
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of :func:`parity_report` as aligned text."""
    cells = [HEADINGS] + [
        (
            row["format"],
            "" if row["size_mb"] is None else f"{row['size_mb']:.1f}",
            row["input"],
            f"{row['largest_difference']:.2e}",
            f"{row['relative_difference']:.1e}",
            f"{row['equal_labels']:.6f}",
            f"{row['ms_per_call']:.1f}",
            "x".join(map(str, row["timed_on"])),
        )
        for row in rows
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(row, widths)).rstrip() for row in cells)


def _timed_ms(network: Callable[[Tensor], Tensor], image: Tensor) -> float:
    start_s = time.perf_counter()
    network(image)
    return 1000 * (time.perf_counter() - start_s)
