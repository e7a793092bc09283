"""Loss of an auxiliary balanced head: rare classes keep all their voxels, frequent ones a random few.

Paper: Zhang et al., "A Semantic Knowledge Complementarity based Decoupling Framework for Semi-supervised
Class-imbalanced Medical Image Segmentation" (SKCDF), CVPR 2025, after Lee et al., "ABC: Auxiliary Balanced
Classifier for Class-imbalanced Semi-supervised Learning", NeurIPS 2021.
Implements: ratios of the classes, their annealing, the random masks, and cross-entropy plus Dice loss under
such a mask, in the form of SKCDF's released code.
Differs from the paper:
- a class without any voxel has the ratio 1, and the rarest of the others counts as rarest. In the released
  code such a class makes all other ratios 0 and its own undefined.
- ratios are looked up in a table by label, with one uniform draw per voxel: the same distribution.
Axes: B batch, K classes, background first, D H W space.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn

from common.errors import InputError
from common.losses.structure import full_precision


def class_counts(labels: Iterable[Tensor], num_classes: int) -> Tensor:
    """How many voxels of each class several label maps have together.

    Args:
        labels: class indices, any shapes and types; the method counts whole volumes, uncropped.
        num_classes: classes K, background included.

    Returns:
        int64 (K,), on the CPU; all 0 without label maps.

    Raises:
        InputError: a label outside 0 ... K - 1.
    """
    counts = torch.zeros(num_classes, dtype=torch.int64)
    for number, label in enumerate(labels):
        indices = torch.as_tensor(label).flatten().long().cpu()
        outside = indices[(indices < 0) | (indices >= num_classes)]
        if len(outside):
            raise InputError(
                f"label map {number}: expected classes 0 to {num_classes - 1}, found {int(outside[0])}"
            )
        counts += torch.bincount(indices, minlength=num_classes)
    return counts


def class_ratios(counts: Tensor) -> Tensor:
    """Size of the rarest class relative to each class: the share of voxels that a balanced loss keeps.

    Args:
        counts: (K,), voxels of each class, background included.

    Returns:
        float64 (K,) in (0, 1]; 1 for the rarest class and for classes without any voxel.

    Raises:
        InputError: no class has a voxel.

    Source: Zhang 2025, released code; classes without voxels are our choice.
    """
    counts = counts.double()
    present = counts > 0
    if not present.any():
        raise InputError(f"counts: expected voxels of at least one of {len(counts)} classes, found none")
    return torch.where(present, counts[present].min() / counts, 1.0)


def annealed_ratios(ratios: Tensor, epoch: int, last_epoch: int) -> Tensor:
    """Ratios for pseudo-labels, which fall from 1 (every voxel counts) to those of the labeled scans.

    Args:
        ratios: float (K,), as from :func:`class_ratios`.
        epoch: e, 0 for the first.
        last_epoch: E, the number of the last epoch (the paper's 1500); later ones are treated as it.

    Returns:
        1 - e / E (1 - r), same shape.

    Raises:
        InputError: ``last_epoch`` is not positive.

    Source: Zhang 2025, released code.
    """
    if last_epoch < 1:
        raise InputError(f"last_epoch: expected at least 1, found {last_epoch}")
    return 1 - min(epoch / last_epoch, 1.0) * (1 - ratios)


def balanced_mask(labels: Tensor, ratios: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Which voxels a balanced loss keeps: each one with the probability of its class, independently.

    Args:
        labels: class indices, any shape.
        ratios: float (K,), probability of each class; 1 keeps every voxel, 0 none.
        generator: source of the random numbers, on the device of ``labels``; ``None``: PyTorch's.

    Returns:
        bool, shape and device of ``labels``.

    Source: Zhang 2025, released code.
    """
    draws = torch.rand(labels.shape, device=labels.device, generator=generator)
    return draws < ratios.to(draws)[labels.long()]


class BalancedDiceCELoss(nn.Module):
    """Cross-entropy plus soft Dice loss, optionally of masked voxels only.

    The cross-entropy is the mean over all voxels. The Dice loss is that of the foreground classes, with sums
    over the batch and space, and 1 added to numerator and denominator. Voxels outside the mask are not left
    out: their logits and labels become zero, a uniform prediction where the truth is background, and they
    stay in the mean and the sums. A loss without any voxel is ln K plus almost 1, whatever the logits.

    Source: Zhang 2025, released code.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss = DiceCELoss(
            include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1.0, smooth_dr=1.0
        )

    def forward(self, logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss of a batch.

        Args:
            logits: float (B, K, D, H, W), K at least 2; half precision is summed as float32.
            labels: class indices (B, 1, D, H, W).
            mask: bool (B, 1, D, H, W), as from :func:`balanced_mask`; ``None`` keeps every voxel.

        Returns:
            Scalar.

        Raises:
            ValueError: fewer than two classes, or the shapes do not fit.
        """
        if logits.shape[1] < 2:
            raise ValueError(f"logits: expected at least 2 classes, got {logits.shape[1]}")
        expected = (logits.shape[0], 1, *logits.shape[2:])
        for name, given in (("labels", labels), ("mask", labels if mask is None else mask)):
            if tuple(given.shape) != expected:
                raise ValueError(f"{name}: expected {expected}, got {tuple(given.shape)}")
        logits = full_precision(logits)
        if mask is not None:
            logits, labels = logits * mask, labels * mask
        return self.loss(logits, labels)
