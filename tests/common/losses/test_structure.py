"""Structure loss: pixel weights and sums by hand, parity numbers, several classes, half precision."""

import math

import pytest
import torch
from monai.data import MetaTensor

from common.losses.structure import StructureLoss, boundary_weights
from tests.helpers.deterministic_weights import deterministic_input


def parity_case():
    """Logits and masks that the parity numbers were computed on, float64 (2, 1, 96, 128)."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    masks = torch.stack([(y - 40) ** 2 + (x - 50) ** 2 < 400, (y - 70) ** 2 / 2 + (x - 90) ** 2 < 300])
    return deterministic_input("logits", (2, 1, 96, 128)), masks[:, None].double()


def test_the_parity_masks_have_their_sizes():
    assert parity_case()[1].sum((1, 2, 3)).tolist() == [1245, 1331]


@pytest.mark.parametrize(
    ("bce", "expected"), [("weighted", 1.665090459351759), ("released", 1.664188257689078)]
)
def test_parity_numbers(bce, expected):
    assert StructureLoss(bce=bce)(*parity_case()).item() == pytest.approx(expected, abs=1e-12)


def test_both_terms_have_their_parity_numbers():
    logits, masks = parity_case()
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks).item()
    assert bce == pytest.approx(0.8426212706478742, abs=1e-12)
    for form, expected in [("released", bce), ("weighted", 0.843523472310555)]:
        assert StructureLoss(bce=form)(logits, masks).item() - expected == pytest.approx(
            0.8215669870412039, abs=1e-12
        )


def test_weights_at_edges_and_corners_by_hand():
    # A window of 31 x 31 sees 16 rows at an edge and 16 x 16 pixels in a corner.
    weights = boundary_weights(torch.ones(1, 1, 61, 61, dtype=torch.float64))[0, 0]
    assert weights[30, 30] == pytest.approx(1)
    assert weights[0, 30].item() == pytest.approx(1 + 5 * (1 - 16 / 31))
    assert weights[0, 0].item() == pytest.approx(1 + 5 * (1 - (16 / 31) ** 2))
    single = torch.zeros(1, 1, 61, 61, dtype=torch.float64)
    single[0, 0, 30, 30] = 0.5
    weights = boundary_weights(single)[0, 0]
    assert weights[30, 30].item() == pytest.approx(1 + 5 * (0.5 - 0.5 / 961))
    assert weights[20, 45].item() == pytest.approx(1 + 5 * 0.5 / 961)
    assert weights[14, 30] == 1


def test_two_pixels_by_hand():
    """Mask 1, 0 and logits 0, log 3: the window sees both, so each pools to 1/961."""
    logits = torch.tensor([0.0, math.log(3)], dtype=torch.float64).reshape(1, 1, 1, 2)
    masks = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    first, second = 1 + 5 * 960 / 961, 1 + 5 / 961
    bce = (first * math.log(2) + second * math.log(4)) / (first + second)
    intersection, total = 0.5 * first, 1.5 * first + 0.75 * second
    iou_loss = 1 - (intersection + 1) / (total - intersection + 1)
    assert StructureLoss()(logits, masks).item() == pytest.approx(bce + iou_loss)
    released = (math.log(2) + math.log(4)) / 2 + iou_loss
    assert StructureLoss(bce="released")(logits, masks).item() == pytest.approx(released)


def test_structures_are_judged_one_by_one_and_averaged():
    logits, masks = parity_case()
    stacked = logits.reshape(1, 2, 96, 128), masks.reshape(1, 2, 96, 128)
    torch.testing.assert_close(StructureLoss()(*stacked), StructureLoss()(logits, masks))


def onehot_case():
    logits = deterministic_input("logits", (2, 3, 40, 50))
    labels = torch.zeros(2, 1, 40, 50)
    labels[:, :, 5:20, 10:30], labels[1, :, 20:, 25:] = 1, 2
    return logits, labels


@pytest.mark.parametrize("bce", ["weighted", "released"])
def test_exclusive_classes_equal_a_loop(bce):
    logits, labels = onehot_case()
    probabilities = logits.softmax(1)
    iou, entropy = [], []
    for b in range(2):
        own_weights, costs = torch.zeros(2, 40, 50, dtype=torch.float64)
        for k in range(3):
            mask = (labels[b] == k).double()
            weight = boundary_weights(mask[None])[0, 0]
            own_weights += mask[0] * weight
            costs -= mask[0] * probabilities[b, k].log()
            both = (probabilities[b, k] * mask * weight).sum()
            union = ((probabilities[b, k] + mask) * weight).sum() - both
            iou.append(1 - (both + 1) / (union + 1))
        own_weights = own_weights if bce == "weighted" else torch.ones_like(own_weights)
        entropy.append((own_weights * costs).sum() / own_weights.sum())
    expected = sum(iou) / 6 + sum(entropy) / 2
    torch.testing.assert_close(StructureLoss("softmax", bce)(logits, labels), expected)


def test_class_indices_and_their_maps_cost_the_same():
    logits, labels = onehot_case()
    maps = torch.cat([labels == k for k in range(3)], dim=1).float()
    loss = StructureLoss("softmax")
    torch.testing.assert_close(loss(logits, maps), loss(logits, labels))


def test_what_no_foreground_map_covers_is_background():
    """Resized and rotated foreground maps: background is what is left of each pixel, 1 outside the image."""
    foreground = torch.tensor([[0.25, 0.0], [0.5, 0.0]], dtype=torch.float64).reshape(1, 2, 1, 2)
    every = torch.tensor([[0.25, 1.0], [0.25, 0.0], [0.5, 0.0]], dtype=torch.float64).reshape(1, 3, 1, 2)
    logits = deterministic_input("logits", (1, 3, 1, 2))
    assert StructureLoss("softmax")(logits, foreground) == StructureLoss("softmax")(logits, every)
    two_classes, mask = logits[:, :2], torch.tensor([1, 0]).reshape(1, 1, 1, 2)
    loss = StructureLoss("softmax")
    assert loss(two_classes, mask) == loss(two_classes, torch.cat([1 - mask, mask], dim=1))


def test_a_certain_and_right_prediction_costs_nothing():
    masks = parity_case()[1]
    assert StructureLoss()(200 * masks - 100, masks).item() == pytest.approx(0, abs=1e-9)
    assert StructureLoss()(100 - 200 * masks, masks).item() > 100


def test_an_empty_mask_costs_something_finite():
    logits = torch.full((1, 1, 8, 8), -2.0, requires_grad=True)
    loss = StructureLoss()(logits, torch.zeros(1, 1, 8, 8))
    loss.backward()
    p = 1 / (1 + math.exp(2))
    assert loss.item() == pytest.approx(-math.log(1 - p) + 1 - 1 / (64 * p + 1))
    assert (logits.grad > 0).all()


def test_gradient_is_that_of_the_formula():
    logits = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(1, 2, 4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: StructureLoss()(z, masks), logits)


def test_half_precision_keeps_the_sums():
    logits, masks = parity_case()
    loss = StructureLoss()(logits.repeat(1, 1, 3, 3).half(), masks.repeat(1, 1, 3, 3).half())
    full = StructureLoss()(logits.repeat(1, 1, 3, 3).float(), masks.repeat(1, 1, 3, 3))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, full, atol=1e-4, rtol=0)


def test_tensors_with_meta_data_are_accepted():
    logits, masks = parity_case()
    loss = StructureLoss()(MetaTensor(logits), MetaTensor(masks))
    assert float(loss) == pytest.approx(1.665090459351759, abs=1e-12)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="mode: expected one of"):
        StructureLoss("multiclass")
    with pytest.raises(ValueError, match="bce: expected one of"):
        StructureLoss(bce="mean")
    with pytest.raises(ValueError, match=r"expected \(1, 3, 4, 4\) in mode sigmoid, got \(1, 1, 4, 4\)"):
        StructureLoss()(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4\) or \(1, 2, 4, 4\) or \(1, 1"):
        StructureLoss("softmax")(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, 4))
