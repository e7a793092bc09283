import json

import pytest

from common.data.layouts import image_mask_folder, isic2017, mmwhs_ct, msd, msd_class_names
from common.errors import InputError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_description(folder, **content):
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.mark.parametrize("inside", ["", "ct_train/"])
def test_mmwhs_pairs_by_number(tmp_path, inside):
    for number in (1002, 1001):
        touch(tmp_path, *(f"{inside}ct_train_{number}_{kind}.nii.gz" for kind in ("image", "label")))
    touch(tmp_path, f"{inside}._ct_train_1001_image.nii.gz", "ct_test/ct_test_2001_image.nii.gz")
    cases = mmwhs_ct(tmp_path)
    assert [case["id"] for case in cases] == ["ct_train_1001", "ct_train_1002"]
    assert cases[0]["image"] == str(tmp_path / inside / "ct_train_1001_image.nii.gz")
    assert cases[0]["label"] == str(tmp_path / inside / "ct_train_1001_label.nii.gz")


def test_every_missing_partner_is_listed(tmp_path):
    touch(tmp_path, "ct_train_1001_image.nii.gz", "ct_train_1002_image.nii.gz", "ct_train_1003_label.nii.gz")
    with pytest.raises(InputError, match="3 problem") as error:
        mmwhs_ct(tmp_path)
    assert "ct_train_1001_image.nii.gz: no label" in str(error.value)
    assert "ct_train_1002_image.nii.gz: no label" in str(error.value)
    assert "ct_train_1003_label.nii.gz: no image" in str(error.value)


@pytest.mark.parametrize("layout", [mmwhs_ct, isic2017, image_mask_folder, msd, msd_class_names])
def test_missing_and_empty_folders_are_input_errors(tmp_path, layout):
    with pytest.raises(InputError, match="expected a folder, found nothing"):
        layout(tmp_path / "absent")
    with pytest.raises(InputError, match=str(tmp_path)):
        layout(tmp_path)


def isic_part(folder, part, *numbers):
    touch(folder, *(f"ISIC-2017_{part}_Data/ISIC_{n}.jpg" for n in numbers))
    touch(folder, *(f"ISIC-2017_{part}_Part1_GroundTruth/ISIC_{n}_segmentation.png" for n in numbers))


def test_isic_roles_come_from_the_folders(tmp_path):
    isic_part(tmp_path, "Training", "0000002", "0000001")
    isic_part(tmp_path, "Test_v2", "0000009")
    touch(tmp_path / "ISIC-2017_Training_Data", "ISIC_0000001_superpixels.png", "metadata.csv")
    assert [(case["id"], case["split"]) for case in isic2017(tmp_path)] == [
        ("ISIC_0000001", "training"),
        ("ISIC_0000002", "training"),
        ("ISIC_0000009", "test"),
    ]


def test_isic_part_without_masks_is_refused(tmp_path):
    isic_part(tmp_path, "Training", "0000001")
    touch(tmp_path, "ISIC-2017_Validation_Data/ISIC_0000002.jpg")
    with pytest.raises(InputError, match="ISIC-2017_Validation_Part1_GroundTruth"):
        isic2017(tmp_path)


def test_isic_needs_training(tmp_path):
    isic_part(tmp_path, "Test_v2", "0000009")
    with pytest.raises(InputError, match="ISIC-2017_Training_Data"):
        isic2017(tmp_path)


def test_isic_id_in_two_roles_is_refused(tmp_path):
    isic_part(tmp_path, "Training", "0000001")
    isic_part(tmp_path, "Validation", "0000001")
    with pytest.raises(InputError, match="one role only"):
        isic2017(tmp_path)


@pytest.mark.parametrize("masks", ["masks", "labels"])
@pytest.mark.parametrize("suffix", ["", "_mask", "_segmentation", "_label"])
def test_folder_pairs_across_suffixes(tmp_path, masks, suffix):
    touch(tmp_path, "images/a.1.jpg", "images/b.nii.gz", "images/notes.txt")
    touch(tmp_path, f"{masks}/a.1{suffix}.png", f"{masks}/b{suffix}.nii.gz")
    cases = image_mask_folder(tmp_path)
    assert [case["id"] for case in cases] == ["a.1", "b"]
    assert cases[1]["label"] == str(tmp_path / masks / f"b{suffix}.nii.gz")


def test_image_whose_own_name_ends_in_mask_is_paired(tmp_path):
    touch(tmp_path, "images/gas_mask.png", "masks/gas_mask.png")
    assert image_mask_folder(tmp_path)[0]["id"] == "gas_mask"


def test_group_is_read_from_the_id(tmp_path):
    touch(
        tmp_path,
        *(f"{folder}/{name}.png" for folder in ("images", "masks") for name in ("7_1", "7_2", "8_1")),
    )
    assert [case["group"] for case in image_mask_folder(tmp_path, group_pattern=r"^(\d+)_")] == [
        "7",
        "7",
        "8",
    ]
    assert [case["group"] for case in image_mask_folder(tmp_path, group_pattern=r"^\d")] == ["7", "7", "8"]
    with pytest.raises(InputError, match="3 problem"):
        image_mask_folder(tmp_path, group_pattern="patient")
    with pytest.raises(InputError, match="expected a regular expression"):
        image_mask_folder(tmp_path, group_pattern="(")


def test_two_images_of_one_name_are_refused(tmp_path):
    touch(tmp_path, "images/a.png", "images/a.jpg", "masks/a.png")
    with pytest.raises(InputError, match="same id as a.jpg"):
        image_mask_folder(tmp_path)


def test_two_mask_folders_are_refused(tmp_path):
    touch(tmp_path, "images/a.png", "masks/a.png", "labels/a.png")
    with pytest.raises(InputError, match="found masks and labels"):
        image_mask_folder(tmp_path)


def test_msd_reads_the_training_list(tmp_path):
    pairs = [(f"./imagesTr/{n}.nii.gz", f"./labelsTr/{n}.nii.gz") for n in ("b", "a", "._a")]
    touch(tmp_path, *(path for pair in pairs[:2] for path in pair))
    write_description(
        tmp_path,
        training=[{"image": image, "label": label} for image, label in pairs],
        labels={"0": "background", "2": "spleen", "1": "liver"},
    )
    cases = msd(tmp_path)
    assert [case["id"] for case in cases] == ["a", "b"]
    assert cases[0]["label"] == str(tmp_path / "labelsTr/a.nii.gz")
    assert msd_class_names(tmp_path) == ["liver", "spleen"]


def test_msd_lists_all_absent_files(tmp_path):
    write_description(tmp_path, training=[{"image": "a.nii.gz", "label": "b.nii.gz"}])
    with pytest.raises(InputError, match="2 problem"):
        msd(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"training": [{"image": "a"}], "labels": {"0": "background", "3": "liver"}}'],
)
def test_malformed_description_is_an_input_error(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    for layout in (msd, msd_class_names):
        with pytest.raises(InputError, match=r"dataset\.json"):
            layout(tmp_path)


@pytest.mark.data
def test_real_data_sets_load(real_data):
    assert len(msd(real_data / "hippocampus_mr")) == 208
    assert msd_class_names(real_data / "hippocampus_mr") == ["anterior", "posterior"]
    assert len(msd(real_data / "chaos_mr_t2spir")) == 14
    slices = image_mask_folder(real_data / "chd_cardiac_ct_2d", group_pattern=r"^(\d+)_")
    assert len({case["group"] for case in slices}) == 5
