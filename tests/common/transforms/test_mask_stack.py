"""Labels from folders of masks and from files, and values whose meaning depends on the domain."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, Orientationd, Resized

from common.data.chaos import CHAOS_LIVER_CODES, CHAOS_ORGAN_CODES, chaos
from common.data.chaos_phantom import write_chaos
from common.errors import InputError
from common.transforms.mask_stack import DomainLabelCodesd, LoadMaskStackd
from tests.common.data.test_mask_stack import AXIAL, OBLIQUE, REVERSED, write_case, write_mask

LOAD = Compose([LoadImaged("image", ensure_channel_first=True), LoadMaskStackd("label")])
LIVER = DomainLabelCodesd("label", CHAOS_LIVER_CODES, num_classes=2)


def loaded_case(folder, **changes):
    masks, series = write_case(folder, **changes)
    return LOAD({"image": str(series), "label": str(masks)})


@pytest.mark.parametrize("is_descending", [False, True])
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE, REVERSED])
def test_label_lies_on_the_grid_of_its_image(tmp_path, orientation, is_descending):
    data = loaded_case(tmp_path, orientation=orientation, is_descending=is_descending)
    assert data["label"].dtype == torch.uint8
    assert data["label"].shape == (1, 6, 4, 5)
    assert torch.equal(data["label"].affine, data["image"].affine)
    turned = Orientationd(["image", "label"], axcodes="RAS", labels=None)(data)
    assert torch.equal(turned["label"].as_tensor() + 100, turned["image"].as_tensor())


def test_file_order_does_not_matter_once_turned_to_ras(tmp_path):
    """The lowest slice comes first: the first file of an ascending series, the last of a descending one."""
    to_ras = Orientationd(["image", "label"], axcodes="RAS", labels=None)
    lowest = {
        is_descending: to_ras(loaded_case(tmp_path / str(is_descending), is_descending=is_descending))[
            "label"
        ][0, ..., 0]
        for is_descending in (False, True)
    }
    assert (int(lowest[False].min()), int(lowest[False].max())) == (0, 23)
    assert (int(lowest[True].min()), int(lowest[True].max())) == (96, 119)


def test_file_labels_are_read_as_usual_and_compared_in_size(tmp_path):
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    for name, shape in (("image", (4, 5, 6)), ("label", (4, 5, 6)), ("small", (4, 5, 5))):
        volume = np.arange(np.prod(shape)).reshape(shape).astype(np.int16)
        nib.save(nib.Nifti1Image(volume, affine), tmp_path / f"{name}.nii.gz")
    paths = {"image": str(tmp_path / "image.nii.gz"), "label": str(tmp_path / "label.nii.gz")}
    data = LOAD(paths)
    assert torch.equal(data["label"].as_tensor(), data["image"].as_tensor())
    with pytest.raises(RuntimeError) as error:
        LOAD(paths | {"label": str(tmp_path / "small.nii.gz")})
    assert isinstance(error.value.__cause__, InputError)
    assert "small.nii.gz: expected the shape (1, 4, 5, 6) of its image" in str(error.value.__cause__)


def test_masks_need_a_series_that_is_loaded_and_not_turned(tmp_path):
    data = loaded_case(tmp_path)
    masks = str(tmp_path / "masks")
    load = LoadMaskStackd("label")
    with pytest.raises(ValueError, match="expected an image that is loaded before its label, got str"):
        load({"image": "a.nii", "label": masks})
    turned = Orientationd("image", axcodes="RAS", labels=None)(data)["image"]
    with pytest.raises(ValueError, match="got an image that was turned or resampled"):
        load({"image": turned, "label": masks})
    image = MetaTensor(data["image"].as_tensor(), meta={"filename_or_obj": "a.nii"})
    with pytest.raises(InputError, match=r"masks: a folder of masks is expected .* found the image a\.nii"):
        load({"image": image, "label": masks})


def test_liver_of_both_modalities_is_one_class(tmp_path):
    write_chaos(tmp_path, num_ct=1, num_mr=1, size=32, ct_slices=6, mr_slices=6)
    shapes = []
    for case in chaos(str(tmp_path)):
        raw = LOAD(case)
        gray = raw["label"].as_tensor().clone()
        label = LIVER(raw)["label"]
        shapes.append(tuple(label.shape))
        assert label.dtype == torch.uint8
        assert label.affine.equal(raw["image"].affine)
        assert torch.equal(label.as_tensor() == 1, gray > 0 if case["domain"] == "CT" else gray == 63)
    assert shapes == [(1, 32, 32, 6)] * 2
    organs = DomainLabelCodesd("label", CHAOS_ORGAN_CODES, 5)(LOAD(case))["label"]
    assert organs.unique().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("domain", "values"), [("MR", [0, 0, 1, 1, 0, 0]), ("CT", [0, 1, 1, 1, 1, 1])])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_ranges_by_hand(domain, values, dtype):
    label = torch.tensor([0, 126, 56, 70, 252, 200]).to(dtype).reshape(1, 1, 1, 6)
    assert LIVER({"label": label, "domain": domain})["label"].flatten().tolist() == values


@pytest.mark.parametrize("value", [1, 55, 71, 110, 240])
def test_values_without_meaning_name_their_masks(tmp_path, value):
    masks, series = write_case(tmp_path)
    for index in range(5):
        write_mask(masks, f"mask_{index:03d}.png", np.full((4, 6), value if index == 3 else 63))
    data = LOAD({"image": str(series), "label": str(masks), "domain": "MR"})
    with pytest.raises(InputError, match="1 problem") as error:
        LIVER(data)
    assert str(error.value).endswith(f"mask_003.png: found also {value}")
    assert LIVER(data | {"domain": "CT"})["label"].min() == 1


def test_values_without_meaning_in_a_tensor():
    with pytest.raises(InputError, match=r"label: expected label values .*found also 7 in 1 voxel"):
        LIVER({"label": torch.tensor([[[[0, 7]]]], dtype=torch.uint8), "domain": "MR"})


def test_scan_without_liver_is_background(tmp_path):
    masks, series = write_case(tmp_path)
    for path in masks.iterdir():
        write_mask(masks, path.name, np.zeros((4, 6)))
    data = LOAD({"image": str(series), "label": str(masks), "domain": "CT"})
    assert LIVER(data)["label"].unique().tolist() == [0]


@pytest.mark.parametrize(
    ("codes", "expected"), [([63], [0, 1]), ({0: 0, 63: 1}, [0, 1]), ({"0": 1, "63": 0}, [1, 0])]
)
def test_shared_codes_need_no_domain(codes, expected):
    label = torch.tensor([[[[0, 63]]]], dtype=torch.uint8)
    assert DomainLabelCodesd("label", codes, 2)({"label": label})["label"].flatten().tolist() == expected


def test_domains_without_codes():
    label = torch.zeros(1, 2, 2, 2)
    for data, found in (({"domain": "PET"}, "'PET'"), ({}, "None")):
        with pytest.raises(InputError, match=f"x: expected domain to be one of .*CT, MR, found {found}"):
            LIVER({"label": label, "id": "x", **data})
    with pytest.raises(InputError, match="label_codes: expected the classes 0 to 2"):
        DomainLabelCodesd("label", CHAOS_LIVER_CODES, 3)


def test_labels_pass_through_the_transforms_that_follow(tmp_path):
    data = loaded_case(tmp_path) | {"domain": "CT"}
    follow = Compose(
        [
            LIVER,
            Orientationd(["image", "label"], axcodes="RAS", labels=None),
            Resized(["image", "label"], spatial_size=(12, 8, 5), mode=["area", "nearest"]),
        ]
    )
    label = follow(data)["label"]
    assert label.shape == (1, 12, 8, 5)
    assert label.unique().tolist() == [0, 1]
