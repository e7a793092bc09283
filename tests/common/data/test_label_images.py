import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.data.label_images import class_labels, foreground_maps, gray_mask
from common.errors import InputError

CLASS_OF = {0: 0, 500: 1, 420: 2, 421: 2}


def test_values_become_classes_and_metadata_stays():
    label = MetaTensor([[[0.0, 500.0], [421.0, 420.0]]], affine=torch.diag(torch.tensor([2.0, 3, 1, 1])))
    classes = class_labels(label, CLASS_OF, "a")
    assert classes.tolist() == [[[0, 1], [2, 2]]]
    assert classes.dtype == torch.uint8
    assert torch.equal(classes.affine, label.affine)


def test_agrees_with_numpy_on_random_labels():
    values = np.random.default_rng(0).choice(list(CLASS_OF), size=(1, 5, 6, 7))
    expected = np.vectorize(CLASS_OF.get)(values)
    assert np.array_equal(class_labels(torch.as_tensor(values), CLASS_OF, "a").numpy(), expected)


@pytest.mark.parametrize("value", [1.0, 420.5, -500.0, float("nan"), float("inf")])
def test_other_values_are_refused(value):
    with pytest.raises(
        InputError, match=r"^a: expected label values 0, 420, 421, 500, found also .* in 2 voxel"
    ):
        class_labels(torch.tensor([[0.0, value, 500.0, value]]), CLASS_OF, "a")


@pytest.mark.parametrize("alpha", [None, 0, 255])
@pytest.mark.parametrize("colors", [1, 3])
def test_equal_channels_become_one(colors, alpha):
    mask = torch.tensor([[[0, 255], [255, 0]]])
    label = torch.cat([mask.expand(colors, 2, 2), *([] if alpha is None else [torch.full_like(mask, alpha)])])
    assert class_labels(label, {0: 0, 255: 1}, "a").tolist() == [[[0, 1], [1, 0]]]


def test_different_channels_are_refused():
    label = torch.zeros(3, 2, 2)
    label[1, 0, 0] = 1
    with pytest.raises(InputError, match="found 3 that differ"):
        class_labels(label, {0: 0, 1: 1}, "a")


def test_gray_mask_by_hand():
    # the larger of 51 and 0 is 51, and 51 / 255 = 0.2; the larger of 0 and 255 is 255
    label = MetaTensor([[[51.0, 0.0]], [[0.0, 255.0]]], affine=torch.diag(torch.tensor([2.0, 3, 1, 1])))
    mask = gray_mask(label, "a")
    torch.testing.assert_close(mask.as_tensor(), torch.tensor([[[0.2, 1.0]]]))
    assert torch.equal(mask.affine, label.affine)


def test_gray_mask_agrees_with_numpy():
    values = np.random.default_rng(0).integers(0, 256, (3, 5, 7)).astype(np.uint8)
    mask = gray_mask(torch.as_tensor(values), "a")
    assert mask.dtype == torch.float32
    assert type(mask) is torch.Tensor
    np.testing.assert_array_equal(mask.numpy()[0], values.max(axis=0) / np.float32(255))


@pytest.mark.parametrize("value", [0, 2, 255])
def test_gray_mask_of_one_value(value):
    assert gray_mask(torch.full((2, 3, 4), value), "a").unique().tolist() == [
        np.float32(value) / np.float32(255)
    ]


@pytest.mark.parametrize("value", [-1.0, 256.0, float("nan"), float("inf")])
def test_values_that_are_no_gray_are_refused(value):
    with pytest.raises(InputError, match=r"^a: expected gray values 0 to 255, found also .* in 2 voxel"):
        gray_mask(torch.tensor([[[0.0, value, 255.0, value]]]), "a")


@pytest.mark.parametrize("largest", [1.0, 0.5])
def test_mask_coded_0_and_1_is_refused(largest):
    with pytest.raises(InputError, match=r"^a: .* looks coded 0/1: set label_codes to \[1\]"):
        gray_mask(torch.tensor([[[0.0, largest]], [[0.0, 255.0]]]), "a")


@pytest.mark.parametrize("colors", [1, 3])
def test_alpha_is_not_taken_for_a_mask(colors):
    label = torch.cat([torch.zeros(colors, 2, 2), torch.full((1, 2, 2), 255.0)])
    with pytest.raises(InputError, match=r"found a last channel of 255 throughout \(transparency\?\)"):
        gray_mask(label, "a")


def test_codes_become_one_map_per_foreground_class():
    label = MetaTensor([[[0.0, 80.0, 160.0, 255.0]]], affine=torch.diag(torch.tensor([2.0, 3, 1, 1])))
    maps = foreground_maps(label, {255: 0, 0: 1, 80: 2, 160: 3}, 4, "a")
    assert maps.tolist() == [[[1, 0, 0, 0]], [[0, 1, 0, 0]], [[0, 0, 1, 0]]]
    assert maps.dtype == torch.float32
    assert torch.equal(maps.affine, label.affine)


def test_gray_becomes_one_map():
    label = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    torch.testing.assert_close(foreground_maps(label, "gray", 2, "a"), torch.tensor([[[0.0, 0.2, 1.0]]]))
    assert foreground_maps(label % 2, None, 2, "a").tolist() == [[[0, 1, 1]]]
    with pytest.raises(InputError, match="expected 2 classes for 'gray'"):
        foreground_maps(label, "gray", 3, "a")
    with pytest.raises(InputError, match="^a: expected label values 0, 255, found also 51"):
        foreground_maps(label, [255], 2, "a")
