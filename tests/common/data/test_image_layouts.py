from collections import Counter

import numpy as np
import pytest
import torch
from monai.transforms import LoadImaged
from PIL import Image

from common.data.image_layouts import (
    GOALS_CLASS_OF_CODE,
    busi,
    covid19_ct,
    goals,
    polyp_pranet,
    polyp_video_pnsnet,
)
from common.data.label_images import class_labels
from common.data.splits import seeded_split
from common.errors import InputError

LAYOUTS = [polyp_pranet, polyp_video_pnsnet, covid19_ct, busi, goals]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def pairs(folder, images, masks, *stems, image_suffix=".png"):
    touch(folder, *(f"{images}/{stem}{image_suffix}" for stem in stems))
    touch(folder, *(f"{masks}/{stem}.png" for stem in stems))


def column(cases, key):
    return [case[key] for case in cases]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_and_empty_folders_are_input_errors(tmp_path, layout):
    with pytest.raises(InputError, match="expected a folder, found nothing"):
        layout(tmp_path / "absent")
    with pytest.raises(InputError, match=str(tmp_path)):
        layout(tmp_path)


@pytest.mark.parametrize(("images", "masks"), [("images", "masks"), ("image", "mask"), ("image", "masks")])
def test_polyp_roles_and_test_sets_come_from_the_folders(tmp_path, images, masks):
    pairs(tmp_path / "TrainDataset", images, masks, "2", "cju1")
    pairs(tmp_path / "TestDataset" / "Kvasir", images, masks, "cju2")
    pairs(tmp_path / "TestDataset" / "ETIS-LaribPolypDB", images, masks, "2")
    touch(tmp_path / "TestDataset", ".DS_Store")
    cases = polyp_pranet(tmp_path)
    assert column(cases, "id") == ["2", "cju1", "ETIS-LaribPolypDB_2", "Kvasir_cju2"]
    assert column(cases, "split") == ["training", "training", "test", "test"]
    assert column(cases, "dataset") == ["TrainDataset", "TrainDataset", "ETIS-LaribPolypDB", "Kvasir"]
    assert cases[2]["image"] == str(tmp_path / "TestDataset/ETIS-LaribPolypDB" / images / "2.png")
    assert cases[2]["label"] == str(tmp_path / "TestDataset/ETIS-LaribPolypDB" / masks / "2.png")


def test_polyp_training_part_alone_has_no_roles_and_may_be_named_directly(tmp_path):
    pairs(tmp_path / "TrainDataset", "images", "masks", "a", "b", image_suffix=".jpg")
    cases = polyp_pranet(tmp_path)
    assert cases == polyp_pranet(tmp_path / "TrainDataset")
    assert "split" not in cases[0]


def test_polyp_test_sets_alone_are_all_test(tmp_path):
    pairs(tmp_path / "TestDataset" / "CVC-300", "images", "masks", "150")
    assert column(polyp_pranet(tmp_path), "split") == ["test"]


def test_consecutive_frames_are_one_group(tmp_path):
    names = ["clinicdb_1", "clinicdb_25", "clinicdb_26", "612", "kvasir_train_1", "kvasir_train_2"]
    pairs(tmp_path, "images", "masks", *names)
    group = {case["id"]: case["group"] for case in polyp_pranet(tmp_path)}
    assert group["clinicdb_1"] == group["clinicdb_25"] == "frames 1-25"
    assert group["clinicdb_26"] == "frames 26-50"
    assert group["612"] == "frames 601-625"
    assert group["kvasir_train_1"] == "kvasir_train_1" != group["kvasir_train_2"]
    stratum = {case["id"]: case["stratum"] for case in polyp_pranet(tmp_path)}
    assert {name for name in names if stratum[name] == "CVC-ClinicDB"} == set(names[:4])
    assert {stratum[name] for name in names[4:]} == {"other"}
    single = polyp_pranet(tmp_path, frame_pattern=None)
    assert {(case["group"], case["stratum"]) for case in single} == {(name, "other") for name in names}
    blocks = polyp_pranet(tmp_path, frame_pattern=r"train_(\d+)$", frames_per_block=2)
    assert len({case["group"] for case in blocks}) == 5


@pytest.mark.parametrize("pattern", ["(", "train", r"kvasir_(\w+)", r"kvasir(\d)?"])
def test_frame_pattern_without_a_number_is_refused(tmp_path, pattern):
    pairs(tmp_path, "images", "masks", "kvasir_train_1")
    with pytest.raises(InputError, match="frame_pattern: expected a regular expression"):
        polyp_pranet(tmp_path, frame_pattern=pattern)


def test_blocks_need_a_frame(tmp_path):
    with pytest.raises(InputError, match="frames_per_block: expected at least 1, found 0"):
        polyp_pranet(tmp_path, frames_per_block=0)


def test_polyp_problems_name_the_folder(tmp_path):
    pairs(tmp_path / "TrainDataset", "images", "masks", "a")
    touch(tmp_path / "TrainDataset", "images/b.png")
    with pytest.raises(InputError, match=r"images/b\.png: no label found"):
        polyp_pranet(tmp_path)
    (tmp_path / "TrainDataset/images/b.png").unlink()
    (tmp_path / "TestDataset/Kvasir").mkdir(parents=True)
    with pytest.raises(InputError, match="Kvasir: expected one of the folders images and image, found neit"):
        polyp_pranet(tmp_path)
    (tmp_path / "TrainDataset/mask").mkdir()
    with pytest.raises(InputError, match="expected one of the folders masks and mask, found masks and mask"):
        polyp_pranet(tmp_path)


def test_id_of_a_test_image_must_not_be_one_of_training(tmp_path):
    pairs(tmp_path / "TrainDataset", "images", "masks", "Kvasir_1")
    pairs(tmp_path / "TestDataset/Kvasir", "images", "masks", "1")
    with pytest.raises(InputError, match="one role only"):
        polyp_pranet(tmp_path)


def make_videos(folder):
    train = folder / "VPS-TrainSet/CVC-ColonDB-300/Train"
    pairs(train / "10", "Frame", "GT", "1", image_suffix=".jpg")
    pairs(train / "2", "Frame", "GT", "10", "9", image_suffix=".jpg")
    test = folder / "VPS-TestSet/CVC-ClinicDB-612-Test"
    pairs(test, "Frame/0", "GT/0", "8", "9", "10", "11", image_suffix=".jpg")


def test_video_frames_are_grouped_by_clip_in_order(tmp_path):
    make_videos(tmp_path)
    cases = polyp_video_pnsnet(tmp_path)
    assert column(cases, "id")[:3] == ["CVC-ColonDB-300_2_9", "CVC-ColonDB-300_2_10", "CVC-ColonDB-300_10_1"]
    assert column(cases, "group")[1:4] == [
        "CVC-ColonDB-300_2",
        "CVC-ColonDB-300_10",
        "CVC-ClinicDB-612-Test_0",
    ]
    assert column(cases, "split") == ["training"] * 3 + ["test"] * 4
    assert {case["dataset"] for case in cases} == {"CVC-ColonDB-300", "CVC-ClinicDB-612-Test"}
    assert cases[3]["label"] == str(tmp_path / "VPS-TestSet/CVC-ClinicDB-612-Test/GT/0/8.png")


def test_first_and_last_frame_of_test_clips_can_be_left_out(tmp_path):
    make_videos(tmp_path)
    ids = column(polyp_video_pnsnet(tmp_path, drop_clip_ends=True), "id")
    assert ids[3:] == ["CVC-ClinicDB-612-Test_0_9", "CVC-ClinicDB-612-Test_0_10"]
    pairs(tmp_path / "VPS-TestSet/CVC-ClinicDB-612-Test", "Frame/1", "GT/1", "1", "2")
    with pytest.raises(InputError, match="expected at least 3 frames, found 2"):
        polyp_video_pnsnet(tmp_path, drop_clip_ends=True)


def test_clip_without_masks_is_refused(tmp_path):
    make_videos(tmp_path)
    touch(tmp_path, "VPS-TestSet/CVC-ClinicDB-612-Test/Frame/6/1.jpg")
    with pytest.raises(InputError, match=r"GT/6: expected a folder"):
        polyp_video_pnsnet(tmp_path)


@pytest.mark.parametrize("above", ["", "Dataset/"])
def test_covid_slices_are_found_at_any_depth(tmp_path, above):
    pairs(tmp_path / f"{above}TrainingSet/a/b", "Imgs", "GT", "1", image_suffix=".jpg")
    pairs(tmp_path / f"{above}TestingSet", "Imgs", "GT", "1")
    cases = covid19_ct(tmp_path)
    assert [(case["id"], case["split"]) for case in cases] == [
        ("training_1", "training"),
        ("test_1", "test"),
    ]
    assert cases[0]["label"] == str(tmp_path / f"{above}TrainingSet/a/b/GT/1.png")


def test_of_several_covid_folders_one_must_be_chosen(tmp_path):
    pairs(tmp_path / "TrainingSet/Doctor", "Imgs", "GT", "1")
    pairs(tmp_path / "TrainingSet/Pseudo", "Imgs", "GT", "1", "2")
    with pytest.raises(InputError, match="found TrainingSet/Doctor/Imgs, TrainingSet/Pseudo/Imgs"):
        covid19_ct(tmp_path)
    chosen = covid19_ct(tmp_path, training_dir="TrainingSet/Pseudo")
    assert column(chosen, "id") == ["training_1", "training_2"]


def make_busi(folder):
    touch(folder, "benign/benign (10).png", "benign/benign (10)_mask.png")
    touch(folder, "benign/benign (9).png", *(f"benign/benign (9)_mask{n}.png" for n in ("_1", "", "_2")))
    touch(folder, "malignant/malignant (1).png", "malignant/malignant (1)_mask.png")
    touch(folder, "normal/normal (1).png", "normal/normal (1)_mask.png")


@pytest.mark.parametrize("above", ["", "Dataset_BUSI_with_GT"])
def test_busi_lists_all_masks_of_an_image_and_leaves_out_normals(tmp_path, above):
    make_busi(tmp_path / above)
    cases = busi(tmp_path)
    assert column(cases, "id") == ["benign (9)", "benign (10)", "malignant (1)"]
    assert column(cases, "dataset") == ["benign", "benign", "malignant"]
    benign = tmp_path / above / "benign"
    assert cases[0]["label"] == [str(benign / f"benign (9)_mask{n}.png") for n in ("", "_1", "_2")]
    assert cases[1]["label"] == str(benign / "benign (10)_mask.png")
    with_normal = column(busi(tmp_path, include_normal=True), "dataset")
    assert with_normal == ["benign", "benign", "malignant", "normal"]


def test_busi_mask_without_image_is_refused(tmp_path):
    make_busi(tmp_path)
    touch(tmp_path, "malignant/malignant (2)_mask_1.png", "benign/benign (3).png")
    with pytest.raises(InputError, match=r"benign \(3\)\.png: no label"):
        busi(tmp_path)
    (tmp_path / "benign/benign (3).png").unlink()
    with pytest.raises(InputError, match=r"malignant \(2\)_mask_1\.png: no image"):
        busi(tmp_path)


def test_largest_value_of_stacked_masks_is_their_union(tmp_path):
    make_busi(tmp_path)
    masks = np.zeros((3, 4, 6), dtype=np.uint8)
    masks[0, 1, 2] = masks[1, 3, 5] = masks[2, 0, 0] = 255
    case = busi(tmp_path)[0]
    for mask, path in zip(masks, case["label"]):
        Image.fromarray(mask).save(path)
    label = LoadImaged(keys="label", ensure_channel_first=True)({"label": case["label"]})["label"]
    union = class_labels(label.amax(0, keepdim=True), {0: 0, 255: 1}, "label")
    # PIL pictures come with their axes swapped, as MONAI's reader does for images, too.
    assert np.argwhere(np.asarray(union[0])).tolist() == [[0, 0], [2, 1], [5, 3]]


@pytest.mark.parametrize("above", ["", "Train"])
def test_goals_pairs_by_number(tmp_path, above):
    pairs(tmp_path / above, "Image", "Layer_Masks", "0002", "0001")
    cases = goals(tmp_path)
    assert column(cases, "id") == ["0001", "0002"]
    assert cases[0]["label"] == str(tmp_path / above / "Layer_Masks/0001.png")


def test_goals_codes_are_background_and_three_layers():
    codes = np.array([[[255, 0, 80, 160]]], dtype=np.uint8)
    assert class_labels(torch.as_tensor(codes), GOALS_CLASS_OF_CODE, "m").flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.data
def test_real_polyp_images_split_by_blocks_of_frames(real_data, tmp_path):
    cases = polyp_pranet(real_data / "polyp")
    assert len(cases) == 1450
    frames = [case for case in cases if case["id"].startswith("clinicdb_")]
    assert len(frames) == 550
    assert len({case["group"] for case in frames}) == 25
    roles = seeded_split(cases, tmp_path / "split.json", num_folds=10)
    sides = {role: {(case["stratum"], case["group"]) for case in roles[role]} for role in roles}
    assert not sides["training"] & sides["validation"]
    # A tenth of 900 images, and the last 25 - 9 * 25 // 10 of 25 blocks.
    assert Counter(stratum for stratum, _ in sides["validation"]) == {"other": 90, "CVC-ClinicDB": 3}
