"""Weight files of a training run, and its continuation after an interruption."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines import Evaluator, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from common.data.writers import atomic_path
from common.engines.weights import load_into, read_checkpoint, unwrapped
from common.errors import InputError

LAST_WEIGHTS = "model.pt"
BEST_WEIGHTS = "model_best.pt"

_STATE_PARTS = ("network", "optimizer", "lr_scheduler", "trainer", "best")
_SCHEDULE_PROGRESS = ("last_epoch", "_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step")


class TrainingCheckpoints:
    """Trainer handler that owns every weight file of a run.

    At the end of an epoch, after its validation, it writes ``model_dir/model.pt`` (last weights),
    ``model_dir/model_best.pt`` (if this epoch was validated and has the evaluator's best key metric so far)
    and ``state_file`` (all that is needed to continue). The state is written last and per epoch: a run cut
    off at any moment replays the epoch it was in. It ends with the same weights as a run that was never cut
    off, as long as random numbers depend on the epoch only (:class:`~common.engines.epoch_seed.EpochSeed`).

    The files load with ``weights_only=True``, weights are CPU tensors without the ``module.`` prefix, and
    files are replaced atomically. Rank 0 writes; the handler must be attached on every rank.

    Args:
        network: the trained network; ``DistributedDataParallel`` is looked through.
        optimizer: its optimizer.
        lr_scheduler: schedule of the learning rate; ``None`` if it is constant. If a run is continued with
            other schedule settings (as a larger ``max_epochs`` brings), the new schedule is followed from the
            step that has been reached.
        evaluator: validates during training; its key metric, compared by its ``metric_cmp_fn``, decides which
            weights are best. NaN never does.
        model_dir: folder of the two weight files, created if absent.
        state_file: file for continuing.
        resume: continue from ``state_file``.
        save_interval: epochs from one writing of ``model.pt`` and ``state_file`` to the next; the last epoch
            is always written.
        partners: whatever else learns and must be there to continue, by name: a discriminator, its optimizer,
            its schedule. They are saved with the state, never with the weights.
    """

    def __init__(  # noqa: PLR0913  (a run has that many parts)
        self,
        network: nn.Module,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler | None,
        evaluator: Evaluator,
        model_dir: str | os.PathLike[str],
        state_file: str | os.PathLike[str],
        resume: bool = False,
        save_interval: int = 1,
        partners: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.evaluator = evaluator
        self.model_dir = Path(model_dir)
        self.state_file = Path(state_file)
        self.resume = resume
        self.save_interval = save_interval
        self.partners = dict(partners or {})
        self.best: dict[str, Any] = {"metric": None, "epoch": 0}

    def attach(self, trainer: Trainer) -> None:
        """Hook into a trainer.

        Args:
            trainer: the engine whose run is saved or continued.
        """
        trainer.add_event_handler(Events.STARTED, self._start)

    def _start(self, trainer: Trainer) -> None:
        idist.get_rank()  # the first query is a collective call: all ranks make it here, before ranks differ
        if self.resume:
            self._restore(trainer)
            self.resume = False  # a second run() of the same trainer goes on from where it is
        elif trainer.state.epoch == 0 and self.state_file.exists():
            trainer.logger.info(
                f"starting anew; {self.state_file} of an earlier run will be overwritten"
                " (`--resume True` would have continued that run)"
            )
        # Registered this late to come after validation and schedule, in whatever order handlers are listed.
        if not trainer.has_event_handler(self._end_epoch, Events.EPOCH_COMPLETED):
            trainer.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)

    def _end_epoch(self, trainer: Trainer) -> None:
        epoch = trainer.state.epoch
        is_best = self._is_best(epoch)
        is_due = epoch % self.save_interval == 0 or epoch == trainer.state.max_epochs
        if idist.get_rank() != 0 or not (is_due or is_best):
            return
        weights = _cpu_weights(self.network)
        if is_due:
            _write(weights, self.model_dir / LAST_WEIGHTS)
        if is_best:
            _write(weights, self.model_dir / BEST_WEIGHTS)
            trainer.logger.info(
                f"best {self.evaluator.state.key_metric_name} so far: {self.best['metric']:.4f}"
            )
        if is_due:
            _write(self._state(trainer, weights), self.state_file)
            trainer.logger.info(f"saved epoch {epoch} to {self.model_dir / LAST_WEIGHTS}")

    def _is_best(self, epoch: int) -> bool:
        validation = self.evaluator.state
        if validation.key_metric_name is None or validation.epoch != epoch:
            return False
        metric = float(validation.metrics[validation.key_metric_name])
        is_first = self.best["metric"] is None
        if math.isnan(metric) or not (is_first or self.evaluator.metric_cmp_fn(metric, self.best["metric"])):
            return False
        self.best = {"metric": metric, "epoch": epoch}
        return True

    def _state(self, trainer: Trainer, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        state = {
            "network": weights,
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": None if self.lr_scheduler is None else self.lr_scheduler.state_dict(),
            "trainer": dict(trainer.state_dict()),
            "best": self.best,
            "partners": {name: _state_of(partner) for name, partner in self.partners.items()},
        }
        if trainer.scaler is not None:
            state["scaler"] = trainer.scaler.state_dict()
        return state

    def _restore(self, trainer: Trainer) -> None:
        if not self.state_file.is_file():
            raise InputError(
                f"{self.state_file}: expected the state of an interrupted run, found no file;"
                " start without `--resume True`, or give the output_dir of the run to continue"
            )
        # On the CPU, as Adam keeps its step counts there; loading moves the rest to where the parameters are.
        state = read_checkpoint(self.state_file, "cpu")
        absent = [part for part in _STATE_PARTS if part not in state]
        if absent:
            raise InputError(
                f"{self.state_file}: expected the state of an interrupted run, found no {absent[0]!r}"
            )
        self._check_progress(trainer, state["trainer"])
        load_into(self.network, state["network"], self.state_file)
        self._restore_partners(state.get("partners", {}))
        try:
            self._restore_optimizer(trainer, state)
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{self.state_file}: written with another optimizer or schedule: {error}"
            ) from error
        trainer.load_state_dict({**state["trainer"], "max_epochs": trainer.state.max_epochs})
        if trainer.scaler is not None and state.get("scaler"):
            trainer.scaler.load_state_dict(state["scaler"])
        self.best = state["best"]
        if self.best["metric"] is not None:
            self.evaluator.state.best_metric = self.best["metric"]
            self.evaluator.state.best_metric_epoch = self.best["epoch"]
        trainer.logger.info(f"continuing after epoch {trainer.state.epoch} from {self.state_file}")

    def _restore_partners(self, saved: Mapping[str, Any]) -> None:
        if saved.keys() != self.partners.keys():
            raise InputError(
                f"{self.state_file}: expected the state of {', '.join(self.partners) or 'no partners'},"
                f" found that of {', '.join(saved) or 'none'}; continue with the settings of the first run"
            )
        for name, partner in self.partners.items():
            if isinstance(partner, nn.Module):
                load_into(partner, saved[name], self.state_file)
                continue
            try:
                partner.load_state_dict(saved[name])
            except (KeyError, ValueError) as error:
                raise InputError(f"{self.state_file}: written with another {name}: {error}") from error

    def _check_progress(self, trainer: Trainer, saved: Mapping[str, int]) -> None:
        if saved["epoch_length"] != trainer.state.epoch_length:
            raise InputError(
                f"{self.state_file}: expected {trainer.state.epoch_length} batches per epoch as in this run,"
                f" found {saved['epoch_length']}; continue with the same cases, batch_size and processes"
            )
        finished = saved["iteration"] // saved["epoch_length"]
        if finished >= trainer.state.max_epochs:
            raise InputError(
                f"{self.state_file}: expected fewer than {trainer.state.max_epochs} finished epochs, found"
                f" {finished}; raise max_epochs to train further"
            )

    def _restore_optimizer(self, trainer: Trainer, state: Mapping[str, Any]) -> None:
        schedule, saved = self.lr_scheduler, state["lr_scheduler"]
        if schedule is None or saved is None:
            if schedule is not saved:
                raise ValueError("a schedule on one side only")
            self.optimizer.load_state_dict(state["optimizer"])
            return
        if isinstance(schedule, ReduceLROnPlateau) or _settings(schedule.state_dict()) == _settings(saved):
            schedule.load_state_dict(saved)
            self.optimizer.load_state_dict(state["optimizer"])
            return
        # Most schedules compute a rate from the one before: a changed one is walked through from its start.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for _ in range(saved["last_epoch"]):
                schedule.step()
        self.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, schedule.get_last_lr()):
            group["lr"] = rate
        trainer.logger.info(
            f"learning-rate schedule differs from the saved run; going on at {schedule.get_last_lr()}"
        )


def _state_of(partner: Any) -> dict[str, Any]:
    return _cpu_weights(partner) if isinstance(partner, nn.Module) else partner.state_dict()


def _settings(schedule: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schedule.items() if key not in _SCHEDULE_PROGRESS}


def _cpu_weights(network: nn.Module) -> dict[str, Tensor]:
    weights = unwrapped(network).state_dict()
    for key, value in weights.items():  # in place, as the dict carries torch's version notes in an attribute
        weights[key] = value.cpu()
    return weights


def _write(content: Mapping[str, Any], file: Path) -> None:
    with atomic_path(file) as temporary:
        try:
            # A stream, because torch.save would write the temporary file's name into the archive.
            with open(temporary, "wb") as stream:
                torch.save(content, stream)
                stream.flush()
                os.fsync(stream.fileno())
        except RuntimeError as error:
            # On a full disk torch may raise an error of its own while it handles that of the stream.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
