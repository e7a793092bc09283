"""Volumes through a network for slices, each slice with its neighbors as channels.

Axes: B batch, K class, S slices of a stack, X Y in the plane, Z across the slices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F  # noqa: N812
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor
from tqdm import tqdm

from common.data.slice_stacks import check_neighbors, slice_stacks
from common.errors import InputError


class SliceStackInferer(Inferer):
    """Apply a 2D network to every slice of a volume.

    Slices whose size is no multiple of ``divisor`` are padded at the far ends of X and Y by repeating the
    border, and the logits are cut back.

    Args:
        neighbors: T: slices on either side that the network sees, so S = 2 T + 1; 0 for slices alone.
        batch_size: slices at a time; changes memory and speed only.
        divisor: the network's input has to be a multiple of it in X and Y.
        progress: whether to show a progress bar.

    Raises:
        InputError: ``neighbors`` is negative or no whole number, or another one is below 1.
    """

    def __init__(
        self, neighbors: int = 1, batch_size: int = 8, divisor: int = 16, progress: bool = False
    ) -> None:
        for name, value in (("batch_size", batch_size), ("divisor", divisor)):
            if value < 1:
                raise InputError(f"{name}: expected 1 or more, found {value}")
        self.neighbors = check_neighbors(neighbors)
        self.batch_size = batch_size
        self.divisor = divisor
        self.progress = progress

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Logits of a volume.

        Args:
            inputs: float (B, 1, X, Y, Z), Z from foot to head as in training.
            network: in evaluation mode; from (N, S, X', Y') to logits (N, K, X', Y').
            *args: passed to ``network``.
            **kwargs: passed to ``network``.

        Returns:
            (B, K, X, Y, Z) on the device of ``inputs`` and in the dtype of the logits; a ``MetaTensor`` with
            the metadata of ``inputs`` if that is one.

        Raises:
            ValueError: another shape of ``inputs`` or logits.
        """
        if inputs.ndim != 5 or inputs.shape[1] != 1:
            raise ValueError(f"inputs: expected (B, 1, X, Y, Z), got {tuple(inputs.shape)}")
        stacks = slice_stacks(self._padded(convert_to_tensor(inputs, track_meta=False))[:, 0], self.neighbors)
        starts = [(b, z) for b in range(len(stacks)) for z in range(0, stacks.shape[1], self.batch_size)]
        size_x, size_y, size_z = inputs.shape[2:]
        logits = None
        for b, start in tqdm(starts, desc="slices", unit="batch", disable=not self.progress):
            batch = stacks[b, start : start + self.batch_size].contiguous()
            output = network(batch, *args, **kwargs)
            if output.ndim != 4 or (len(output), *output.shape[2:]) != (len(batch), *batch.shape[2:]):
                raise ValueError(
                    f"network: expected logits ({len(batch)}, K, {batch.shape[2]}, {batch.shape[3]}), "
                    f"got {tuple(output.shape)}"
                )
            if logits is None:
                logits = output.new_empty(len(inputs), output.shape[1], size_x, size_y, size_z)
            end = start + len(batch)
            logits[b, ..., start:end] = output[..., :size_x, :size_y].permute(1, 2, 3, 0)
        if isinstance(inputs, MetaTensor):
            return convert_to_dst_type(logits, inputs, dtype=logits.dtype)[0]
        return logits

    def _padded(self, volume: Tensor) -> Tensor:
        """(B, 1, X', Y', Z) with X' and Y' multiples of the divisor."""
        missing_x, missing_y = (-size % self.divisor for size in volume.shape[2:4])
        if missing_x or missing_y:
            return F.pad(volume, (0, 0, 0, missing_y, 0, missing_x), mode="replicate")
        return volume
