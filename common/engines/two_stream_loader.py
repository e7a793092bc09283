"""Batches of labeled and unlabeled images side by side, from two loaders of different length.

Paper: Fang and Li, "DMNet: Difference Minimization Network for Semi-supervised Segmentation in Medical
Images", MICCAI 2020, 10.1007/978-3-030-59710-8_52.
Implements: training on labeled and unlabeled data in turn.
Differs from the paper: nothing; it does not define an epoch. Here one lasts as long as the longer loader.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from common.errors import InputError


class TwoStreamLoader:
    """Loader of ``{"labeled": batch, "unlabeled": batch}`` for MONAI's trainers (``decollate=False``).

    A loader that ends before the epoch does starts again, in a new order where it shuffles. With workers,
    each start makes new processes, which costs more than a small cached data set takes to read: let the
    labeled loader do without them, or give it
    ``RandomSampler(dataset, num_samples=batch_size * batches)``, which goes through its slices again and
    again in one pass and also leaves none out where ``drop_last`` would.

    :class:`~common.engines.epoch_seed.EpochSeed` finds here what it looks for in a loader, and reaches both:
    ``dataset`` (random transforms; each stream gets a seed of its own), ``generator`` (those of loaders and
    samplers), ``set_epoch`` (samplers of several processes) and ``persistent_workers``. So an epoch can be
    repeated as with a single loader.

    Args:
        labeled_loader: at least one batch long.
        unlabeled_loader: likewise; None: batches are ``{"labeled": batch}``.
        length: batches in an epoch; None: as many as the longer loader has.

    Raises:
        InputError: a loader without batches, or ``length`` below 1.
    """

    def __init__(
        self,
        labeled_loader: DataLoader,
        unlabeled_loader: DataLoader | None = None,
        length: int | None = None,
    ) -> None:
        self.loaders = {"labeled": labeled_loader}
        if unlabeled_loader is not None:
            self.loaders["unlabeled"] = unlabeled_loader
        for name, loader in self.loaders.items():
            if len(loader) < 1:
                raise InputError(
                    f"{name}: expected at least one batch, found none; lower batch_size "
                    f"({loader.batch_size}) or drop_last ({loader.drop_last})"
                )
        if length is not None and length < 1:
            raise InputError(f"length: expected at least 1 batch, found {length}")
        self.length = length
        self.epoch = 0

    def __len__(self) -> int:
        return self.length or max(map(len, self.loaders.values()))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        streams = {name: self._endless(loader) for name, loader in self.loaders.items()}
        for _ in range(len(self)):
            yield {name: next(stream) for name, stream in streams.items()}

    @property
    def dataset(self) -> SimpleNamespace:
        """The data sets of both streams as attributes, which MONAI's ``set_rnd`` gives different seeds."""
        return SimpleNamespace(**{name: loader.dataset for name, loader in self.loaders.items()})

    @property
    def persistent_workers(self) -> bool:
        """Whether a loader keeps its workers."""
        return any(loader.persistent_workers for loader in self.loaders.values())

    @property
    def generator(self) -> _Generators | None:
        """The generators that loaders and samplers have of their own, to be seeded; None if there is none."""
        owners = [o for loader in self.loaders.values() for o in (loader, loader.sampler)]
        found = [getattr(owner, "generator", None) for owner in owners]
        generators = [generator for generator in found if generator is not None]
        return _Generators(generators) if generators else None

    @property
    def sampler(self) -> TwoStreamLoader:
        """This loader, which hands the number of the epoch on to the samplers of both streams."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Tell samplers the epoch when they next start, as ``DistributedSampler`` wants it."""
        self.epoch = epoch

    def _endless(self, loader: DataLoader) -> Iterator[Any]:
        for start in itertools.count():
            if hasattr(loader.sampler, "set_epoch"):
                loader.sampler.set_epoch(self.epoch if start == 0 else _number(self.epoch, start))
            yield from loader


class _Generators:
    """Several random generators that are seeded as one."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators

    def manual_seed(self, seed: int) -> None:
        for offset, generator in enumerate(self.generators):
            generator.manual_seed(seed + offset)


def _number(epoch: int, start: int) -> int:
    """Epoch to tell a sampler that starts again: the same in all processes, different at every start."""
    return int(np.random.SeedSequence([epoch, start]).generate_state(1)[0])
