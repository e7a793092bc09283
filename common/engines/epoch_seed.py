"""Random numbers as a function of seed, epoch and rank, so that any epoch can be repeated exactly."""

from __future__ import annotations

import random

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Events
from monai.data.utils import set_rnd
from monai.engines import Trainer

from common.errors import InputError


class EpochSeed:
    """Trainer handler that derives all random state anew when an epoch starts.

    Covers Python, NumPy and torch on all devices, MONAI's random transforms, the order of the cases and,
    through torch's seeding of workers, everything that loader workers draw. Random state therefore never has
    to be stored: a continued run sees the same batches as an uninterrupted one with equal ``num_workers``.

    Args:
        seed: the run's seed, 0 or larger.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, trainer: Trainer) -> None:
        """Hook into a trainer.

        Args:
            trainer: MONAI trainer with a ``data_loader``.

        Raises:
            InputError: the loader keeps its workers, whose random state lives on from epoch to epoch.
        """
        if getattr(trainer.data_loader, "persistent_workers", False):
            raise InputError(
                "persistent_workers: expected false, as kept workers cannot be seeded, found true"
            )
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)

    def _start_epoch(self, trainer: Trainer) -> None:
        epoch, loader = trainer.state.epoch, trainer.data_loader
        sequence = np.random.SeedSequence([self.seed, epoch, idist.get_rank()])
        seed = int(sequence.generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        set_rnd(getattr(loader, "dataset", None), seed)
        sampler = getattr(loader, "sampler", None)
        for owner in (loader, sampler):
            generator = getattr(owner, "generator", None)
            if generator is not None:  # a generator of its own does not see torch.manual_seed
                generator.manual_seed(seed)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        # ignite itself goes on with the last iterator while that has batches (epoch_length < len(loader)).
        trainer.set_data(loader)
