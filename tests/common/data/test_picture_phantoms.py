"""Generated pictures lie and look as those of the real data sets."""

import numpy as np
from PIL import Image

from common.data import image_layouts, layouts
from common.data import picture_phantoms as pictures


def read_picture(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_isic_layout_with_decoys_and_varied_sizes(tmp_path):
    pictures.write_isic2017(tmp_path, num_training=3, num_validation=1, num_test=1)
    cases = layouts.isic2017(str(tmp_path))
    assert [case["split"] for case in cases] == ["training"] * 3 + ["validation", "test"]
    images, masks = ([read_picture(case[key]) for case in cases] for key in ("image", "label"))
    assert {image.shape[2:] for image in images} == {(3,)}
    assert [image.shape[:2] for image in images] == [mask.shape for mask in masks]
    assert len({mask.shape for mask in masks}) == 5
    assert all(set(np.unique(mask)) == {0, 255} for mask in masks)
    assert len(list(tmp_path.rglob("*_superpixels.png"))) == 5


def test_picture_folder_has_patients_of_two_pictures(tmp_path):
    pictures.write_image_mask_folder(tmp_path, num_cases=4)
    cases = layouts.image_mask_folder(str(tmp_path), group_pattern=r"^(\d+)_")
    assert [case["group"] for case in cases] == ["101", "101", "102", "102"]
    assert read_picture(cases[0]["image"]).ndim == 2
    assert set(np.unique(read_picture(cases[0]["label"]))) == {0, 255}


def values(case, key="label"):
    return set(np.unique(read_picture(case[key])))


def test_polyps_lie_as_pranet_packs_them(tmp_path):
    pictures.write_polyp_pranet(tmp_path, num_training=4, num_test=1)
    cases = image_layouts.polyp_pranet(tmp_path)
    assert [case["id"] for case in cases] == ["1", "26", "cju1", "cju3", "CVC-300_1", "Kvasir_1"]
    assert [case["group"] for case in cases[:3]] == ["frames 1-25", "frames 26-50", "cju1"]
    assert all(read_picture(case["image"]).shape[2:] == (3,) and values(case) == {0, 255} for case in cases)
    assert read_picture(cases[-1]["image"]).shape == (96, 120, 3)


def test_clips_lie_as_pns_net_packs_them(tmp_path):
    pictures.write_polyp_video(tmp_path, frames=3)
    cases = image_layouts.polyp_video_pnsnet(tmp_path)
    groups = [case["group"] for case in cases]
    assert {group: groups.count(group) for group in groups} == {
        "CVC-ColonDB-300_1": 3,
        "CVC-ColonDB-300_2": 3,
        "CVC-ColonDB-300-TV_3": 3,
        "CVC-ColonDB-300-TV_5": 4,
    }
    assert all(values(case) == {0, 255} for case in cases)


def test_slices_of_lungs_lie_as_inf_net_packs_them(tmp_path):
    pictures.write_covid19(tmp_path, num_training=2, num_test=1)
    cases = image_layouts.covid19_ct(tmp_path)
    assert [case["split"] for case in cases] == ["training", "training", "test"]
    assert all(read_picture(case["image"]).ndim == 2 and values(case) == {0, 255} for case in cases)


def test_breast_lesions_may_have_two_masks_or_an_empty_one(tmp_path):
    pictures.write_busi(tmp_path, num_benign=2, num_malignant=1)
    cases = image_layouts.busi(tmp_path, include_normal=True)
    assert [case["id"] for case in cases] == ["benign (1)", "benign (2)", "malignant (1)", "normal (1)"]
    first, second = (read_picture(path) for path in cases[0]["label"])
    assert first.any()
    assert second.any()
    assert not (first & second).any()
    assert values(cases[3]) == {0}


def test_layers_of_the_retina_have_the_codes_of_goals(tmp_path):
    pictures.write_goals(tmp_path, num_cases=2)
    cases = image_layouts.goals(tmp_path)
    assert [case["id"] for case in cases] == ["0001", "0002"]
    assert all(values(case) == set(image_layouts.GOALS_CLASS_OF_CODE) for case in cases)
