import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.data.label_images import class_labels
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
