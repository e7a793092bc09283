import math

import pytest
import torch
from monai.losses import DiceCELoss

from common.losses.deep_supervision import DeepSupervisedLoss


def test_weighted_sum_derived_by_hand():
    """One voxel, two classes, target 1: logits (0, z) cost log(1 + exp(-z)); z = 0 costs log 2."""
    zeros = torch.zeros(1, 4, 2, 1, 1)
    target = torch.ones(1, 1, 1, 1)
    loss = DeepSupervisedLoss(weights=(1.0, 0.25, 0.5, 0.75))
    assert loss(zeros, target).item() == pytest.approx(2.5 * math.log(2))
    zeros[0, 2, 1] = math.log(3)  # the head with weight 0.5 now costs log(1 + 1/3)
    assert loss(zeros, target).item() == pytest.approx(2.0 * math.log(2) + 0.5 * math.log(4 / 3))


@pytest.mark.parametrize("spatial", [(5, 4), (3, 4, 5)])
def test_equals_a_loop_over_torch_cross_entropy(spatial):
    logits = torch.randn(2, 3, 4, *spatial)
    labels = torch.randint(0, 4, (2, 1, *spatial))
    weights = [1.0, 0.3, 0.6]
    expected = sum(
        weight * torch.nn.CrossEntropyLoss()(logits[:, index], labels[:, 0])
        for index, weight in enumerate(weights)
    )
    torch.testing.assert_close(DeepSupervisedLoss(weights=weights)(logits, labels.float()), expected)


def test_dice_ce_is_monais():
    logits, labels = torch.randn(2, 2, 3, 6, 6), torch.randint(0, 3, (2, 1, 6, 6))
    monai_loss = DiceCELoss(to_onehot_y=True, softmax=True)
    expected = monai_loss(logits[:, 0], labels) + 0.5 * monai_loss(logits[:, 1], labels)
    torch.testing.assert_close(DeepSupervisedLoss("dice_ce", (1.0, 0.5))(logits, labels), expected)


def test_an_unstacked_output_costs_the_base_loss():
    logits, labels = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 1, 6, 6))
    expected = torch.nn.CrossEntropyLoss()(logits, labels[:, 0])
    torch.testing.assert_close(DeepSupervisedLoss()(logits, labels), expected)


def test_another_number_of_outputs_than_weights_is_refused():
    with pytest.raises(ValueError, match="expected 4 outputs, one per weight, got 2"):
        DeepSupervisedLoss()(torch.randn(1, 2, 3, 4, 4), torch.zeros(1, 1, 4, 4))


def test_unknown_base_is_refused():
    with pytest.raises(ValueError, match="base must be one of"):
        DeepSupervisedLoss("focal")
