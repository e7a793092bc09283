"""DMNet's bundle from volumes to masks, on generated KiTS19 and BraTS folders."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from common.data.kits_phantom import write_brats18, write_kits19
from common.data.phantoms import write_msd
from common.data.picture_phantoms import write_image_mask_folder
from common.errors import InputError
from tests.helpers.workflows import (
    REPOSITORY,
    TINY_DMNET,
    network_overlays,
    network_shapes,
    places,
    report,
    run,
    run_cut_off_and_resumed,
    segment,
    tensorboard_tags,
)

pytestmark = pytest.mark.bundle
BUNDLE = "dmnet_kits"
CONFIGS = REPOSITORY / "bundles" / BUNDLE / "configs"


@pytest.fixture(scope="module")
def kits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kits")
    write_kits19(folder, num_cases=10, num_unlabeled=0)
    return folder


@pytest.fixture(scope="module")
def trained(kits, tmp_path_factory) -> Path:
    """A folder with the outputs of two epochs of training."""
    folder = tmp_path_factory.mktemp("run")
    run(BUNDLE, ["train"], dataset_dir=str(kits), **places(folder), **{**TINY_DMNET, "max_epochs": 2})
    return folder


def test_training_divides_patients_and_saves_both_players(trained):
    split = json.loads((trained / "output" / "split.json").read_text())
    assert [len(split[role]) for role in ("training", "validation", "test")] == [7, 1, 2]
    state = torch.load(trained / "output" / "checkpoints" / "state.pt", weights_only=True)
    partners = {"discriminator", "discriminator_optimizer", "discriminator_lr_scheduler"}
    assert set(state["partners"]) == partners
    assert (trained / "output" / "slice_index.json").is_file()
    assert {file.name for file in (trained / "models").iterdir()} == {
        "model.pt",
        "model_best.pt",
        "as_trained.json",
    }


def test_collapse_could_be_seen_in_tensorboard(trained):
    tags = tensorboard_tags(trained)
    wanted = {"foreground_unlabeled", "agreement_loss", "discriminator_loss_unlabeled", "val_miou"}
    assert wanted | {"segmentation_loss", "generator_loss_labeled", "foreground_labeled"} <= tags


def test_evaluation_pools_the_pixels_of_the_test_slices(trained, kits):
    run(BUNDLE, ["train", "evaluate"], dataset_dir=str(kits), **places(trained), **TINY_DMNET)
    found = report(trained)
    assert found["classes"] == ["background", "kidney or tumor"]
    assert found["cases"] == 2
    values = found["columns"]["IoU"]["values"]
    assert found["columns"]["IoU"]["mean"] == pytest.approx(sum(values) / 2)
    assert len(list((trained / "output" / "pictures").glob("*.png"))) == 2


def test_a_volume_is_segmented_slice_by_slice_on_its_own_grid(trained, kits, tmp_path):
    source = kits / "data" / "case_00000" / "imaging.nii.gz"
    segment(BUNDLE, trained, source, tmp_path)
    scan, mask = nib.load(source), nib.load(tmp_path / "imaging_seg.nii.gz")
    assert mask.shape == scan.shape
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-4)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1}


def test_equal_runs_and_a_resumed_run_end_with_the_same_bytes(trained, kits, tmp_path):
    settings = {"dataset_dir": str(kits), **places(tmp_path), **TINY_DMNET, "max_epochs": 2}
    run_cut_off_and_resumed(BUNDLE, **settings)
    for file in ("models/model.pt", "output/checkpoints/state.pt"):
        assert (tmp_path / file).read_bytes() == (trained / file).read_bytes()


@pytest.mark.parametrize("overlay", network_overlays(BUNDLE))
def test_overlays_build_the_same_network_for_training_and_inference(overlay):
    assert network_shapes(BUNDLE, "train", overlay) == network_shapes(BUNDLE, "inference", overlay)


@pytest.mark.parametrize(
    "overlay",
    ["ablate_supervised", "ablate_supervised_adv", "ablate_no_sharpen", "ablate_no_adv_no_sharpen"]
    + ["ablate_cross_entropy", "ablate_separate", "labels_100"],
)
def test_rows_of_the_tables_train(kits, tmp_path, overlay):
    settings = {"dataset_dir": str(kits), **places(tmp_path), **TINY_DMNET, "iterations_per_epoch": 1}
    if overlay.startswith("labels"):
        del settings["label_budget"]
    run(BUNDLE, ["train", overlay], **settings)
    assert (tmp_path / "models" / "model.pt").is_file()


def test_self_training_learns_from_its_own_predictions_and_resumes(kits, tmp_path):
    settings = {"dataset_dir": str(kits), **TINY_DMNET, "iterations_per_epoch": 1, "step::round_epochs": 1}
    overlays = ["train", "ablate_semifcn"]
    run(BUNDLE, overlays, **places(tmp_path / "whole"), **{**settings, "max_epochs": 3})
    run(BUNDLE, overlays, **places(tmp_path / "cut"), **{**settings, "max_epochs": 2})
    run(BUNDLE, overlays, **places(tmp_path / "cut"), **{**settings, "max_epochs": 3}, resume=True)
    state = torch.load(tmp_path / "whole/output/checkpoints/state.pt", weights_only=True)
    assert set(state["partners"]) == {"teacher"}
    teacher, network = state["partners"]["teacher"], state["network"]
    assert any(not torch.equal(teacher[name], network[name]) for name in network)
    assert set(teacher) == set(network)


def test_brain_tumors_in_three_sequences(tmp_path):
    write_brats18(tmp_path / "data", num_hgg=6, num_lgg=4)
    settings = {"dataset_dir": str(tmp_path / "data"), **places(tmp_path), **TINY_DMNET}
    run(BUNDLE, ["train", "data_brats18"], **settings)
    as_trained = json.loads((tmp_path / "models" / "as_trained.json").read_text())
    assert as_trained["in_channels"] == 3
    assert as_trained["zscore_by_volume"] is True


def test_own_volumes_and_pictures(tmp_path):
    write_msd(tmp_path / "msd", num_cases=10, num_classes=3, size=(24, 24, 8))
    settings = {"dataset_dir": str(tmp_path / "msd"), **places(tmp_path), **TINY_DMNET}
    run(BUNDLE, ["train", "data_msd"], **settings)
    write_image_mask_folder(tmp_path / "pictures", num_cases=10, size=(32, 32))
    settings = {"dataset_dir": str(tmp_path / "pictures"), **places(tmp_path / "2d"), **TINY_DMNET}
    run(BUNDLE, ["train", "data_images"], **settings)
    out = {"spatial_dims": 2, "output_ext": ".png", "output_codes": [255]}
    segment(BUNDLE, tmp_path / "2d", tmp_path / "pictures" / "images", tmp_path / "out", **out)
    masks = list((tmp_path / "out").glob("*_seg.png"))
    assert len(masks) == 10
    assert Image.open(masks[0]).size == (32, 32)


def test_what_cannot_be_learned_from_is_refused(kits, tmp_path):
    settings = {"dataset_dir": str(kits), **places(tmp_path), **TINY_DMNET}
    with pytest.raises(InputError, match="expected at least 2 slices"):
        run(BUNDLE, ["train"], **{**settings, "label_budget": 0.1})
    with pytest.raises(InputError, match="expected slices to train on without label, found none"):
        run(BUNDLE, ["train"], num_unlabeled=0, **settings)
    with pytest.raises(InputError, match="(?i)batch"):
        run(BUNDLE, ["train"], **{**settings, "batch_size": 1})
    assert not (tmp_path / "models").exists()


def test_a_patient_in_two_roles_is_refused_by_name(kits, tmp_path):
    settings = {"dataset_dir": str(kits), **places(tmp_path), **TINY_DMNET}
    run(BUNDLE, ["train"], **{**settings, "iterations_per_epoch": 1})
    file = tmp_path / "output" / "split.json"
    split = json.loads(file.read_text())
    split["test"].append(split["training"][0])
    file.write_text(json.dumps(split))
    with pytest.raises(InputError, match=split["training"][0]):
        run(BUNDLE, ["train"], **settings)
