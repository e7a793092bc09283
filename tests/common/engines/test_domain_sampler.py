"""Shares of the domains in a batch, and batches that can be repeated."""

from collections import Counter

import pytest
import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, EnsureTyped, LoadImaged, Orientationd, Resized, SelectItemsd
from torch import nn

from common.data.chaos import CHAOS_LIVER_CODES, chaos
from common.data.chaos_phantom import write_chaos
from common.engines.domain_sampler import DomainBatchSampler
from common.engines.epoch_seed import EpochSeed
from common.errors import InputError
from common.transforms.mask_stack import DomainLabelCodesd, LoadMaskStackd
from common.transforms.rescale_intensity import RescaleIntensityd
from common.transforms.slices import RandSliceStackd

DOMAINS = ["CT"] * 5 + ["MR"] * 2 + ["CT"] + ["MR"]


def domains_of(batch):
    return Counter(DOMAINS[index] for index in batch)


def test_every_batch_has_equal_shares():
    sampler = DomainBatchSampler(DOMAINS, batch_size=6, num_batches=50)
    drawn = list(sampler)
    assert len(sampler) == len(drawn) == 50
    assert all(domains_of(batch) == {"CT": 3, "MR": 3} for batch in drawn)
    assert {index for batch in drawn for index in batch} == set(range(9))
    assert all(type(index) is int for index in drawn[0])


def test_other_shares():
    for batch in DomainBatchSampler(DOMAINS, 6, 10, ratio={"MR": 1, "CT": 2}):
        assert domains_of(batch) == {"CT": 4, "MR": 2}
    for batch in DomainBatchSampler(DOMAINS, 10, 3, ratio={"CT": 0.7, "MR": 0.3}):
        assert domains_of(batch) == {"CT": 7, "MR": 3}
    three = [*DOMAINS, "PET"]
    assert [three[index] for index in next(iter(DomainBatchSampler(three, 3, 1)))] == ["CT", "MR", "PET"]


def test_volumes_of_a_domain_are_equally_likely():
    """6000 draws of 6 CT volumes: 1000 each, standard deviation sqrt(6000 / 6 x 5 / 6) = 28.9."""
    counts = Counter(i for batch in DomainBatchSampler(DOMAINS, 6, 2000) for i in batch if DOMAINS[i] == "CT")
    assert sum(counts.values()) == 6000
    assert max(abs(count - 1000) for count in counts.values()) < 4 * 28.9


def test_pooled_volumes_are_drawn_in_proportion_to_their_slices():
    """Slices 30, 10 and 20: of 6000 draws 3000, 1000 and 2000, standard deviations below 38.8."""
    sampler = DomainBatchSampler(["CT", "MR", "CT"], 6, 1000, sampling="pooled", weights=[30, 10, 20])
    drawn = list(sampler)
    counts = Counter(index for batch in drawn for index in batch)
    for index, expected in enumerate((3000, 1000, 2000)):
        assert counts[index] == pytest.approx(expected, abs=4 * 38.8)
    assert any(1 not in batch for batch in drawn)


@pytest.mark.parametrize("arguments", [{}, {"sampling": "pooled", "weights": range(1, 10)}])
def test_batches_follow_from_the_global_seed_alone(arguments):
    sampler = DomainBatchSampler(DOMAINS, 6, 8, **arguments)
    torch.manual_seed(5)
    first = list(sampler)
    assert list(sampler) != first
    torch.manual_seed(5)
    again = []
    for batch in sampler:
        again.append(batch)
        torch.rand(3)  # such as dropout draws between two batches
    assert again == first


def test_one_domain_has_to_be_allowed():
    with pytest.raises(InputError, match="expected volumes of at least two, found CT; .*allow_single_domain"):
        DomainBatchSampler(["CT"] * 3, 6, 1)
    with pytest.raises(InputError, match="expected volumes of at least two, found none"):
        DomainBatchSampler([], 6, 1, allow_single_domain=True)
    assert len(next(iter(DomainBatchSampler(["CT"] * 3, 5, 1, allow_single_domain=True)))) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 5}, r"batch_size: expected one that can be divided .*found 5 \(2.5 CT, 2.5 MR\)"),
        ({"batch_size": 1}, "batch_size: expected one that can be divided"),
        ({"batch_size": 0}, "expected batch_size and num_batches of 1 or more, found 0 and 4"),
        ({"num_batches": 0}, "found 6 and 0"),
        ({"ratio": {"CT": 1}}, "ratio: expected a share above 0 for each of CT, MR, found"),
        ({"ratio": {"CT": 1, "MR": 0}}, "ratio: expected a share above 0"),
        ({"ratio": {"CT": 1, "MR": 1, "PET": 1}}, "ratio: expected a share above 0 for each of CT, MR"),
        ({"sampling": "uniform"}, "sampling: expected balanced or pooled, found 'uniform'"),
        ({"sampling": "pooled"}, "expected weights for pooled sampling and only there"),
        ({"weights": [1.0] * 9}, "expected weights for pooled sampling and only there"),
        (
            {"sampling": "pooled", "weights": [1.0] * 9, "ratio": {"CT": 1, "MR": 1}},
            "ratio for balanced only",
        ),
        ({"sampling": "pooled", "weights": [1.0] * 8}, r"weights: expected 9 numbers above 0 .*found 8"),
        ({"sampling": "pooled", "weights": [0.0] + [1.0] * 8}, "weights: expected 9 numbers above 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        DomainBatchSampler(**{"domains": DOMAINS, "batch_size": 6, "num_batches": 4} | arguments)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos")
    write_chaos(folder, num_ct=3, num_mr=2, size=32, ct_slices=8, mr_slices=5)
    return chaos(str(folder))


def slices_loader(cases, num_workers=0):
    """From DICOM folders to batches of 2.5D slices of both domains."""
    keys = ["image", "label"]
    chain = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            LoadMaskStackd("label"),
            DomainLabelCodesd("label", CHAOS_LIVER_CODES, 2),
            Orientationd(keys, axcodes="RAS", labels=None),
            RescaleIntensityd("image"),
            Resized(keys, spatial_size=(16, 16, -1), mode=["area", "nearest"]),
            RandSliceStackd(keys, neighbors=1),
            SelectItemsd([*keys, "domain"]),
            EnsureTyped(keys, track_meta=False),
        ]
    )
    dataset = CacheDataset(cases, chain, progress=False)
    sampler = DomainBatchSampler([case["domain"] for case in cases], batch_size=4, num_batches=3)
    return DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers)


def test_loader_gives_slices_of_both_domains(cases):
    loader = slices_loader(cases)
    assert len(loader) == 3
    for batch in loader:
        assert batch["domain"] == ["CT", "CT", "MR", "MR"]
        assert batch["image"].shape == (4, 3, 16, 16)
        assert batch["label"].shape == (4, 1, 16, 16)
        assert 0 <= batch["image"].min() < batch["image"].max() <= 1
        assert set(batch["label"].unique().tolist()) <= {0, 1}


def epochs(loader, start_epoch=0, max_epochs=3):
    """Images and labels of each epoch of a training that starts, or goes on, after ``start_epoch``."""
    seen = {}
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=loader,
        network=nn.Identity(),
        optimizer=None,
        loss_function=None,
        iteration_update=lambda engine, batch: seen.setdefault(engine.state.epoch, []).append(
            torch.cat([batch["image"], batch["label"]], dim=1)
        ),
        train_handlers=[EpochSeed(11)],
    )

    def go_on():
        trainer.state.epoch = start_epoch
        trainer.state.iteration = start_epoch * len(loader)

    trainer.add_event_handler(Events.STARTED, go_on)
    trainer.run()
    return {epoch: torch.stack(images) for epoch, images in seen.items()}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epochs_can_be_repeated_alone(cases, num_workers):
    """``EpochSeed`` governs the batches and the slices drawn in them."""
    whole = epochs(slices_loader(cases, num_workers))
    torch.rand(5)
    alone = epochs(slices_loader(cases, num_workers), start_epoch=2)
    assert list(alone) == [3]
    assert torch.equal(alone[3], whole[3])
    assert not torch.equal(whole[1], whole[2])


def test_every_process_draws_its_own_batches(cases, monkeypatch):
    first = epochs(slices_loader(cases), max_epochs=1)
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    assert not torch.equal(epochs(slices_loader(cases), max_epochs=1)[1], first[1])
