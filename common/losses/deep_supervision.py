"""Segmentation loss summed over the stacked outputs of a deeply supervised network.

Paper: Gu et al., "kCBAC-Net: Deeply Supervised Complete Bipartite Networks with Asymmetric Convolutions for
Medical Image Segmentation", MICCAI 2021, doi:10.1007/978-3-030-87193-2_32.
Implements: total loss = main loss + sum of weighted auxiliary losses, all against full-size labels.
Differs from the paper: the base loss is not named there; cross-entropy is our default.
Axes: B batch, K classes, D H W space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812
from monai.losses import DeepSupervisionLoss, DiceCELoss
from torch import Tensor, nn


class LabelCrossEntropy(nn.Module):
    """Softmax cross-entropy against labels that keep their channel axis, averaged over all voxels."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, K, [D,] H, W) and labels (B, 1, [D,] H, W) to a scalar."""
        return F.cross_entropy(logits, labels.squeeze(1).long())


BASES = {"ce": LabelCrossEntropy, "dice_ce": lambda: DiceCELoss(to_onehot_y=True, softmax=True)}


class DeepSupervisedLoss(nn.Module):
    """Weighted sum of one base loss over the main and the auxiliary outputs.

    Args:
        base: ``ce`` (our default, the paper names none) or ``dice_ce`` (sum of Dice loss and cross-entropy).
        weights: weight of the main output, then of each auxiliary output. The paper: 1, 0.25, 0.5, 0.75 for
            lymph nodes and MM-WHS, 1, 1, 1, 1 for ISIC.

    Raises:
        ValueError: unknown base; in ``forward``, another number of outputs than weights.
    """

    def __init__(self, base: str = "ce", weights: Sequence[float] = (1.0, 0.25, 0.5, 0.75)) -> None:
        super().__init__()
        if base not in BASES:
            raise ValueError(f"base must be one of {tuple(BASES)}, got {base!r}")
        self.weights = list(weights)
        self.weighted_sum = DeepSupervisionLoss(BASES[base](), weights=self.weights)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            logits: (B, outputs, K, [D,] H, W) from training, or (B, K, [D,] H, W) from a network without
                auxiliary heads, whose loss is the base loss with weight 1.
            labels: class indices (B, 1, [D,] H, W).

        Returns:
            Scalar.
        """
        if logits.dim() == labels.dim():
            return self.weighted_sum(logits, labels)
        outputs = logits.unbind(dim=1)
        # MONAI would silently fall back to weights of its own where ours are too few.
        if len(outputs) != len(self.weights):
            raise ValueError(f"expected {len(self.weights)} outputs, one per weight, got {len(outputs)}")
        return self.weighted_sum(list(outputs), labels)
