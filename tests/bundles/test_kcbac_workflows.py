"""kCBAC-Net's bundle from data folder to segmented scan, on generated cases in the data sets' own layouts."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from common.data.phantoms import write_mmwhs, write_msd
from common.data.picture_phantoms import write_image_mask_folder, write_isic2017
from common.errors import InputError
from common.predictor import load_predictor
from tests.helpers.workflows import (
    TINY_2D,
    TINY_3D,
    config_files,
    places,
    run,
    run_cut_off_and_resumed,
    segment,
)

pytestmark = pytest.mark.bundle
BUNDLE = "kcbac_mmwhs"


@pytest.fixture(scope="module")
def mmwhs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mmwhs")
    write_mmwhs(folder, num_cases=5, num_test=1)
    return folder


@pytest.fixture(scope="module")
def trained(mmwhs, tmp_path_factory) -> Path:
    """A folder with the outputs of two epochs of training."""
    folder = tmp_path_factory.mktemp("run")
    run(BUNDLE, ["train"], dataset_dir=str(mmwhs), **places(folder), **{**TINY_3D, "max_epochs": 2})
    return folder


@pytest.fixture(scope="module")
def evaluated(trained, mmwhs) -> Path:
    run(BUNDLE, ["train", "evaluate"], dataset_dir=str(mmwhs), **places(trained), **TINY_3D)
    return trained / "output"


def test_training_leaves_weights_state_split_and_curves(trained):
    files = {path.name for path in (trained / "models").iterdir()}
    assert files == {"model.pt", "model_best.pt", "as_trained.json"}
    assert (trained / "output" / "checkpoints" / "state.pt").is_file()
    split = json.loads((trained / "output" / "split.json").read_text())
    assert (len(split["training"]), len(split["validation"])) == (4, 1)
    assert list((trained / "output").glob("events.out.tfevents*"))


def test_evaluation_reports_every_structure(evaluated):
    report = (evaluated / "report.md").read_text()
    for name in ("LV", "RV", "LA", "RA", "Myo", "AO", "PA", "mean", "Dice", "Jaccard"):
        assert name in report
    assert "native" in report
    assert json.loads((evaluated / "report.json").read_text())
    assert list((evaluated / "pictures").glob("*.png"))
    assert list((evaluated / "metrics").glob("*_raw.csv"))


def test_a_mask_has_the_geometry_of_its_scan_and_equals_segmenting_in_memory(trained, mmwhs, tmp_path):
    source = mmwhs / "ct_test" / "ct_test_2001_image.nii.gz"
    segment(BUNDLE, trained, source, tmp_path)
    scan, mask = nib.load(source), nib.load(tmp_path / "ct_test_2001_image_seg.nii.gz")
    assert mask.shape == scan.shape
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-4)
    labels = np.asarray(mask.dataobj)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= set(range(8))
    predict = load_predictor(
        f"bundles/{BUNDLE}", [trained / "models" / "as_trained.json"], model_dir=str(trained / "models")
    )
    in_memory = predict(scan.get_fdata(), scan.affine)
    assert (in_memory == labels).mean() > 0.9999


def test_constant_memory_writes_the_same_mask(trained, mmwhs, tmp_path):
    source, masks = mmwhs / "ct_test" / "ct_test_2001_image.nii.gz", []
    for constant in (False, True):
        segment(BUNDLE, trained, source, tmp_path / str(constant), constant_memory=constant, pictures=0)
        (file,) = (tmp_path / str(constant)).glob("*_seg.nii.gz")
        masks.append(np.asarray(nib.load(file).dataobj))
    assert (masks[0] == masks[1]).mean() > 0.99999
    assert len(np.unique(masks[0])) > 2


def test_a_folder_is_segmented_file_by_file_in_the_data_sets_codes(trained, mmwhs, tmp_path):
    codes = [500, 600, 420, 550, 205, 820, 850]
    segment(BUNDLE, trained, mmwhs / "ct_test", tmp_path, output_codes=codes, pictures=0)
    mask = nib.load(tmp_path / "ct_test_2001_image_seg.nii.gz")
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, *codes}
    assert not (tmp_path / "pictures").exists()


def test_a_scan_smaller_than_the_patch_is_segmented(trained, tmp_path):
    affine = np.diag([-1.0, 1.0, 3.0, 1.0])
    nib.save(nib.Nifti1Image(np.zeros((9, 7, 3), np.int16), affine), tmp_path / "small.nii.gz")
    segment(BUNDLE, trained, tmp_path / "small.nii.gz", tmp_path / "out")
    assert nib.load(tmp_path / "out" / "small_seg.nii.gz").shape == (9, 7, 3)


def test_nan_voxels_stop_inference_with_the_name_of_the_file(trained, tmp_path):
    voxels = np.zeros((8, 8, 8), np.float32)
    voxels[1, 2, 3] = np.nan
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "broken.nii.gz")
    with pytest.raises(InputError, match="broken.nii.gz.*NaN"):
        segment(BUNDLE, trained, tmp_path / "broken.nii.gz", tmp_path / "out")


def test_the_checkpoint_of_another_network_is_refused(trained, mmwhs, tmp_path):
    with pytest.raises(InputError, match="model.pt.*another network"):
        segment(BUNDLE, trained, mmwhs / "ct_test", tmp_path, **{"network_def::k": 1})


def test_bad_data_stops_training_before_anything_is_written(mmwhs, tmp_path):
    overrides = {**TINY_3D, "label_codes": [500, 600, 420, 550, 205, 820, 7]}
    with pytest.raises(InputError, match="(?s)5 problem.*ct_train_1001_label.*850"):
        run(BUNDLE, ["train"], dataset_dir=str(mmwhs), **places(tmp_path), **overrides)
    assert not (tmp_path / "models").exists()


def test_a_patch_that_batch_norm_cannot_take_is_refused(mmwhs, tmp_path):
    overrides = {**TINY_3D, "roi_size": [8, 8, 8], "batch_size": 1}
    with pytest.raises(InputError, match="(?i)batch"):
        run(BUNDLE, ["train"], dataset_dir=str(mmwhs), **places(tmp_path), **overrides)


def test_a_mistyped_setting_is_refused_with_the_nearest_known(mmwhs, tmp_path):
    with pytest.raises(InputError, match="'epoch'.*max_epochs"):
        run(BUNDLE, ["train"], dataset_dir=str(mmwhs), epoch=1, **places(tmp_path), **TINY_3D)


def test_equal_runs_and_a_resumed_run_end_with_the_same_bytes(trained, mmwhs, tmp_path):
    settings = {"dataset_dir": str(mmwhs), **places(tmp_path), **TINY_3D, "max_epochs": 2}
    run_cut_off_and_resumed(BUNDLE, **settings)
    resumed = (tmp_path / "models" / "model.pt").read_bytes()
    assert resumed == (trained / "models" / "model.pt").read_bytes()


NETWORK_OVERLAYS = [
    "ablate_unet",
    "ablate_cb_without_cbc",
    "ablate_cb",
    "ablate_kcb",
    "ablate_3cb",
    "ablate_4cb",
    "ablate_kcbac",
    "network_basicunet",
    "preset_gpu",
    "preset_laptop",
    "preset_paper2d",
    "preset_paper3d",
]


@pytest.mark.parametrize("overlay", NETWORK_OVERLAYS)
def test_network_overlays_build_and_fit_training_and_inference(overlay):
    dims = {"spatial_dims": 2} if overlay == "preset_paper2d" else {}
    names = []
    for base in ("train", "inference"):
        parser = ConfigParser()
        parser.read_config(config_files(BUNDLE, base, overlay))
        parser.update(dims)
        with torch.device("meta"):
            network = parser.get_parsed_content("network_def")
        names.append({name for name, _ in network.named_modules() if name.endswith("adapters")})
    assert names[0] == names[1]


def test_msd_overlay_trains_on_any_number_of_classes(tmp_path):
    write_msd(tmp_path / "data", num_cases=5, num_classes=4)
    settings = {"dataset_dir": str(tmp_path / "data"), **places(tmp_path), **TINY_3D}
    workflow = run(BUNDLE, ["train", "data_msd"], **settings)
    assert workflow.parser.get_parsed_content("num_classes") == 4
    as_trained = json.loads((tmp_path / "models" / "as_trained.json").read_text())
    assert as_trained["num_classes"] == 4
    assert as_trained["intensity_range"] is None


def test_isic_overlays_train_evaluate_and_segment_at_original_size(tmp_path):
    write_isic2017(tmp_path / "data")
    settings = {"dataset_dir": str(tmp_path / "data"), **places(tmp_path), **TINY_2D, "image_size": [64, 64]}
    run(BUNDLE, ["train", "data_isic"], **settings)
    run(BUNDLE, ["train", "data_isic", "evaluate", "evaluate_isic"], held_out_role="test", **settings)
    assert "lesion" in (tmp_path / "output" / "report.md").read_text()
    source = next((tmp_path / "data" / "ISIC-2017_Test_v2_Data").glob("*[0-9].jpg"))
    as_trained = str(tmp_path / "models" / "as_trained.json")
    out = {"output_dir": str(tmp_path / "out"), "model_dir": str(tmp_path / "models")}
    run(BUNDLE, ["inference", as_trained, "infer_isic"], "infer", dataset_dir=str(source), **out)
    mask = Image.open(tmp_path / "out" / f"{source.stem}_seg.png")
    assert mask.size == Image.open(source).size
    assert set(np.unique(np.asarray(mask))) <= {0, 255}


def test_image_folder_overlay_trains_evaluates_and_segments(tmp_path):
    write_image_mask_folder(tmp_path / "data", num_cases=5)
    settings = {"dataset_dir": str(tmp_path / "data"), **places(tmp_path), **TINY_2D}
    run(BUNDLE, ["train", "data_images"], **settings)
    run(BUNDLE, ["train", "data_images", "evaluate"], **settings)
    as_trained = str(tmp_path / "models" / "as_trained.json")
    out = {"output_dir": str(tmp_path / "out"), "model_dir": str(tmp_path / "models"), "output_ext": ".png"}
    run(BUNDLE, ["inference", as_trained], "infer", dataset_dir=str(tmp_path / "data" / "images"), **out)
    assert len(list((tmp_path / "out").glob("*_seg.png"))) == 5
