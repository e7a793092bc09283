import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    AsDiscreted,
    ClassesToIndicesd,
    Compose,
    LoadImaged,
    Orientationd,
    RandCropByLabelClassesd,
    Resized,
    Spacingd,
    SpatialPadd,
)

from common.errors import InputError
from common.transforms.label_codes import MapLabelCodesd, RestoreLabelCodesd

CODES = [500, [420, 421]]


def test_restoring_is_the_reverse_of_mapping():
    values = torch.tensor([[[0, 500], [420, 421]]], dtype=torch.int16)
    mapped = MapLabelCodesd("label", CODES, 3)({"label": MetaTensor(values), "id": "a"})
    assert mapped["label"].tolist() == [[[0, 1], [2, 2]]]
    assert mapped["id"] == "a"
    restored = RestoreLabelCodesd("label", CODES)({"label": mapped["label"].float()})
    assert restored["label"].tolist() == [[[0, 500], [420, 420]]]
    assert isinstance(restored["label"], MetaTensor)


def test_table_in_which_0_is_a_class():
    codes = {"255": 0, "0": 1, "80": 2}
    mapped = MapLabelCodesd("label", codes, 3)({"label": torch.tensor([[[0, 80], [255, 0]]])})
    assert mapped["label"].tolist() == [[[1, 2], [0, 1]]]
    assert RestoreLabelCodesd("label", codes)(mapped)["label"].tolist() == [[[0, 80], [255, 0]]]
    with pytest.raises(InputError, match="expected the classes 0 to 3"):
        MapLabelCodesd("label", codes, 4)


def test_message_names_the_file_the_found_and_the_allowed(tmp_path):
    path = tmp_path / "case.nii.gz"
    nib.save(nib.Nifti1Image(np.array([0, 500, 7, 7], np.int16).reshape(1, 2, 2), np.eye(4)), path)
    load = LoadImaged("label", ensure_channel_first=True)
    with pytest.raises(
        InputError, match=f"^{path}: expected label values 0, 420, 421, 500, found also 7 in 2"
    ):
        MapLabelCodesd("label", CODES, 3)(load({"label": path}))


def test_absent_keys():
    assert MapLabelCodesd("label", None, 3, allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError):
        MapLabelCodesd("label", None, 3)({})


def test_uint8_labels_pass_through_the_training_chain():
    label = torch.zeros(1, 8, 9, 5)
    label[:, 2:6, 3:6, 1:4] = 500
    affine = torch.diag(torch.tensor([-2.0, -2.0, 3.0, 1.0], dtype=torch.float64))
    chain = Compose(
        [
            MapLabelCodesd("label", CODES, 3),
            Orientationd("label", axcodes="RAS", labels=None),
            Spacingd("label", pixdim=(1.5, 1.5, 1.5), mode="nearest"),
            SpatialPadd("label", spatial_size=(16, 16, 16), mode="edge"),
            ClassesToIndicesd("label", num_classes=3),
            RandCropByLabelClassesd(
                "label",
                label_key="label",
                indices_key="label_cls_indices",
                spatial_size=(8, 8, 8),
                num_classes=3,
                num_samples=1,
                warn=False,
            ),
            AsDiscreted("label", to_onehot=3),
        ]
    )
    onehot = chain({"label": MetaTensor(label, affine=affine)})[0]["label"]
    assert onehot.shape == (3, 8, 8, 8)
    assert torch.equal(onehot.sum(dim=0), torch.ones(8, 8, 8))
    assert onehot[1].any()


def test_uint8_labels_are_padded_resized_and_encoded_without_spacing():
    label = MetaTensor(torch.tensor([[[0, 255], [255, 0]]]))
    chain = Compose(
        [
            MapLabelCodesd("label", [255], 2),
            Resized("label", spatial_size=(4, 4), mode="nearest"),
            SpatialPadd("label", spatial_size=(6, 6), mode="edge"),
            AsDiscreted("label", to_onehot=2),
        ]
    )
    assert chain({"label": label})["label"][1].sum() == 18


def test_spatial_padding_takes_uint8_directly():
    label = MetaTensor(torch.ones(1, 2, 2, 2, dtype=torch.uint8))
    assert SpatialPadd("label", spatial_size=(4, 4, 4), mode="edge")({"label": label})["label"].sum() == 64
