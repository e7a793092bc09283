"""M2SNet's overlays: other data sets, several classes, the rows of the ablation tables."""

import json

import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image

from common.data import picture_phantoms as pictures
from tests.helpers.workflows import (
    REPOSITORY,
    TINY_M2SNET,
    config_files,
    network_overlays,
    network_shapes,
    places,
    report,
    run,
    segment,
)

pytestmark = pytest.mark.bundle
BUNDLE = "m2snet_polyp"
CONFIGS = REPOSITORY / "bundles" / BUNDLE / "configs"


def test_clips_count_once_however_long(tmp_path):
    pictures.write_polyp_video(tmp_path / "data", frames=4)
    settings = {"dataset_dir": str(tmp_path / "data"), **places(tmp_path), **TINY_M2SNET}
    run(BUNDLE, ["train", "data_polyp_video"], **settings)
    names = ["train", "data_polyp_video", "evaluate", "evaluate_video"]
    run(BUNDLE, names, drop_clip_ends=True, **settings)
    found = report(tmp_path)
    assert (found["cases"], found["groups"]) == (5, 2)


@pytest.mark.parametrize(
    ("write", "overlays", "classes"),
    [
        (pictures.write_covid19, ["data_covid19", "evaluate_covid"], ["infection"]),
        (pictures.write_busi, ["data_busi", "evaluate_lesion"], ["lesion"]),
        (pictures.write_goals, ["data_goals", "evaluate_goals"], ["RNFL", "GCIPL", "choroid"]),
        (pictures.write_image_mask_folder, ["data_images", "evaluate_lesion"], ["object"]),
    ],
)
def test_other_data_sets_train_and_evaluate(tmp_path, write, overlays, classes):
    write(tmp_path / "data")
    folds = {} if "data_covid19" in overlays else {"num_folds": 2}
    settings = {"dataset_dir": str(tmp_path / "data"), **places(tmp_path), **TINY_M2SNET, **folds}
    run(BUNDLE, ["train", overlays[0]], **settings)
    run(BUNDLE, ["train", overlays[0], "evaluate", *overlays[1:]], **settings)
    assert report(tmp_path)["classes"] == classes


@pytest.mark.parametrize("mode", ["sigmoid", "softmax"])
def test_layers_are_trained_and_written_in_the_codes_of_the_data_set(tmp_path, mode):
    pictures.write_goals(tmp_path / "data")
    settings = {"dataset_dir": str(tmp_path / "data"), **places(tmp_path), **TINY_M2SNET, "num_folds": 2}
    workflow = run(BUNDLE, ["train", "data_goals"], mode=mode, **settings)
    assert workflow.parser.get_parsed_content("out_channels") == (3 if mode == "sigmoid" else 4)
    codes = {"255": 0, "0": 1, "80": 2, "160": 3}
    images = tmp_path / "data" / "Train" / "Image"
    segment(BUNDLE, tmp_path, images, tmp_path / "out", output_codes=codes)
    mask = np.asarray(Image.open(tmp_path / "out" / "0001_seg.png"))
    assert mask.shape == (64, 80)
    assert set(np.unique(mask)) <= {0, 80, 160, 255}


@pytest.mark.parametrize("overlay", network_overlays(BUNDLE))
def test_overlays_build_the_same_network_for_training_and_inference(overlay):
    assert network_shapes(BUNDLE, "train", overlay) == network_shapes(BUNDLE, "inference", overlay)


def test_ablations_differ_from_the_full_method_as_the_table_says():
    def parsed(overlay, key):
        parser = ConfigParser()
        parser.read_config(config_files(BUNDLE, "train", overlay))
        return parser.get_parsed_content(key)

    rows = {
        "ablate_baseline": ("single", 1, 0),
        "ablate_su2": ("single", 2, 0),
        "ablate_su3": ("single", 3, 0),
        "ablate_su4": ("single", 4, 0),
        "ablate_su5": ("single", 5, 0),
        "ablate_msnet": ("single", 5, 0.1),
        "ablate_addition": ("single", 5, 0.1),
        "ablate_aspp": ("aspp", 5, 0.1),
        "ablate_dense_aspp": ("dense_aspp", 5, 0.1),
    }
    keys = ("network_def::unit", "network_def::num_orders", "feature_weight")
    assert {row: tuple(parsed(row, key) for key in keys) for row in rows} == rows
    assert parsed("ablate_addition", "network_def::operation") == "add"


def test_decathlon_lists_of_pictures_take_any_number_of_classes(tmp_path):
    pictures.write_goals(tmp_path / "goals")
    data = tmp_path / "data"
    pairs = []
    for image in sorted((tmp_path / "goals" / "Train" / "Image").glob("*.png")):
        codes = np.asarray(Image.open(image.parents[1] / "Layer_Masks" / image.name))
        classes = np.select([codes == 0, codes == 80, codes == 160], [1, 2, 3], 0).astype(np.uint8)
        for folder, picture in (("imagesTr", Image.open(image)), ("labelsTr", Image.fromarray(classes))):
            (data / folder).mkdir(parents=True, exist_ok=True)
            picture.save(data / folder / image.name)
        pairs.append({"image": f"imagesTr/{image.name}", "label": f"labelsTr/{image.name}"})
    labels = {"0": "background", "1": "RNFL", "2": "GCIPL", "3": "choroid"}
    (data / "dataset.json").write_text(json.dumps({"labels": labels, "training": pairs}))
    settings = {"dataset_dir": str(data), **places(tmp_path), **TINY_M2SNET}
    run(BUNDLE, ["train", "data_msd"], mode="softmax", **settings)
    run(BUNDLE, ["train", "data_msd", "evaluate", "evaluate_lesion"], mode="softmax", **settings)
    assert report(tmp_path)["classes"] == ["RNFL", "GCIPL", "choroid"]
