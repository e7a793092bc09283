"""Structure loss: cross-entropy and IoU with more weight where a mask changes.

Paper: Zhao et al., "M2SNet: Multi-scale in Multi-scale Subtraction Network for Medical Image Segmentation",
arXiv 2303.10894.
Implements: the weighted BCE and weighted IoU terms of equation 4.
Differs from the paper:
- the paper states weighted BCE, but the published models were trained with the plain mean: the released code
  loses the weights in a deprecated argument. Weighted is the default here, ``bce="released"`` the plain mean.
- several classes: neither paper nor code show their loss. Both modes below are our choice.
Axes: B batch, K channels, H W space.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

MODES = ("sigmoid", "softmax")
BCE_FORMS = ("weighted", "released")
WINDOW_PX = 31
BOUNDARY_GAIN = 5.0


def boundary_weights(masks: Tensor) -> Tensor:
    """One plus five times how far a pixel differs from the mean of its 31 x 31 neighborhood.

    Outside the image counts as background, so a mask that touches the image border gets weight there.

    Args:
        masks: float (B, K, H, W) in [0, 1], soft edges allowed.

    Returns:
        Same shape, values in [1, 6].

    Source: Zhao 2023, released code; a 31 x 31 average with zeros around the image.
    """
    pooled = F.avg_pool2d(masks, WINDOW_PX, stride=1, padding=WINDOW_PX // 2)
    return 1 + BOUNDARY_GAIN * (pooled - masks).abs()


def class_masks(labels: Tensor, logits: Tensor, mode: str) -> Tensor:
    """Labels as one map per channel of the logits, in their dtype.

    Args:
        labels: (B, K, H, W) maps in [0, 1]; with ``softmax`` also the maps of the foreground alone
            (B, K - 1, H, W), whose rest is background, or class indices (B, 1, H, W).
        logits: float (B, K, H, W).
        mode: ``sigmoid`` or ``softmax``.

    Returns:
        float (B, K, H, W).

    Raises:
        ValueError: the shapes do not fit.
    """
    batch, channels, *size = logits.shape
    expected = [(batch, channels, *size)]
    if mode == "softmax":
        expected += [(batch, channels - 1, *size), (batch, 1, *size)]
    if tuple(labels.shape) not in expected:
        raise ValueError(
            f"labels: expected {' or '.join(map(str, expected))} in mode {mode}, got {tuple(labels.shape)}"
        )
    if labels.shape[1] == channels:
        return labels.to(logits.dtype)
    if labels.shape[1] == channels - 1:
        foreground = labels.to(logits.dtype)
        return torch.cat([(1 - foreground.sum(dim=1, keepdim=True)).clamp(min=0), foreground], dim=1)
    return F.one_hot(labels[:, 0].long(), channels).movedim(-1, 1).to(logits.dtype)


def check_mode(mode: str) -> None:
    """Refuse an unknown mode.

    Raises:
        ValueError: ``mode`` is not one of ``MODES``.
    """
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {MODES}, got {mode!r}")


def full_precision(logits: Tensor) -> Tensor:
    """Half-precision values as float32, since sums over an image leave their range; others unchanged."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


class StructureLoss(nn.Module):
    """Boundary-weighted cross-entropy plus boundary-weighted IoU loss.

    Args:
        mode: ``sigmoid``: every channel is a structure of its own, judged by itself (the paper's form with
            one channel). ``softmax``: channels are exclusive classes, the first of them background; the
            cross-entropy of a pixel is weighted by the boundary weight of the class it belongs to, and the
            IoU is taken per class, background included.
        bce: ``weighted``, or ``released`` for the plain mean, as the published models were trained.

    Raises:
        ValueError: unknown mode or form.

    Source: Zhao 2023, equation 4 without its feature term; several classes are our choice.
    """

    def __init__(self, mode: str = "sigmoid", bce: str = "weighted") -> None:
        super().__init__()
        check_mode(mode)
        if bce not in BCE_FORMS:
            raise ValueError(f"bce: expected one of {BCE_FORMS}, got {bce!r}")
        self.mode = mode
        self.bce = bce

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            logits: float (B, K, H, W).
            labels: (B, K, H, W) maps in [0, 1], soft edges allowed; in mode ``softmax`` see also
                :func:`class_masks`.

        Returns:
            Scalar: cross-entropy plus 1 - IoU, each averaged over samples and channels.

        Raises:
            ValueError: the shapes do not fit.
        """
        logits = full_precision(logits)
        masks = class_masks(labels, logits, self.mode)
        weights = boundary_weights(masks)
        if self.mode == "softmax":
            probabilities = logits.softmax(dim=1)
            costs = F.cross_entropy(logits, masks, reduction="none").unsqueeze(1)
            cost_weights = (masks * weights).sum(dim=1, keepdim=True)
        else:
            probabilities = logits.sigmoid()
            costs = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
            cost_weights = weights
        if self.bce == "released":
            cost_weights = torch.ones_like(costs)
        return _weighted_mean(costs, cost_weights) + _iou_loss(probabilities, masks, weights)


def _weighted_mean(costs: Tensor, weights: Tensor) -> Tensor:
    axes = (2, 3)
    return ((weights * costs).sum(axes) / weights.sum(axes)).mean()


def _iou_loss(probabilities: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """One minus the soft IoU of each map, with one pixel added to intersection and union."""
    axes = (2, 3)
    intersection = (probabilities * masks * weights).sum(axes)
    total = ((probabilities + masks) * weights).sum(axes)
    return (1 - (intersection + 1) / (total - intersection + 1)).mean()
