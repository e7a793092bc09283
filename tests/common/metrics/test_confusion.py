"""One matrix of counts for all images, and what follows from it."""

import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from ignite.metrics import ConfusionMatrix, IoU, mIoU
from monai.metrics import ConfusionMatrixMetric
from monai.networks.utils import one_hot

from common.metrics.confusion import confusion_matrix, dice_per_class, iou_per_class, mean_iou

REFERENCE = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 1, 1, 1]])
PREDICTION = torch.tensor([[0, 0, 0, 0, 0], [0, 1, 1, 1, 1]])


def test_numbers_by_hand():
    # 7 background pixels, of which 6 were found and 1 taken for foreground; all 3 foreground pixels found.
    matrix = confusion_matrix(PREDICTION, REFERENCE, 2)
    assert matrix.tolist() == [[6, 1], [0, 3]]
    assert matrix.dtype == torch.int64
    # Background: 6 / (7 + 6 - 6); foreground: 3 / (3 + 4 - 3).
    assert iou_per_class(matrix).tolist() == pytest.approx([6 / 7, 3 / 4])
    assert dice_per_class(matrix).tolist() == pytest.approx([12 / 13, 6 / 7])
    assert mean_iou(matrix) == pytest.approx((6 / 7 + 3 / 4) / 2)


def test_rows_are_the_reference():
    assert confusion_matrix(torch.tensor([2]), torch.tensor([1]), 3).tolist() == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 0, 0],
    ]


def test_sum_over_images_is_the_matrix_of_all_pixels_and_no_mean_of_means():
    # Image 1: foreground 1 of 1 found. Image 2: 1 of 9. Together 2 / 10; the mean of both would be 5 / 9.
    first = confusion_matrix(torch.tensor([1, 0]), torch.tensor([1, 0]), 2)
    second = confusion_matrix(torch.tensor([1] + [0] * 8), torch.ones(9), 2)
    both = confusion_matrix(torch.tensor([1, 0, 1] + [0] * 8), torch.tensor([1, 0] + [1] * 9), 2)
    assert torch.equal(first + second, both)
    assert iou_per_class(both)[1] == pytest.approx(2 / 10)
    stacked = iou_per_class(torch.stack([first, second]))
    assert stacked[:, 1].tolist() == pytest.approx([1, 1 / 9])


@pytest.mark.parametrize("shape", [(17,), (7, 9), (3, 5, 4)])
def test_agrees_with_ignite_and_monai(shape):
    prediction, reference = torch.randint(4, (2, 3, *shape))
    matrix = confusion_matrix(prediction, reference, 4)
    counts = ConfusionMatrix(4)
    engine = Engine(lambda engine, pair: (one_hot(pair[0][:, None], 4), pair[1]))
    for name, metric in {"matrix": counts, "iou": IoU(counts), "miou": mIoU(counts)}.items():
        metric.attach(engine, name)
    metrics = engine.run([(p[None], r[None]) for p, r in zip(prediction, reference)]).metrics
    assert torch.equal(matrix, metrics["matrix"])
    torch.testing.assert_close(iou_per_class(matrix), metrics["iou"])
    assert mean_iou(matrix) == pytest.approx(metrics["miou"])
    pooled = ConfusionMatrixMetric(metric_name=("threat score", "f1 score"), reduction="sum_batch")
    pooled(one_hot(prediction[:, None], 4), one_hot(reference[:, None], 4))
    threat, f1 = pooled.aggregate()
    np.testing.assert_allclose(iou_per_class(matrix), threat, rtol=1e-6)
    np.testing.assert_allclose(dice_per_class(matrix), f1, rtol=1e-6)


def test_classes_absent_everywhere_are_left_out_of_the_mean():
    matrix = confusion_matrix(PREDICTION, REFERENCE, 4)
    assert iou_per_class(matrix).tolist()[2:] == pytest.approx([math.nan] * 2, nan_ok=True)
    assert dice_per_class(matrix).tolist()[2:] == pytest.approx([math.nan] * 2, nan_ok=True)
    assert mean_iou(matrix) == pytest.approx((6 / 7 + 3 / 4) / 2)


def test_a_class_only_predicted_counts_as_zero():
    assert iou_per_class(confusion_matrix(torch.tensor([0, 1]), torch.zeros(2), 2)).tolist() == [0.5, 0]


def test_nothing_at_all():
    matrix = confusion_matrix(torch.zeros(0), torch.zeros(0), 2)
    assert matrix.tolist() == [[0, 0], [0, 0]]
    assert math.isnan(mean_iou(matrix))


def test_more_pixels_than_float32_can_count():
    matrix = torch.tensor([[2**25, 1], [0, 2**25]])
    assert iou_per_class(matrix)[0].item() == 2**25 / (2**25 + 1) < 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int32])
def test_any_dtype(dtype):
    assert confusion_matrix(PREDICTION.to(dtype), REFERENCE.float(), 2).tolist() == [[6, 1], [0, 3]]


def test_unusable_masks():
    with pytest.raises(ValueError, match=r"prediction: expected the shape \(2, 5\) of reference, got \(5,\)"):
        confusion_matrix(PREDICTION[0], REFERENCE, 2)
    with pytest.raises(
        ValueError, match="reference: expected class indices 0 to 1, got values from 0 to 255"
    ):
        confusion_matrix(PREDICTION, REFERENCE * 255, 2)
    for wrong in (PREDICTION * 0.5, PREDICTION - 1, PREDICTION * math.nan):
        with pytest.raises(ValueError, match="prediction: expected class indices 0 to 1"):
            confusion_matrix(wrong, REFERENCE, 2)
