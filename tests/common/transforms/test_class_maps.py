import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, LoadImaged, Resized
from PIL import Image

from common.data.picture_reader import PictureReader
from common.engines.input_errors import find_input_error
from common.errors import InputError
from common.transforms.class_maps import ClassProbabilitiesd, ForegroundMapsd, LabelsFromProbabilitiesd

AFFINE = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0], dtype=torch.float64))


def pixels(*values):
    """(C, 1, N) with metadata, from one list per channel."""
    return MetaTensor(torch.tensor(values).unsqueeze(1), affine=AFFINE)


def test_label_pictures_become_maps(tmp_path):
    gray = np.array([[0, 51], [255, 0]], np.uint8)
    Image.fromarray(gray).save(tmp_path / "a.png")
    Image.fromarray(gray.T > 51).save(tmp_path / "b.png")
    chain = Compose(
        [
            LoadImaged("label", reader=PictureReader(1), ensure_channel_first=True),
            ForegroundMapsd("label", "gray", 2),
        ]
    )
    union = chain({"label": [tmp_path / "a.png", tmp_path / "b.png"]})["label"]
    # columns come first; 51 / 255 = 0.2 is covered by the 1 of the second mask
    assert union.tolist() == [[[0, 1], [1, 0]]]
    torch.testing.assert_close(chain({"label": tmp_path / "a.png"})["label"][0, 1, 0].item(), 51 / 255)
    assert union.meta["filename_or_obj"] == str(tmp_path / "a.png")


def test_refused_label_is_named_from_within_a_chain(tmp_path):
    Image.fromarray(np.eye(3, dtype=np.uint8)).save(tmp_path / "a.png")
    chain = Compose(
        [
            LoadImaged("label", reader=PictureReader(1), ensure_channel_first=True),
            ForegroundMapsd("label", "gray", 2),
        ]
    )
    with pytest.raises(RuntimeError) as error:
        chain({"label": tmp_path / "a.png"})
    assert str(find_input_error(error.value)).startswith(
        f"{tmp_path / 'a.png'}: expected gray values 0 to 255"
    )


def test_codes_are_checked_at_once():
    with pytest.raises(InputError, match="expected 2 entries"):
        ForegroundMapsd("label", [1], 3)
    with pytest.raises(InputError, match="for 'gray'"):
        ForegroundMapsd("label", "gray", 3)


def test_absent_keys():
    assert ForegroundMapsd("label", "gray", 2, allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError):
        ClassProbabilitiesd("pred", "sigmoid")({})


def test_probabilities_by_hand():
    # sigmoid(ln 3) = 3 / (1 + 3); softmax of (0, ln 3, ln 4) = (1, 3, 4) / 8
    logits = pixels([0.0], [np.log(3)], [np.log(4)])
    sigmoid = ClassProbabilitiesd("pred", "sigmoid")({"pred": logits})["pred"]
    softmax = ClassProbabilitiesd("pred", "softmax")({"pred": logits})["pred"]
    torch.testing.assert_close(sigmoid.as_tensor().flatten(), torch.tensor([0.5, 0.75, 0.8]))
    torch.testing.assert_close(softmax.as_tensor().flatten(), torch.tensor([3 / 8, 4 / 8]))
    assert ClassProbabilitiesd("pred", "softmax")({"pred": logits.half()})["pred"].dtype == torch.float32
    assert torch.equal(softmax.affine, AFFINE)


def test_softmax_of_one_channel_is_refused():
    with pytest.raises(ValueError, match="pred: expected at least 2 channels"):
        ClassProbabilitiesd("pred", "softmax")({"pred": torch.zeros(1, 2, 2)})


@pytest.mark.parametrize("transform", [ClassProbabilitiesd, LabelsFromProbabilitiesd])
def test_other_modes_are_refused(transform):
    with pytest.raises(InputError, match="mode: expected sigmoid or softmax, found 'argmax'"):
        transform("pred", "argmax")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        # sigmoid: 0.5 does not exceed 0.5; of 0.9 and 0.9 the first; 0.6 beats 0.55
        # softmax: what is left for background is 0, 0.5 (a tie with 0.5), -0.8, -0.15 and 0.2
        ("sigmoid", [0, 0, 1, 2, 0]),
        ("softmax", [1, 0, 1, 2, 1]),
    ],
)
def test_labels_by_hand(mode, expected):
    probabilities = pixels([0.5, 0.0, 0.9, 0.55, 0.4], [0.5, 0.5, 0.9, 0.6, 0.4])
    labels = LabelsFromProbabilitiesd("pred", mode)({"pred": probabilities})["pred"]
    assert labels.tolist() == [[expected]]
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.affine, AFFINE)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_labels_agree_with_numpy(threshold):
    probabilities = np.random.default_rng(0).random((3, 6, 7), dtype=np.float32)
    labels = LabelsFromProbabilitiesd("pred", "sigmoid", threshold)({"pred": torch.as_tensor(probabilities)})
    expected = np.where(
        probabilities.max(axis=0) > np.float32(threshold), probabilities.argmax(axis=0) + 1, 0
    )
    np.testing.assert_array_equal(labels["pred"].numpy()[0], expected)


def test_softmax_labels_are_those_of_the_logits():
    logits = torch.as_tensor(np.random.default_rng(0).normal(size=(4, 6, 7)))
    chain = Compose([ClassProbabilitiesd("pred", "softmax"), LabelsFromProbabilitiesd("pred", "softmax")])
    assert torch.equal(chain({"pred": logits})["pred"][0].long(), logits.argmax(dim=0))


@pytest.mark.parametrize("mode", ["sigmoid", "softmax"])
def test_maps_travel_back_to_the_grid_of_the_picture(tmp_path, mode):
    Image.fromarray(np.zeros((6, 10), np.uint8)).save(tmp_path / "a.png")
    before = Compose(
        [
            LoadImaged("image", reader=PictureReader(1), ensure_channel_first=True),
            Resized("image", spatial_size=(20, 12), mode="bilinear"),
        ]
    )
    image = before({"image": tmp_path / "a.png"})["image"]
    assert image.shape == (1, 20, 12)
    logits = torch.full((2 if mode == "softmax" else 1, *image.shape[1:]), -4.0)
    logits[-1, 10:] = 4  # the right half
    prediction = MetaTensor(logits, meta=image.meta, applied_operations=image.applied_operations)
    probabilities = ClassProbabilitiesd("pred", mode)({"image": image, "pred": prediction})
    assert probabilities["pred"].applied_operations == image.applied_operations
    labels = LabelsFromProbabilitiesd("pred", mode)(probabilities)["pred"]
    assert labels.applied_operations == image.applied_operations
    after = Compose(
        [
            Invertd("pred", transform=before, orig_keys="image", nearest_interp=False),
            LabelsFromProbabilitiesd("pred", mode),
        ]
    )
    returned = after(probabilities)["pred"]
    assert returned.shape == (1, 10, 6)
    assert returned[0, :, 0].tolist() == [0] * 5 + [1] * 5
    assert returned.meta["filename_or_obj"] == str(tmp_path / "a.png")
