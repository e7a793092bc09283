"""Overlap of all classes from one matrix of counts, summed over all pixels of all images.

Paper: Fang and Li, "DMNet: Difference Minimization Network for Semi-supervised Segmentation in Medical
Images", MICCAI 2020, 10.1007/978-3-030-59710-8_52.
Implements: mIoU, its only measure.
Differs from the paper: it does not say how it averages. Counts over all images and a mean with background are
our choice: of the foreground alone, its numbers would lie beyond those of stronger methods.
Axes: K classes, background included; rows are the reference, columns the prediction.
"""

from __future__ import annotations

import torch
from torch import Tensor


def confusion_matrix(prediction: Tensor, reference: Tensor, num_classes: int) -> Tensor:
    """How many pixels of each class were given to each class.

    Args:
        prediction: class indices, any dtype and shape.
        reference: the same shape.
        num_classes: K.

    Returns:
        int64 (K, K); ``[[6, 1], [0, 3]]``: one of seven background pixels was taken for foreground.

    Raises:
        ValueError: the shapes differ, or values are not 0 to K - 1.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction: expected the shape {tuple(reference.shape)} of reference, got "
            f"{tuple(prediction.shape)}"
        )
    indices = []
    for name, labels in (("prediction", prediction), ("reference", reference)):
        labels = torch.as_tensor(labels).flatten()
        classes = labels.long()
        if not bool(((classes == labels) & (classes >= 0) & (classes < num_classes)).all()):
            raise ValueError(
                f"{name}: expected class indices 0 to {num_classes - 1}, got values from "
                f"{float(labels.min()):.7g} to {float(labels.max()):.7g}"
            )
        indices.append(classes)
    pairs = indices[1] * num_classes + indices[0]
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def iou_per_class(matrix: Tensor) -> Tensor:
    """Intersection over union of each class.

    Args:
        matrix: int64 (..., K, K), of one image or the sum over several.

    Returns:
        float64 (..., K), 0 to 1: tp / (tp + fp + fn); ``nan`` for a class in neither mask.
    """
    hits, total = _hits_and_total(matrix)
    return hits / (total - hits)


def dice_per_class(matrix: Tensor) -> Tensor:
    """Dice of each class.

    Args:
        matrix: int64 (..., K, K).

    Returns:
        float64 (..., K), 0 to 1: 2 tp / (2 tp + fp + fn); ``nan`` for a class in neither mask.
    """
    hits, total = _hits_and_total(matrix)
    return 2 * hits / total


def mean_iou(matrix: Tensor) -> float:
    """Plain mean of the IoU of all classes, background included.

    Args:
        matrix: int64 (K, K).

    Returns:
        Number from 0 to 1, of the classes that are in either mask; ``nan`` if the matrix is empty.
    """
    return float(iou_per_class(matrix).nanmean())


def _hits_and_total(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Per class: pixels in both masks, and in the one plus in the other."""
    counts = matrix.double()
    return counts.diagonal(dim1=-2, dim2=-1), counts.sum(dim=-1) + counts.sum(dim=-2)
