"""Notices that a network, or its pseudo-labels, call everything background, and ends such a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines import Trainer
from torch import Tensor

from common.errors import InputError

_ADVICE = (
    "try a lower learning_rate, gradient clipping (max_grad_norm), a warm-up of the learning rate"
    " (warm_up_epochs), or full precision instead of bfloat16 (amp)"
)


class CollapseWatch:
    """Trainer handler that ends a training without foreground; such a training rarely recovers.

    It watches shares of foreground voxels among the scalars of the iterations' output. An epoch is empty if
    the mean of a share over all its iterations and processes is at most ``least_share``. After ``patience``
    empty epochs in a row it logs one warning and ends the run with the epoch, whose checkpoints are written
    like those of every epoch.

    The count is part of :meth:`state_dict`: name the handler among the ``partners`` of
    :class:`~common.engines.checkpoints.TrainingCheckpoints`, and a continued run goes on with it. A run that
    was ended starts counting anew when it is continued. In parallel training attach it on every rank.

    Args:
        patience: empty epochs after which training ends; ``None``: it never does, and the first empty epoch
            of the run is warned of.
        grace_epochs: number of first epochs that do not count. Networks may start with nothing but
            background: in the published trainings of SKCDF organs appear after 33 to 46 epochs.
        least_share: at most this share of foreground is none; dropout lets single voxels through.
        watched: entries of the iterations' output to watch; those that a training does not have are passed
            over, but it needs one of them.

    Raises:
        InputError: ``patience`` below 1 or ``grace_epochs`` below 0; while running, an output without any of
            the watched entries.

    Source: our choice; a published reproduction of SKCDF collapsed for hundreds of epochs.
    """

    def __init__(
        self,
        patience: int | None = 20,
        grace_epochs: int = 50,
        least_share: float = 1e-5,
        watched: Sequence[str] = ("foreground_unlabeled", "foreground_predicted"),
    ) -> None:
        if patience is not None and patience < 1:
            raise InputError(f"patience: expected null or at least 1 epoch, found {patience}")
        if grace_epochs < 0:
            raise InputError(f"grace_epochs: expected at least 0, found {grace_epochs}")
        self.patience = patience
        self.grace_epochs = grace_epochs
        self.least_share = least_share
        self.watched = tuple(watched)
        self.empty_epochs = 0
        self.has_warned = False
        self._sums: dict[str, Tensor] = {}
        self._iterations = 0

    def attach(self, trainer: Trainer) -> None:
        """Hook into a trainer.

        Args:
            trainer: its iterations' output is one mapping (``decollate=False``).
        """
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)

    def state_dict(self) -> dict[str, Any]:
        """What a continued run has to know."""
        return {"empty_epochs": self.empty_epochs, "has_warned": self.has_warned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`.

        Args:
            state: of the run that is continued.
        """
        self.empty_epochs = int(state["empty_epochs"])
        self.has_warned = bool(state["has_warned"])

    def _start_epoch(self) -> None:
        self._sums, self._iterations = {}, 0

    def _note(self, trainer: Trainer) -> None:
        """Sums stay on the device, so that no iteration waits for it."""
        for name in self.watched:
            if name in trainer.state.output:
                share = trainer.state.output[name].detach().float()
                self._sums[name] = self._sums.get(name, torch.zeros_like(share)) + share
        self._iterations += 1

    def _end_epoch(self, trainer: Trainer) -> None:
        if not self._sums:
            raise InputError(
                f"watched: expected one of {', '.join(self.watched)} in the iterations' output, found"
                f" {', '.join(map(str, trainer.state.output))}"
            )
        # All processes reach the same decision: one that went on alone would wait for the others forever.
        sums = idist.all_reduce(torch.stack(list(self._sums.values())))
        shares = (sums / (self._iterations * idist.get_world_size())).tolist()
        empty = [name for name, share in zip(self._sums, shares) if share <= self.least_share]
        is_empty = bool(empty) and trainer.state.epoch > self.grace_epochs
        self.empty_epochs = self.empty_epochs + 1 if is_empty else 0
        if self.patience is None and is_empty and not self.has_warned:
            self._warn(trainer, empty)
        elif self.patience is not None and self.empty_epochs >= self.patience:
            self._warn(trainer, empty)
            self.empty_epochs = 0
            trainer.terminate()

    def _warn(self, trainer: Trainer, empty: Sequence[str]) -> None:
        self.has_warned = True
        if idist.get_rank() != 0:
            return
        span = "1 whole epoch" if self.empty_epochs == 1 else f"{self.empty_epochs} whole epochs"
        end = "" if self.patience is None else "; training ends here"
        trainer.logger.warning(
            f"epoch {trainer.state.epoch}: nothing but background ({', '.join(empty)}) for {span}{end};"
            f" {_ADVICE}"
        )
