"""Random state that depends on seed, epoch and rank only."""

import random

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import nn
from torch.utils.data import RandomSampler

from common.engines.epoch_seed import EpochSeed
from common.errors import InputError
from tests.helpers.tiny_training import tiny_loader


def batches(loader, max_epochs=3, seed=11, start_epoch=0, epoch_length=None, disturb=True):
    """Images seen in each epoch, as one tensor per epoch."""
    seen = {}
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=loader,
        epoch_length=epoch_length,
        network=nn.Identity(),
        optimizer=None,
        loss_function=None,
        iteration_update=lambda engine, batch: seen.setdefault(engine.state.epoch, []).append(
            torch.cat([batch["image"], batch["label"]]).as_tensor()
        ),
        train_handlers=[EpochSeed(seed)] if seed is not None else [],
    )

    def start():
        trainer.state.epoch = start_epoch
        trainer.state.iteration = start_epoch * trainer.state.epoch_length

    trainer.add_event_handler(Events.STARTED, start)
    if disturb:  # draws outside the loader, as validation and dropout make them
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: torch.rand(random.randint(1, 9)))
    trainer.run()
    return {epoch: torch.stack(images) for epoch, images in seen.items()}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_epoch_can_be_repeated_alone(num_workers):
    whole = batches(tiny_loader(num_workers))
    torch.rand(5)
    alone = batches(tiny_loader(num_workers), start_epoch=2, disturb=False)
    assert list(alone) == [3]
    assert torch.equal(alone[3], whole[3])
    assert not torch.equal(whole[1], whole[2])


def test_without_the_handler_an_epoch_cannot_be_repeated():
    """Guards the test above: the pipeline really is random."""
    whole = batches(tiny_loader(), seed=None)
    assert not torch.equal(batches(tiny_loader(), seed=None, start_epoch=2)[3], whole[3])


def test_seed_and_rank_change_the_numbers(monkeypatch):
    first = batches(tiny_loader(), max_epochs=1)
    assert not torch.equal(batches(tiny_loader(), max_epochs=1, seed=12)[1], first[1])
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    assert not torch.equal(batches(tiny_loader(), max_epochs=1)[1], first[1])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_partial_epochs_start_from_the_beginning(num_workers):
    whole = batches(tiny_loader(num_workers), epoch_length=2)
    alone = batches(tiny_loader(num_workers), epoch_length=2, start_epoch=1, disturb=False)
    assert torch.equal(alone[2], whole[2])
    assert torch.equal(alone[3], whole[3])


def test_generators_of_loader_and_sampler_are_seeded():
    def own_generators():
        loader = tiny_loader()
        sampler = RandomSampler(loader.dataset, generator=torch.Generator())
        return tiny_loader(sampler=sampler, shuffle=False, generator=torch.Generator())

    whole = batches(own_generators())
    alone = batches(own_generators(), start_epoch=1)
    assert torch.equal(alone[2], whole[2])
    assert not torch.equal(whole[1], whole[2])


def test_sampler_learns_the_epoch():
    class EpochSampler(RandomSampler):
        epochs = []

        def set_epoch(self, epoch):
            self.epochs.append(epoch)

    batches(tiny_loader(sampler=EpochSampler(tiny_loader().dataset), shuffle=False), max_epochs=2)
    assert EpochSampler.epochs == [1, 2]


def test_global_generators_are_seeded():
    drawn = []
    loader = tiny_loader()
    for _ in range(2):
        trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=1,
            train_data_loader=loader,
            network=nn.Identity(),
            optimizer=None,
            loss_function=None,
            iteration_update=lambda engine, batch: drawn.append(
                (random.random(), np.random.rand(), torch.rand(1).item())
            ),
            train_handlers=[EpochSeed(3)],
        )
        trainer.run()
    assert drawn[:3] == drawn[3:]


def test_kept_workers_are_refused():
    with pytest.raises(InputError, match="persistent_workers: expected false"):
        batches(tiny_loader(num_workers=1, persistent_workers=True))
