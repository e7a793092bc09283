"""Balanced loss: ratios, masks and both terms by hand, a loop as oracle, what dropped voxels cost."""

import math

import pytest
import torch
from monai.data import MetaTensor

from common.errors import InputError
from common.losses.balanced import (
    BalancedDiceCELoss,
    annealed_ratios,
    balanced_mask,
    class_counts,
    class_ratios,
)
from tests.helpers.deterministic_weights import deterministic_input


def case():
    """Logits of 4 classes, labels of which class 3 is absent, and a mask, for two odd-sized volumes."""
    logits = deterministic_input("logits", (2, 4, 3, 5, 4))
    labels = torch.arange(120).reshape(2, 1, 3, 5, 4) % 3
    return logits, labels, deterministic_input("mask", (2, 1, 3, 5, 4)) > 0


def looped(logits, labels, mask):
    """Mean cross-entropy and Dice loss voxel by voxel and class by class, from the formulas alone."""
    num_classes = logits.shape[1]
    rows = logits.movedim(1, -1).reshape(-1, num_classes).tolist()
    entropy, overlap, sizes = 0.0, [0.0] * num_classes, [0.0] * num_classes
    for row, label, kept in zip(rows, labels.flatten().tolist(), mask.flatten().tolist()):
        row, label = (row, label) if kept else ([0.0] * num_classes, 0)
        total = sum(math.exp(value) for value in row)
        for index, value in enumerate(row):
            sizes[index] += math.exp(value) / total + (index == label)
        overlap[label] += math.exp(row[label]) / total
        entropy -= math.log(math.exp(row[label]) / total) / len(rows)
    dices = [(2 * both + 1) / (size + 1) for both, size in zip(overlap[1:], sizes[1:])]
    return entropy + 1 - sum(dices) / len(dices)


def test_counts_of_several_maps_by_hand():
    maps = [torch.tensor([[0, 0], [2, 0]], dtype=torch.uint8), torch.tensor([2.0, 1.0, 0.0])]
    assert class_counts(iter(maps), 4).tolist() == [4, 1, 2, 0]
    assert class_counts([], 2).tolist() == [0, 0]


@pytest.mark.parametrize("wrong", [3, -1])
def test_a_label_that_is_no_class_is_named(wrong):
    with pytest.raises(InputError, match=rf"label map 1: expected classes 0 to 2, found {wrong}"):
        class_counts([torch.tensor([0]), torch.tensor([2, wrong])], 3)


def test_ratios_by_hand():
    """1000, 50 and 10 voxels: the rarest keeps all, the others 10/50 and 10/1000 of theirs."""
    ratios = class_ratios(torch.tensor([1000, 50, 10]))
    assert ratios.dtype == torch.float64
    assert ratios.tolist() == [0.01, 0.2, 1.0]


def test_an_absent_class_does_not_silence_the_others():
    assert class_ratios(torch.tensor([1000, 0, 10])).tolist() == [0.01, 1.0, 1.0]
    assert class_ratios(torch.tensor([7, 0])).tolist() == [1.0, 1.0]


def test_ratios_without_any_voxel_are_refused():
    with pytest.raises(InputError, match="counts: expected voxels of at least one of 3 classes, found none"):
        class_ratios(torch.zeros(3))


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, [1, 1, 1]), (375, [0.75, 0.8, 1]), (1500, [0, 0.2, 1]), (1600, [0, 0.2, 1])]
)
def test_annealing_by_hand(epoch, expected):
    """A quarter of the way from 1 to 0 and from 1 to 0.2 is 0.75 and 0.8."""
    ratios = torch.tensor([0, 0.2, 1], dtype=torch.float64)
    assert annealed_ratios(ratios, epoch, 1500).tolist() == pytest.approx(expected)


def test_annealing_over_no_epochs_is_refused():
    with pytest.raises(InputError, match="last_epoch: expected at least 1, found 0"):
        annealed_ratios(torch.ones(2), 0, 0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_each_class_keeps_its_share(dtype):
    labels = (torch.arange(40_000) % 4).reshape(1, 1, 40, 100, 10)
    mask = balanced_mask(labels.to(dtype), torch.tensor([0.1, 0.6, 1.0, 0.0], dtype=torch.float64))
    assert mask.shape == labels.shape
    shares = [mask[labels == index].double().mean().item() for index in range(4)]
    # Four standard deviations of the mean of 10,000 draws are at most 0.02.
    assert shares[:2] == pytest.approx([0.1, 0.6], abs=0.02)
    assert shares[2:] == [1, 0]


def test_masks_follow_their_generator():
    labels, ratios = torch.zeros(1, 1, 4, 4, 4), torch.tensor([0.5])
    masks = [balanced_mask(labels, ratios, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_two_voxels_by_hand():
    """Logits 0, ln 3 in both: probabilities 1/4 and 3/4; the labels are 1 and 0.

    Cross-entropy (ln 4/3 + ln 4) / 2, Dice (2 * 3/4 + 1) / (3/2 + 1 + 1) = 5/7. With the first voxel dropped
    its probabilities are 1/2 and no label is 1: (ln 2 + ln 4) / 2 and Dice (0 + 1) / (1/2 + 3/4 + 1) = 4/9.
    """
    logits = torch.tensor([0, math.log(3)], dtype=torch.float64).reshape(1, 2, 1, 1, 1).repeat(1, 1, 1, 1, 2)
    labels = torch.tensor([1, 0]).reshape(1, 1, 1, 1, 2)
    loss = BalancedDiceCELoss()
    assert loss(logits, labels).item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2 + 2 / 7)
    mask = torch.tensor([False, True]).reshape(labels.shape)
    assert loss(logits, labels, mask).item() == pytest.approx((math.log(2) + math.log(4)) / 2 + 5 / 9)


def test_loss_equals_a_loop_with_and_without_mask():
    logits, labels, mask = case()
    loss = BalancedDiceCELoss()
    assert loss(logits, labels, mask).item() == pytest.approx(looped(logits, labels, mask), abs=1e-12)
    everything = torch.ones_like(mask)
    assert loss(logits, labels).item() == pytest.approx(looped(logits, labels, everything), abs=1e-12)
    assert loss(logits, labels, everything) == loss(logits, labels)


@pytest.mark.parametrize(("num_classes", "published"), [(14, 3.6391), (16, 3.7726)])
def test_a_loss_without_voxels_is_the_published_constant(num_classes, published):
    """ln K and a Dice of 1 / (N / K + 1) for N voxels; the published number is that of a whole patch."""
    shape = (1, 1, 64, 64, 64)
    logits, mask = torch.ones(1).expand(1, num_classes, *shape[2:]), torch.zeros(shape, dtype=torch.bool)
    found = BalancedDiceCELoss()(logits, torch.full(shape, 3), mask).item()
    voxels = 64**3
    assert found == pytest.approx(math.log(num_classes) + 1 - 1 / (voxels / num_classes + 1), abs=1e-5)
    assert found == pytest.approx(published, abs=2e-4)


def test_dropped_voxels_get_no_gradient():
    logits, labels, mask = case()
    logits.requires_grad_(True)
    BalancedDiceCELoss()(logits, labels, mask).backward()
    assert torch.equal(logits.grad.any(1, keepdim=True), mask)


def test_half_precision_keeps_the_sums():
    labels = torch.ones(1, 1, 48, 48, 48)
    logits = torch.ones(1, 2, 48, 48, 48)
    loss = BalancedDiceCELoss()(logits.half(), labels.half())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(2) + 1 - 2 / 3, abs=1e-4)


def test_tensors_with_meta_data_are_accepted():
    logits, labels, mask = case()
    expected = BalancedDiceCELoss()(logits, labels, mask)
    assert float(BalancedDiceCELoss()(MetaTensor(logits), MetaTensor(labels), mask)) == float(expected)
    ratios = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert torch.equal(torch.as_tensor(balanced_mask(MetaTensor(labels), ratios)), labels > 0)


def test_what_does_not_fit_is_refused():
    logits, labels, mask = case()
    loss = BalancedDiceCELoss()
    with pytest.raises(ValueError, match="logits: expected at least 2 classes, got 1"):
        loss(logits[:, :1], labels)
    with pytest.raises(ValueError, match=r"labels: expected \(2, 1, 3, 5, 4\), got \(2, 3, 5, 4\)"):
        loss(logits, labels[:, 0])
    with pytest.raises(ValueError, match=r"mask: expected \(2, 1, 3, 5, 4\), got \(1, 1, 3, 5, 4\)"):
        loss(logits, labels, mask[:1])
