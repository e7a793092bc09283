"""Losses of two branches: numbers by hand, loops over pixels, and where the gradients go."""

import math

import pytest
import torch
from monai.data import MetaTensor

from common.losses.agreement import (
    BranchCrossEntropyLoss,
    BranchDiceLoss,
    SharpenedAgreementLoss,
    sharpened,
)
from tests.helpers.reference_dmnet import dice_loss

# Probabilities of class 0 at two pixels, for both branches.
FIRST, SECOND = (0.75, 0.5), (0.5, 0.25)


def stack(*branches):
    """Logits (1, branches, 2, 1, pixels) of branches given by their probabilities of class 0."""
    of_zero = torch.tensor(branches, dtype=torch.float64)
    return torch.stack([of_zero, 1 - of_zero], 1).log()[None, :, :, None] + 3


def labels_of(*classes):
    return torch.tensor(classes).reshape(1, 1, 1, -1)


def random_case(branches=2, classes=3):
    logits = torch.randn(2, branches, classes, 4, 5, dtype=torch.float64)
    return logits, torch.randint(0, classes, (2, 1, 4, 5))


def onehot(labels, classes=3):
    return torch.nn.functional.one_hot(labels[:, 0].long(), classes).movedim(-1, 1).double()


def test_dice_of_two_pixels_by_hand():
    """Labels 0 and 1. First branch: 2 (3/4) / (1 + 5/4) = 2/3 and 2 (1/2) / (1 + 3/4) = 4/7; loss 8/21.

    Second: 2 (1/2) / (1 + 3/4) = 4/7 and 2 (3/4) / (1 + 5/4) = 2/3, the same. An unsure branch costs 1/2.
    """
    loss, labels = BranchDiceLoss(), labels_of(0, 1)
    assert loss(stack(FIRST), labels).item() == pytest.approx(8 / 21, abs=1e-5)
    assert loss(stack(FIRST, SECOND), labels).item() == pytest.approx(16 / 21, abs=1e-5)
    assert loss(stack(FIRST, (0.5, 0.5)), labels).item() == pytest.approx(8 / 21 + 1 / 2, abs=1e-5)


def test_squared_dice_by_hand():
    """2 (3/4) / (1 + 9/16 + 4/16) = 24/29 and 2 (1/2) / (1 + 1/16 + 1/4) = 16/21."""
    expected = 1 - (24 / 29 + 16 / 21) / 2
    found = BranchDiceLoss(squared=True)(stack(FIRST), labels_of(0, 1))
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_cross_entropy_by_hand():
    """The labels' probabilities are 3/4 and 1/2 in the first branch, 1/2 and 3/4 in the second."""
    loss, labels = BranchCrossEntropyLoss(), labels_of(0, 1)
    one = (math.log(4 / 3) + math.log(2)) / 2
    assert loss(stack(FIRST, SECOND), labels).item() == pytest.approx(2 * one)
    assert loss(stack(FIRST)[:, 0], labels).item() == pytest.approx(one)


def test_sharpening_by_hand():
    """Odds of 3 become 9: 0.9; twice as sharp 81 / 82; at T = 1 nothing changes."""
    logits = stack(FIRST)
    for temperature, expected in ((0.5, [0.9, 0.5]), (0.25, [81 / 82, 0.5]), (1, [0.75, 0.5])):
        assert sharpened(logits, temperature)[0, 0, 0].flatten().tolist() == pytest.approx(expected)
    assert torch.equal(sharpened(logits), sharpened(logits, 0.5))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_sharpening_equals_powers_of_probabilities(temperature):
    logits = random_case()[0]
    powers = logits.softmax(2) ** (1 / temperature)
    expected = powers / powers.sum(2, keepdim=True)
    torch.testing.assert_close(sharpened(logits, temperature), expected)
    torch.testing.assert_close(sharpened(logits[:, 1], temperature), expected[:, 1])


def test_agreement_by_hand():
    """Sharpened, class 0 has 0.9 and 0.5 in the first branch, 0.5 and 0.1 in the second.

    2 (0.45 + 0.05) / 2 = 1/2, and for class 1 with 0.1, 0.5 and 0.5, 0.9 the same. As they are: class 0
    2 (3/8 + 1/8) / (5/4 + 3/4) = 1/2, and so is class 1. Squared: 1 / (0.81 + 0.25 + 0.25 + 0.01) = 1/1.32.
    """
    stacked = stack(FIRST, SECOND)
    assert SharpenedAgreementLoss()(stacked).item() == pytest.approx(0.5, abs=1e-5)
    assert SharpenedAgreementLoss(sharpen=False)(stacked).item() == pytest.approx(0.5, abs=1e-5)
    assert SharpenedAgreementLoss(squared=True)(stacked).item() == pytest.approx(1 - 1 / 1.32, abs=1e-5)


def test_sharpening_lowers_the_cost_of_equal_opinions():
    """Both branches 3/4 at one pixel: 2 (9/16) / (3/2) and 2 (1/16) / (1/2); sharpened 0.9 and 0.1."""
    same = stack((0.75,), (0.75,))
    plain, sharp = SharpenedAgreementLoss(sharpen=False), SharpenedAgreementLoss()
    assert plain(same).item() == pytest.approx(1 - (0.75 + 0.25) / 2, abs=1e-4)
    assert sharp(same).item() == pytest.approx(1 - (0.9 + 0.1) / 2, abs=1e-4)
    both = stack((0.75, 0.25), (0.75, 0.25))
    assert plain(both).item() == pytest.approx(1 - 0.625, abs=1e-5)
    assert sharp(both).item() == pytest.approx(1 - 0.82, abs=1e-5)


@pytest.mark.parametrize("squared", [False, True])
def test_dice_equals_a_loop_over_pixels(squared):
    logits, labels = random_case()
    expected = sum(dice_loss(logits[:, i].softmax(1), onehot(labels), squared) for i in (0, 1))
    found = BranchDiceLoss(squared)(logits, labels.float())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(("sharpen", "power"), [(True, 4), (False, 1)])
def test_agreement_equals_a_loop_over_pixels(squared, sharpen, power):
    logits = random_case()[0]
    maps = logits.softmax(2) ** power
    maps = maps / maps.sum(2, keepdim=True)
    found = SharpenedAgreementLoss(0.25, sharpen, squared)(logits)
    expected = dice_loss(maps[:, 0], maps[:, 1], squared)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_logits_of_evaluation_count_once():
    logits, labels = random_case()
    for loss in (BranchDiceLoss(), BranchCrossEntropyLoss()):
        alone = [loss(logits[:, index], labels) for index in (0, 1)]
        torch.testing.assert_close(loss(logits, labels), alone[0] + alone[1])


def sure(labels, classes=2):
    return 40 * onehot(labels, classes) - 20


def test_right_and_wrong_masks_cost_nothing_and_everything():
    labels = torch.randint(0, 2, (1, 1, 8, 8))
    right, wrong = sure(labels), sure(1 - labels)
    for squared in (False, True):
        dice, agreement = BranchDiceLoss(squared), SharpenedAgreementLoss(squared=squared)
        assert dice(torch.stack([right, right], 1), labels).item() == pytest.approx(0, abs=1e-5)
        assert dice(torch.stack([wrong, wrong], 1), labels).item() == pytest.approx(2, abs=1e-5)
        assert agreement(torch.stack([right, right], 1)).item() == pytest.approx(0, abs=1e-5)
        assert agreement(torch.stack([right, wrong], 1)).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("height", [10.0, 40.0, 1e4])
def test_two_maps_without_foreground_do_not_agree(squared, height):
    """Background 1, foreground 0 / tiny: (1 + 0) / 2. Smoothing in the numerator would make this 0."""
    empty = torch.zeros(1, 2, 2, 16, 16)
    empty[:, :, 0] = height
    loss = SharpenedAgreementLoss(squared=squared)(empty)
    assert loss.item() == pytest.approx(0.5, abs=2e-3)


def test_labels_without_foreground_cost_half_and_stay_finite():
    logits = sure(torch.zeros(1, 1, 8, 8)).requires_grad_()
    loss = BranchDiceLoss()(logits, torch.zeros(1, 1, 8, 8))
    loss.backward()
    assert loss.item() == pytest.approx(0.5, abs=1e-5)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("squared", [False, True])
def test_gradients_of_both_branches_are_those_of_the_formulas(squared):
    logits, labels = random_case()
    logits = logits[:1, :, :2, :2, :3].clone().requires_grad_()
    labels = labels[:1, :, :2, :3].clamp(max=1)
    assert torch.autograd.gradcheck(lambda z: BranchDiceLoss(squared)(z, labels), logits)
    agreement = SharpenedAgreementLoss(squared=squared)
    assert torch.autograd.gradcheck(agreement, logits)
    (gradient,) = torch.autograd.grad(agreement(logits), logits)
    assert all(gradient[:, index].any() for index in (0, 1))


def test_images_of_a_batch_are_judged_one_by_one():
    logits, labels = random_case()
    alone = [BranchDiceLoss()(logits[i : i + 1], labels[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(BranchDiceLoss()(logits, labels), (alone[0] + alone[1]) / 2)
    agreement = SharpenedAgreementLoss()
    alone = [agreement(logits[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(agreement(logits), (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_sums_of_large_images(dtype):
    logits = torch.randn(1, 2, 2, 300, 300).to(dtype)
    labels = torch.randint(0, 2, (1, 1, 300, 300))
    for squared in (False, True):
        dice, agreement = BranchDiceLoss(squared), SharpenedAgreementLoss(squared=squared)
        assert dice(logits, labels).dtype == agreement(logits).dtype == torch.float32
        torch.testing.assert_close(dice(logits, labels), dice(logits.float(), labels))
        torch.testing.assert_close(agreement(logits), agreement(logits.float()))


def test_tensors_with_meta_data_are_accepted():
    logits, labels = random_case()
    for loss in (BranchDiceLoss(), BranchCrossEntropyLoss()):
        found = loss(MetaTensor(logits), MetaTensor(labels))
        assert float(found) == pytest.approx(loss(logits, labels).item())
    assert float(SharpenedAgreementLoss()(MetaTensor(logits))) > 0


def test_what_does_not_fit_is_refused():
    dice, agreement = BranchDiceLoss(), SharpenedAgreementLoss()
    with pytest.raises(ValueError, match=r"labels: expected \(1, 1, 4, 4\), got \(1, 2, 4, 4\)"):
        dice(torch.zeros(1, 2, 2, 4, 4), torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match=r"at least 2 classes, got \(1, 2, 1, 4, 4\)"):
        dice(torch.zeros(1, 2, 1, 4, 4), torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"at least 2 classes, got \(2, 4, 4\)"):
        dice(torch.zeros(2, 4, 4), torch.zeros(1, 1, 4, 4))
    for shape in ((1, 2, 4, 4), (1, 3, 2, 4, 4)):
        with pytest.raises(ValueError, match=r"two branches \(B, 2, K, H, W\), got \(1,"):
            agreement(torch.zeros(shape))
    for temperature in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature must be above 0, got"):
            sharpened(torch.zeros(1, 2, 4, 4), temperature)
        with pytest.raises(ValueError, match="temperature must be above 0, got"):
            SharpenedAgreementLoss(temperature)
