"""What becomes of a block of a volume once no window reaches it any more: labels, and probabilities on disk.

Axes: K class, D H W space; the same with two axes of space.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.engines.label_slabs import Slices

ACTIVATIONS = ("softmax", "sigmoid")
_MOST_CLASSES = 256


def label_dtype(num_classes: int) -> torch.dtype:
    """uint8 where it can hold all class indices, int16 otherwise."""
    return torch.uint8 if num_classes <= _MOST_CLASSES else torch.int16


def activate(logits: Tensor, activation: str | None, dim: int) -> Tensor:
    """Logits to what an activation of ``ACTIVATIONS`` makes of them; unchanged without one.

    Args:
        logits: float, of any shape.
        activation: name of the activation, or None.
        dim: axis of the classes.
    """
    if activation == "softmax":
        return logits.softmax(dim)
    return logits.sigmoid() if activation == "sigmoid" else logits


def largest_class(values: Tensor) -> Tensor:
    """Index of the largest value, the first one among equals, and 0 where a value is no number.

    Several times as fast as ``torch.argmax`` over the first axis, on a CPU.

    Args:
        values: (K, D, H, W).

    Returns:
        uint8 or int16 (1, D, H, W).
    """
    largest = values.amax(0)
    labels = torch.zeros_like(largest, dtype=label_dtype(len(values)))
    for number in range(len(values) - 1, -1, -1):
        labels.masked_fill_(values[number] == largest, number)
    return labels[None]


class BlockReduction:
    """From sums over windows to labels and probabilities.

    Args:
        activation: what the outputs of windows passed before they were summed, or None if they are logits.
        threshold: None for the class of the largest average, else what an average has to reach.
    """

    def __init__(self, activation: str | None, threshold: float | None) -> None:
        self.threshold = threshold
        final = "softmax" if threshold is None else "sigmoid"
        self.final_activation = final if activation is None else None

    def averages(self, sums: Tensor, weights: Tensor) -> Tensor:
        """Sums divided by weights, in place; 0 where no window was computed.

        Args:
            sums: (K, D, H, W).
            weights: (D, H, W).
        """
        return sums.div_(weights.masked_fill(weights == 0, 1))

    def labels(self, values: Tensor, seen: Tensor | None) -> Tensor:
        """Labels of a block.

        Args:
            values: (K, D, H, W), averages or, without a threshold, sums.
            seen: bool (D, H, W), where a window was computed; None if that is everywhere, or not known.

        Returns:
            (1, D, H, W), or with a threshold (K, D, H, W); uint8 or int16, background where nothing was seen.
        """
        if self.threshold is None:
            return largest_class(values)
        reached = values >= self.threshold
        return (reached if seen is None else reached.logical_and_(seen)).to(torch.uint8)

    def probabilities(self, averages: Tensor, seen: Tensor) -> Tensor:
        """Probabilities of a block.

        Args:
            averages: (K, D, H, W).
            seen: bool (D, H, W), where a window was computed; elsewhere it is certainly background.

        Returns:
            float16 (K, D, H, W).
        """
        found = activate(averages, self.final_activation, dim=0).to(torch.float16).mul_(seen)
        if self.threshold is None:
            found[0].masked_fill_(~seen, 1)
        return found


class ProbabilityFile:
    """Array of a volume in a ``.npy`` file that is filled block by block, without being held in memory.

    Args:
        path: file to write.
        image_size: of the volume, in voxels.
    """

    def __init__(self, path: Path, image_size: Sequence[int]) -> None:
        self.path = path
        self.image_size = tuple(image_size)
        self._is_made = False

    def write(self, place: Slices, block: Tensor) -> None:
        """Write one block.

        Args:
            place: of the block in the volume.
            block: float16 (K, D, H, W).

        Raises:
            OSError: the file cannot be written, or the disk has no room for the whole array.
        """
        if not self._is_made:
            self._make(len(block))
        # Opened anew for each block, as what was written through a mapping counts as memory while it is open.
        np.load(self.path, mmap_mode="r+")[(slice(None), *place)] = block.cpu().numpy()

    def _make(self, num_classes: int) -> None:
        np.lib.format.open_memmap(self.path, "w+", np.float16, (num_classes, *self.image_size)).flush()
        if hasattr(os, "posix_fallocate"):
            # A mapping that finds the disk full ends the process; this raises an error, and does so now.
            with self.path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self.path.stat().st_size)
        self._is_made = True
