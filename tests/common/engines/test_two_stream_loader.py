"""Two loaders side by side: lengths, new starts, and epochs that can be repeated."""

import pytest
import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.transforms import RandGaussianNoised
from torch import nn
from torch.utils.data import DistributedSampler, RandomSampler

from common.engines.epoch_seed import EpochSeed
from common.engines.two_stream_loader import TwoStreamLoader
from common.errors import InputError

# Labeled images hold 0, 1, ..., unlabeled ones 100, 101, ...
FIRST = {"labeled": 0, "unlabeled": 100}


def dataset(name, count, noise=False):
    items = [{"image": torch.full((1,), float(FIRST[name] + number))} for number in range(count)]
    return CacheDataset(items, RandGaussianNoised("image", prob=float(noise), std=0.1), progress=False)


def loader(name, count, batch_size=2, num_workers=0, noise=False, **options):
    options = {"shuffle": True} | options
    return DataLoader(dataset(name, count, noise), num_workers, batch_size=batch_size, **options)


def numbers(batch):
    return batch["image"].flatten().tolist()


def epoch(two):
    """Numbers of the images of each stream, in order."""
    batches = list(two)
    return {name: [number for batch in batches for number in numbers(batch[name])] for name in two.loaders}


def test_an_epoch_is_as_long_as_the_longer_loader():
    two = TwoStreamLoader(loader("labeled", 4), loader("unlabeled", 10))
    assert len(two) == 5
    seen = epoch(two)
    assert sorted(seen["unlabeled"]) == list(range(100, 110))
    # Two batches a pass: two passes and a half, each of all four images.
    assert len(seen["labeled"]) == 10
    assert sorted(seen["labeled"][:4]) == sorted(seen["labeled"][4:8]) == [0, 1, 2, 3]
    assert len(TwoStreamLoader(loader("labeled", 12), loader("unlabeled", 4))) == 6


def test_every_start_shuffles_anew():
    seen = epoch(TwoStreamLoader(loader("labeled", 8, batch_size=8), loader("unlabeled", 6, batch_size=1)))
    passes = [tuple(seen["labeled"][start : start + 8]) for start in range(0, 48, 8)]
    assert all(sorted(order) == list(range(8)) for order in passes)
    assert len(set(passes)) == 6


def test_length_may_be_given():
    two = TwoStreamLoader(loader("labeled", 4), loader("unlabeled", 10), length=3)
    assert [len(two), len(list(two))] == [3, 3]
    assert len(list(TwoStreamLoader(loader("labeled", 4), loader("unlabeled", 10), length=12))) == 12


def test_labeled_batches_alone():
    two = TwoStreamLoader(loader("labeled", 6))
    assert len(two) == 3
    assert all(list(batch) == ["labeled"] for batch in two)


def test_a_sampler_may_go_round_without_new_starts():
    images = dataset("labeled", 3)
    endless = DataLoader(images, batch_size=2, sampler=RandomSampler(images, num_samples=10))
    seen = epoch(TwoStreamLoader(endless, loader("unlabeled", 10)))
    assert [sorted(seen["labeled"][start : start + 3]) for start in (0, 3, 6)] == [[0, 1, 2]] * 3


def trained(two, max_epochs=3, start_epoch=0, disturb=True):
    """Images of each epoch of a training with ``EpochSeed``, from ``start_epoch`` on."""
    seen = {}

    def step(engine, batch):
        images = torch.cat([batch[name]["image"] for name in sorted(batch)])
        seen.setdefault(engine.state.epoch, []).append(images.flatten().as_tensor())
        return {"loss": torch.rand(1)}  # as dropout, draws between the batches

    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=two,
        network=nn.Identity(),
        optimizer=None,
        loss_function=None,
        iteration_update=step,
        decollate=False,
        train_handlers=[EpochSeed(11)],
    )

    def start():
        trainer.state.epoch = start_epoch
        trainer.state.iteration = start_epoch * trainer.state.epoch_length

    trainer.add_event_handler(Events.STARTED, start)
    if disturb:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: torch.rand(int(torch.randint(9, (1,)))))
    trainer.run()
    return {number: torch.cat(images) for number, images in seen.items()}


def two_streams(num_workers=0, **options):
    return TwoStreamLoader(
        loader("labeled", 3, num_workers=num_workers, noise=True, **options),
        loader("unlabeled", 8, num_workers=num_workers, noise=True, **options),
    )


def own_generators():
    return two_streams(generator=torch.Generator())


@pytest.mark.parametrize("make", [two_streams, lambda: two_streams(1), own_generators])
def test_an_epoch_can_be_repeated_alone(make):
    whole = trained(make(), max_epochs=2)
    torch.rand(5)
    alone = trained(make(), max_epochs=2, start_epoch=1, disturb=False)
    assert list(alone) == [2]
    assert torch.equal(alone[2], whole[2])
    assert not torch.equal(whole[1], whole[2])


def test_streams_have_random_numbers_of_their_own():
    noise = trained(TwoStreamLoader(*(loader(name, 1, 1, noise=True) for name in FIRST)), max_epochs=1)[1]
    assert abs(noise[0] - (noise[1] - 100)) > 1e-3


def test_samplers_of_several_processes_learn_epoch_and_start():
    def orders(rank):
        sets = {name: dataset(name, count) for name, count in (("labeled", 4), ("unlabeled", 24))}
        samplers = {name: DistributedSampler(images, 2, rank) for name, images in sets.items()}
        two = TwoStreamLoader(*(DataLoader(sets[n], batch_size=1, sampler=samplers[n]) for n in sets))
        found = trained(two, max_epochs=2)
        return {number: images.view(-1, 2).tolist() for number, images in found.items()}

    ranks = [orders(rank) for rank in range(2)]
    passes = []
    for number in (1, 2):
        both = list(zip(ranks[0][number], ranks[1][number]))
        # Together the processes see every image once a pass: they agree on the order of every start.
        for start in range(0, 12, 2):
            labeled = [image[0] for pair in both[start : start + 2] for image in pair]
            assert sorted(labeled) == [0, 1, 2, 3]
            passes.append(tuple(labeled))
        assert sorted(image[1] for pair in both for image in pair) == list(range(100, 124))
    assert len(set(passes)) > 4
    assert passes[:6] != passes[6:]


def test_kept_workers_are_refused():
    with pytest.raises(InputError, match="persistent_workers: expected false"):
        trained(two_streams(1, persistent_workers=True))


def test_loaders_without_batches_are_refused():
    with pytest.raises(
        InputError, match=r"labeled: expected at least one batch, .* batch_size \(4\) or drop_last"
    ):
        TwoStreamLoader(loader("labeled", 3, 4, drop_last=True), loader("unlabeled", 8))
    with pytest.raises(InputError, match="unlabeled: expected at least one batch"):
        TwoStreamLoader(loader("labeled", 3), loader("unlabeled", 1, 4, drop_last=True))
    with pytest.raises(InputError, match="length: expected at least 1 batch, found 0"):
        TwoStreamLoader(loader("labeled", 3), length=0)
