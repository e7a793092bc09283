import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from common.data import checks
from common.data.checks import check_cases
from common.data.layouts import image_mask_folder
from common.errors import InputError

SPACING = np.diag([0.5, 0.5, 2.0, 1.0])


def write(path, values, affine=SPACING):
    nib.save(nib.Nifti1Image(np.asarray(values), affine), path)


@pytest.fixture
def cases(tmp_path):
    """Three good cases with the codes 0, 500 and 420."""
    label = np.zeros((6, 5, 4), np.int16)
    label[2:4, 1:3, 1] = 500
    label[4, 4, 3] = 420
    for name in "abc":
        write(tmp_path / f"{name}.nii.gz", np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32))
        write(tmp_path / f"{name}_label.nii.gz", label)
    return [
        {
            "id": name,
            "image": str(tmp_path / f"{name}.nii.gz"),
            "label": str(tmp_path / f"{name}_label.nii.gz"),
        }
        for name in "abc"
    ]


def check(cases, **changes):
    check_cases(cases, **{"num_classes": 3, "label_codes": [500, [420, 421]]} | changes)


def only_problem(cases, **changes):
    """The one line reported; every other file must pass."""
    with pytest.raises(InputError, match=r"^data check: 1 problem") as error:
        check(cases, **changes)
    return str(error.value).splitlines()[1].removeprefix("  - ")


def test_good_cases_pass(cases):
    check(cases)


def test_absent_file(cases):
    os.remove(cases[1]["label"])
    assert only_problem(cases) == f"{cases[1]['label']}: no such file"


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_unreadable_file(cases, damage):
    path = cases[1]["image"]
    content = Path(path).read_bytes()
    Path(path).write_bytes({"truncated": content[:-100], "text": b"not an image", "empty": b""}[damage])
    assert only_problem(cases).startswith(f"{path}: expected a readable image, found ")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxel_that_is_not_finite(cases, value):
    image = np.zeros((6, 5, 4), np.float32)
    image[1, 1, 1] = value
    write(cases[2]["image"], image)
    assert only_problem(cases) == f"{cases[2]['image']}: expected finite values, found 1 NaN or Inf voxel(s)"


def test_wrong_channels(cases):
    write(cases[0]["image"], np.zeros((6, 5, 4, 2), np.float32))
    assert only_problem(cases) == f"{cases[0]['image']}: expected 1 channel(s), found 2"


def test_wrong_number_of_axes(cases):
    with pytest.raises(InputError, match="expected 2 spatial axes, found 3") as error:
        check(cases, spatial_dims=2)
    assert "3 problem(s)" in str(error.value)


def test_different_shape(cases):
    write(cases[0]["label"], np.zeros((6, 5, 3), np.int16))
    assert only_problem(cases).endswith("expected the shape (6, 5, 4) of its image, found (6, 5, 3)")


def test_different_affine_says_by_how_much(cases):
    moved = SPACING.copy()
    moved[2, 3] = 3
    write(cases[0]["label"], np.zeros((6, 5, 4), np.int16), moved)
    assert only_problem(cases).startswith(
        f"{cases[0]['label']}: expected the affine of its image, found a largest difference of 3, "
        "which moves a corner by 3 mm (allowed: 0.05 mm)"
    )


def test_scaled_affine_moves_the_far_corner():
    # (6 - 1) * 0.06 = 0.3 and (5 - 1) * 0.1 = 0.4: the hypotenuse is 0.5
    second = SPACING + np.diag([0.06, 0.1, 0, 0])
    assert checks._largest_offset_mm(SPACING, second, (6, 5, 4)) == pytest.approx(0.5)


def test_rounded_affine_passes(cases):
    write(cases[0]["label"], np.zeros((6, 5, 4), np.int16), SPACING + 1e-5)
    check(cases)


@pytest.mark.parametrize(("value", "shown"), [(7, "7"), (0.5, "0.5"), (np.nan, "nan")])
def test_label_values(cases, value, shown):
    label = np.zeros((6, 5, 4), np.float32)
    label[0, 0, :2] = value
    write(cases[1]["label"], label)
    assert only_problem(cases) == (
        f"{cases[1]['label']}: expected label values 0, 420, 421, 500, found also {shown} in 2 voxel(s)"
    )


def test_all_problems_of_all_files_are_reported(cases):
    os.remove(cases[0]["image"])
    write(cases[1]["image"], np.full((6, 5, 4), np.nan, np.float32))
    write(cases[2]["label"], np.full((6, 5, 3), 9, np.int16))
    with pytest.raises(InputError, match=r"4 problem\(s\)") as error:
        check(cases)
    for path in (cases[0]["image"], cases[1]["image"], cases[2]["label"]):
        assert path in str(error.value)


def test_pictures(tmp_path):
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.eye(4, 5) > 0).save(tmp_path / "mask.png")
    Image.fromarray(np.eye(5, 4) > 0).save(tmp_path / "turned.png")
    case = {"id": "a", "image": str(tmp_path / "a.png"), "label": str(tmp_path / "mask.png")}
    check_cases([case], num_classes=2, in_channels=3, spatial_dims=2)
    with pytest.raises(InputError, match="expected the shape"):
        check_cases([case | {"label": str(tmp_path / "turned.png")}], 2, in_channels=3, spatial_dims=2)


def test_receipt_spares_files_that_did_not_change(cases, tmp_path, monkeypatch):
    read = []
    read_image = checks.read_image
    monkeypatch.setattr(checks, "read_image", lambda path, _: (read.append(path), read_image(path))[1])
    receipt = tmp_path / "new" / "receipt.json"
    write(cases[1]["image"], np.full((6, 5, 4), np.nan, np.float32))
    for expected in (6, 2):  # at first all files, then only those of the bad case
        with pytest.raises(InputError, match="1 problem"):
            check(cases, receipt_file=receipt)
        assert len(read) == expected
        read.clear()
    write(cases[1]["image"], np.ones((6, 5, 4), np.float32))
    for expected in (2, 0):
        check(cases, receipt_file=receipt)
        assert len(read) == expected
        read.clear()
    os.utime(cases[0]["label"], ns=(1, 1))
    check(cases, receipt_file=receipt)
    assert sorted(read) == [cases[0]["image"], cases[0]["label"]]


def test_receipt_of_other_settings_or_damaged_is_not_trusted(cases, tmp_path):
    receipt = tmp_path / "receipt.json"
    check(cases, receipt_file=receipt)
    with pytest.raises(InputError, match="3 problem"):
        check(cases, receipt_file=receipt, num_classes=2, label_codes=[500])
    for text in ("{", "[]", json.dumps({"settings": {}})):
        receipt.write_text(text)
        check(cases, receipt_file=receipt)
        assert len(json.loads(receipt.read_text())["good"]) == 3


@pytest.mark.data
def test_real_slices_pass(real_data):
    check_cases(image_mask_folder(real_data / "chd_cardiac_ct_2d"), num_classes=8, spatial_dims=2)
