"""Which averages MONAI's ConfusionMatrix forms: pooled over pixels (lymph nodes) or per image (ISIC)."""

import numpy as np
import pytest
import torch
from monai.handlers import ConfusionMatrix
from skimage.metrics import contingency_table

POOLED = {"compute_sample": False, "reduction": "sum"}
PER_IMAGE = {"compute_sample": True, "reduction": "mean"}


def image(reference, prediction):
    """One-hot (2, 1, W) pair of a row of pixels."""
    return tuple(
        torch.stack([1 - mask, mask])[:, None] for mask in (torch.tensor(prediction), torch.tensor(reference))
    )


# Image 1: TP 3, FP 1, FN 1, TN 3. Image 2: TP 0, FP 2, FN 1, TN 5. Image 3, without the class: FP 1, TN 7.
IMAGES = [
    image([1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 1, 0, 0, 0]),
    image([1, 0, 0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]),
    image([0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]),
]
EMPTY = image([0] * 8, [0] * 8)


def score(name, images, options):
    handler = ConfusionMatrix(include_background=False, metric_name=name, save_details=False, **options)
    for prediction, reference in images:
        handler.update(([prediction], [reference]))
    return handler.compute()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("precision", 3 / 7), ("recall", 3 / 5), ("f1 score", 6 / 12), ("threat score", 3 / 9)],
)
def test_sums_pixels_over_the_test_set_first(name, expected):
    # Sums over the three images: TP 3, FP 4, FN 2.
    assert score(name, IMAGES, POOLED) == pytest.approx(expected)
    assert score(name, [*IMAGES, EMPTY], POOLED) == pytest.approx(expected)


def test_pooled_scores_obey_the_identities_that_the_published_rows_obey():
    precision, recall, f1, iou = (
        score(name, IMAGES, POOLED) for name in ("precision", "recall", "f1 score", "threat score")
    )
    assert f1 == pytest.approx(2 * iou / (1 + iou))
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_pooled_counts_equal_scikit_image():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand((6, 2, 40), generator=generator).gt(0.6).long()
    images = [image(reference.tolist(), prediction.tolist()) for prediction, reference in masks]
    prediction, reference = masks.transpose(0, 1).flatten(1).numpy()
    (_, fp), (fn, tp) = contingency_table(reference, prediction, normalize=False).toarray()
    assert score("precision", images, POOLED) == pytest.approx(tp / (tp + fp))
    assert score("threat score", images, POOLED) == pytest.approx(tp / (tp + fp + fn))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("threat score", np.mean([3 / 5, 0 / 3, 0 / 1])),
        ("sensitivity", np.mean([3 / 4, 0 / 1])),  # image 3 has no lesion: undefined, left out
        ("specificity", np.mean([3 / 4, 5 / 7, 7 / 8])),
        ("f1 score", np.mean([6 / 8, 0 / 3, 0 / 1])),
    ],
)
def test_averages_over_images_in_which_the_score_is_defined(name, expected):
    assert score(name, IMAGES, PER_IMAGE) == pytest.approx(expected)


def test_image_without_lesion_and_without_prediction_is_left_out_of_the_mean_of_images():
    assert score("threat score", [*IMAGES, EMPTY], PER_IMAGE) == pytest.approx(np.mean([3 / 5, 0, 0]))


def test_test_set_without_any_lesion_has_no_pooled_recall():
    assert np.isnan(score("recall", [EMPTY], POOLED))
