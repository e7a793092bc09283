"""Losses of a network with two branches: of each against the labels, and of one against the other.

Paper: Fang and Li, "DMNet: Difference Minimization Network for Semi-supervised Segmentation in Medical
Images", MICCAI 2020, doi:10.1007/978-3-030-59710-8_52.
Implements: the Dice loss on labeled images, the sharpening and the difference of the branches on unlabeled
ones; cross-entropy, with which a table compares the Dice loss.
Differs from the paper: nothing that it states. It does not say whether the branches' losses are summed (they
are, as its adversarial terms are) or whether the denominator is squared (``squared``; it is not, by default).
Axes: B batch, K classes, H W space.
"""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn

from common.losses.deep_supervision import DeepSupervisedLoss
from common.losses.structure import full_precision

CLASS_AXIS = -3


def sharpened(logits: Tensor, temperature: float = 0.5) -> Tensor:
    """Softmax probabilities raised to the power 1 / T and scaled to the sum 1 again.

    That is the softmax of logits divided by T, which has no powers of tiny numbers. The gradient is kept.

    Args:
        logits: float (B, K, H, W), or (B, branches, K, H, W), each branch by itself.
        temperature: T, above 0 (the paper's 0.5); 1 gives the probabilities as they are, less makes them
            surer.

    Returns:
        Same shape, at least float32.

    Raises:
        ValueError: a temperature that is not above 0.

    Source: Fang 2020, sharpening of the predictions of unlabeled images.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    return (full_precision(logits) / temperature).softmax(dim=CLASS_AXIS)


class BranchDiceLoss(nn.Module):
    """Dice loss of each branch against the labels, summed over the branches.

    ``1 - mean over classes of 2 sum(Y P) / sum(Y + P)``, sums over one image, background included, mean over
    the batch. A class that the labels of an image lack costs 1 there, whatever is predicted: nothing is added
    to the numerator, and 1e-5 to the denominator, against 0 / 0.

    Args:
        squared: ``sum(Y^2 + P^2)`` in the denominator.

    Source: Fang 2020, loss on labeled images; ``squared``: Milletari et al., "V-Net", 3DV 2016, which it
    cites.
    """

    def __init__(self, squared: bool = False) -> None:
        super().__init__()
        self.dice = DiceLoss(to_onehot_y=True, softmax=True, squared_pred=squared, smooth_nr=0.0)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            logits: float (B, branches, K, H, W) from training, or (B, K, H, W) from evaluation, the logits of
                the average, which is then the only one that counts.
            labels: class indices (B, 1, H, W).

        Returns:
            Scalar, from 0 to the number of branches.

        Raises:
            ValueError: the shapes do not fit, or there is a single class.
        """
        branches = _branches(logits)
        expected = (logits.shape[0], 1, *logits.shape[-2:])
        if tuple(labels.shape) != expected:
            raise ValueError(f"labels: expected {expected}, got {tuple(labels.shape)}")
        return torch.stack([self.dice(full_precision(branch), labels) for branch in branches]).sum()


class BranchCrossEntropyLoss(DeepSupervisedLoss):
    """Softmax cross-entropy of both branches against the labels, summed; takes what the Dice loss takes.

    Source: Fang 2020, the comparison of loss functions.
    """

    def __init__(self) -> None:
        super().__init__("ce", (1.0, 1.0))


class SharpenedAgreementLoss(nn.Module):
    """Dice loss between the sharpened probabilities of two branches, each of which learns from it.

    ``1 - mean over classes of 2 sum(S1 S2) / sum(S1 + S2)``, sums over one image, background included, mean
    over the batch. Nothing is added to the numerator: two maps without any foreground would otherwise agree
    perfectly, and training could collapse to them. As it is, they cost 0.5 with two classes, like two maps
    that share no foreground. (1e-5 in the denominator keeps a class that both lack from 0 / 0.)

    Args:
        temperature: of the sharpening, see :func:`sharpened`.
        sharpen: ``False`` compares the probabilities as they are.
        squared: ``sum(S1^2 + S2^2)`` in the denominator: equal maps of unsure pixels then cost nothing, while
            by default only sure ones do.

    Raises:
        ValueError: a temperature that is not above 0.

    Source: Fang 2020, loss on unlabeled images.
    """

    def __init__(self, temperature: float = 0.5, sharpen: bool = True, squared: bool = False) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature if sharpen else 1.0
        self.dice = DiceLoss(squared_pred=squared, smooth_nr=0.0)

    def forward(self, logits: Tensor) -> Tensor:
        """Disagreement of a batch.

        Args:
            logits: float (B, 2, K, H, W), with the gradient of both branches.

        Returns:
            Scalar, from 0 to 1.

        Raises:
            ValueError: other than two branches, or a single class.
        """
        if logits.dim() != 5 or logits.shape[1] != 2:
            raise ValueError(f"logits: expected two branches (B, 2, K, H, W), got {tuple(logits.shape)}")
        first, second = _branches(logits)
        return self.dice(sharpened(first, self.temperature), sharpened(second, self.temperature))


def _branches(logits: Tensor) -> tuple[Tensor, ...]:
    """Each branch (B, K, H, W) of stacked logits; what is not stacked is one."""
    if logits.dim() not in (4, 5) or logits.shape[CLASS_AXIS] < 2:
        raise ValueError(
            "logits: expected (B, branches, K, H, W) or (B, K, H, W) with at least 2 classes,"
            f" got {tuple(logits.shape)}"
        )
    return logits.unbind(dim=1) if logits.dim() == 5 else (logits,)
