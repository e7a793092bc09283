"""SKCDF's bundle from folders to masks, on generated scans in the layouts of Synapse, AMOS and MSD."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from common.data.abdomen import SYNAPSE_CLASSES
from common.data.abdomen_phantom import write_amos, write_synapse
from common.data.phantoms import write_msd
from common.data.writers import write_nifti
from common.errors import InputError
from tests.helpers.workflows import (
    REPOSITORY,
    TINY_SKC,
    config_files,
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
BUNDLE = "skc_synapse"
SPLITS = REPOSITORY / "bundles" / BUNDLE / "splits"
ONE_STEP = {**TINY_SKC, "iterations_per_epoch": 1, "val_interval": 2, "check_data": False}


@pytest.fixture(scope="module")
def synapse(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synapse")
    write_synapse(folder, size=(24, 20, 16))
    return folder


@pytest.fixture(scope="module")
def trained(synapse, tmp_path_factory) -> Path:
    """A folder with the outputs of two epochs of training."""
    folder = tmp_path_factory.mktemp("run")
    run(BUNDLE, ["train"], dataset_dir=str(synapse), **places(folder), **{**TINY_SKC, "max_epochs": 2})
    return folder


def parsed(key: str, *overlays: str, **overrides):
    """One item of the merged training configuration."""
    parser = ConfigParser()
    parser.read_config(config_files(BUNDLE, "train", *overlays))
    parser.update({"bundle_root": str(REPOSITORY / "bundles" / BUNDLE), **overrides})
    return parser.get_parsed_content(key)


def test_training_keeps_the_published_split_and_what_it_needs_to_go_on(trained):
    split = json.loads((trained / "output" / "split.json").read_text())
    published = json.loads((SPLITS / "synapse_20.json").read_text())
    roles = ("labeled", "unlabeled", "validation", "test")
    assert {role: split[role] for role in roles} == {role: published[role] for role in roles}
    state = torch.load(trained / "output" / "checkpoints" / "state.pt", weights_only=True)
    assert set(state["partners"]) == {"collapse_watch"}
    files = {file.name for file in (trained / "models").iterdir()}
    assert files == {"model.pt", "model_best.pt", "as_trained.json"}


def test_pseudo_labels_of_every_class_are_in_tensorboard(trained):
    wanted = {f"pseudo_{name}" for name in ("background", *SYNAPSE_CLASSES)}
    wanted |= {"supervised_loss", "balanced_loss", "pseudo_loss", "pseudo_balanced_loss"}
    wanted |= {"unlabeled_weight", "foreground_unlabeled", "foreground_predicted", "val_mean_dice"}
    assert wanted <= tensorboard_tags(trained)


def test_evaluation_on_the_scans_own_grid_and_on_that_of_the_tables(trained, synapse):
    settings = {"dataset_dir": str(synapse), **places(trained), **TINY_SKC, "pictures": 0}
    run(BUNDLE, ["train", "evaluate"], **settings)
    native = report(trained)
    assert (native["grid"], native["cases"], native["classes"]) == ("native", 6, list(SYNAPSE_CLASSES))
    assert {"Dice", "ASSD [mm]", "MSSD [mm]"} < set(native["columns"])
    run(BUNDLE, ["train", "evaluate", "evaluate_resized"], **settings)
    resized = report(trained)
    assert (resized["grid"], resized["cases"]) == ("resized", 6)
    distances = resized["columns"]["ASD [voxel], one way"]["values"]
    # An organ that the network misses in all scans counts 128 voxels, and scores none of the Dice.
    lost = [index for index, value in enumerate(distances) if value == 128]
    assert lost
    assert all(resized["columns"]["Dice [%], tables' convention"]["values"][index] == 0 for index in lost)


def test_scans_stored_in_another_order_or_tilted_get_the_same_mask(trained, synapse, tmp_path):
    """The same voxels with the same neighbors, but other axes in the file and a table that is tilted."""
    scan = nib.load(synapse / "imagesTr" / "img0008.nii.gz")
    voxels = np.asarray(scan.dataobj)
    # From indices of the turned file to indices of the first one: its axes 2, 0, 1, all of them reversed.
    to_first = np.array([[0, -1, 0, 23], [0, 0, -1, 19], [-1, 0, 0, 15], [0, 0, 0, 1]])
    cosine, sine = np.cos(0.2), np.sin(0.2)
    tilt = np.array([[1, 0, 0, 0], [0, cosine, -sine, 5], [0, sine, cosine, -7], [0, 0, 0, 1]])
    turned = np.flip(voxels.transpose(2, 0, 1))
    write_nifti(turned, tilt @ scan.affine @ to_first, tmp_path / "scans" / "turned.nii.gz")
    write_nifti(voxels, scan.affine, tmp_path / "scans" / "first.nii.gz")
    shutil.copytree(trained / "models", tmp_path / "models")
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    weights["unlabeled_decoder.main_head.weight"] *= 1000  # after so short a training all is one class
    torch.save(weights, tmp_path / "models" / "model.pt")
    segment(BUNDLE, tmp_path, tmp_path / "scans", tmp_path / "masks")
    masks = {name: nib.load(tmp_path / "masks" / f"{name}_seg.nii.gz") for name in ("first", "turned")}
    for name, mask in masks.items():
        source = nib.load(tmp_path / "scans" / f"{name}.nii.gz")
        assert (mask.shape, mask.get_data_dtype()) == (source.shape, np.uint8)
        np.testing.assert_allclose(mask.affine, source.affine, atol=1e-4)
    first, turned = (np.asarray(masks[name].dataobj) for name in ("first", "turned"))
    assert 1 < len(np.unique(first)) <= 14
    np.testing.assert_array_equal(turned, np.flip(first.transpose(2, 0, 1)))


def test_equal_runs_and_a_resumed_run_end_with_the_same_bytes(trained, synapse, tmp_path):
    settings = {"dataset_dir": str(synapse), **places(tmp_path), **TINY_SKC, "max_epochs": 2}
    run_cut_off_and_resumed(BUNDLE, **settings)
    for file in ("models/model.pt", "output/checkpoints/state.pt"):
        assert (tmp_path / file).read_bytes() == (trained / file).read_bytes()


@pytest.mark.parametrize("overlay", network_overlays(BUNDLE))
def test_overlays_build_the_same_network_for_training_and_inference(overlay):
    assert network_shapes(BUNDLE, "train", overlay) == network_shapes(BUNDLE, "inference", overlay)


@pytest.mark.parametrize(
    ("overlay", "filters", "has"),
    [
        # Filters of each attention block, in order: 8 are local, 256 global (the grid has 4 x 8 x 8 voxels).
        ("ablate_no_attention", [], "labeled_decoder balanced_head is_cross"),
        ("ablate_local", [8], "labeled_decoder balanced_head is_cross"),
        ("ablate_global", [256], "labeled_decoder balanced_head is_cross"),
        ("ablate_global_local", [256, 8], "labeled_decoder balanced_head is_cross"),
        ("ablate_parallel", [8, 256], "labeled_decoder balanced_head is_cross is_parallel"),
        ("ablate_self", [8, 256], "labeled_decoder balanced_head"),
        ("ablate_no_balanced_head", [8, 256], "labeled_decoder is_cross"),
        ("ablate_one_decoder", [8, 256], "balanced_head is_cross"),
        ("ablate_vnet", [], "is_cross"),
        ("ablate_vnet_full", [], "is_cross"),
        ("ablate_no_pulls", [8, 256], "labeled_decoder balanced_head is_cross"),
    ],
)
def test_ablations_change_the_network_as_they_say(overlay, filters, has):
    with torch.device("meta"):
        network = parsed("network_def", overlay)
    assert [len(block.projection.weight) for block in network.attention] == filters
    found = {name for name in ("is_cross", "is_parallel") if getattr(network, name)}
    found |= {"labeled_decoder"} if network.labeled_decoder is not None else set()
    found |= {"balanced_head"} if network.unlabeled_decoder.balanced_head is not None else set()
    assert found == set(has.split())


@pytest.mark.parametrize(
    "overlays",
    [["ablate_vnet"], ["ablate_vnet_full"], ["ablate_one_decoder"], ["ablate_no_pulls"]]
    + [["ablate_no_balanced_head", "ablate_parallel"], ["ablate_self", "preset_laptop"]],
    ids=" ".join,
)
def test_rows_of_the_tables_train(synapse, tmp_path, overlays):
    run(BUNDLE, ["train", *overlays], dataset_dir=str(synapse), **places(tmp_path), **ONE_STEP)
    tags = tensorboard_tags(tmp_path)
    assert ("pseudo_loss" in tags) == (not overlays[0].startswith("ablate_vnet"))


@pytest.mark.parametrize(
    ("overlays", "batches", "labeled"),
    [([], 8, 4), (["ablate_vnet"], 8, 4), (["ablate_vnet_full"], 10, 20)]
    + [(["split_synapse_10"], 9, 2), (["split_synapse_40"], 6, 8)],
)
def test_an_epoch_is_a_pass_over_the_unlabeled_scans(synapse, tmp_path, overlays, batches, labeled):
    """As published: 9, 8 and 6 batches of two. A supervised V-Net learns from as many as SKCDF does."""
    settings = {"dataset_dir": str(synapse), "output_dir": str(tmp_path)}
    assert parsed("batches", *overlays, **settings) == batches
    assert len(parsed("streams", *overlays, **settings)["labeled"]) == labeled


def test_best_weights_can_be_chosen_by_the_central_crop(synapse, tmp_path):
    settings = {"dataset_dir": str(synapse), **places(tmp_path), **ONE_STEP, "pictures": 0}
    del settings["val_interval"]
    run(BUNDLE, ["train", "select_by_crop"], **settings)
    assert "val_selection_dice" in tensorboard_tags(tmp_path)
    assert (tmp_path / "models" / "model_best.pt").is_file()
    run(BUNDLE, ["train", "select_by_crop", "evaluate", "evaluate_resized"], **settings)
    assert report(tmp_path)["cases"] == 6


def test_amos_with_mr_scans_and_organs_that_no_labeled_scan_shows(tmp_path, caplog):
    """The labeled scans here end above the pelvis, as may be with 2 % of the labels."""
    write_amos(tmp_path / "data")
    roles = {"labeled": (6, 507), "unlabeled": (1, 4, 508), "validation": (5,), "test": (8, 544)}
    split = {role: [f"amos_{number:04d}" for number in numbers] for role, numbers in roles.items()}
    (tmp_path / "published.json").write_text(json.dumps(split))
    settings = {"dataset_dir": str(tmp_path / "data"), **places(tmp_path), **ONE_STEP, "check_data": True}
    settings["published_split"] = str(tmp_path / "published.json")
    with pytest.raises(InputError, match=r"none of class 14 \(bladder\), 15 \(prostate or uterus\)"):
        run(BUNDLE, ["train", "data_amos"], **settings)
    run(BUNDLE, ["train", "data_amos", "split_amos_2"], **settings)
    assert "no labeled scan shows class 14 (bladder)" in caplog.text
    assert "3 case(s) are MR: " in caplog.text
    as_trained = json.loads((tmp_path / "models" / "as_trained.json").read_text())
    assert (as_trained["num_classes"], len(as_trained["class_names"])) == (16, 15)
    segment(BUNDLE, tmp_path, tmp_path / "data" / "imagesVa" / "amos_0544.nii.gz", tmp_path / "masks")
    assert (tmp_path / "masks" / "amos_0544_seg.nii.gz").is_file()


@pytest.mark.parametrize(
    ("overlays", "name", "rate", "allow"),
    [((), "synapse_20", 0.3, False), (("split_synapse_10",), "synapse_10", 0.3, False)]
    + [(("split_synapse_40",), "synapse_40", 0.3, False), (("data_amos",), "amos_5", 0.1, False)]
    + [(("data_amos", f"split_amos_{part}"), f"amos_{part}", 0.1, part == 2) for part in (2, 10)],
)
def test_splits_come_with_the_settings_of_their_data(overlays, name, rate, allow):
    assert Path(parsed("published_split", *overlays)) == SPLITS / f"{name}.json"
    assert parsed("learning_rate", *overlays) == rate
    assert parsed("allow_missing", *overlays) == allow


def test_own_volumes_with_a_share_of_the_labels(tmp_path):
    write_msd(tmp_path / "data", num_cases=10, num_classes=3, size=(24, 24, 8))
    settings = {"dataset_dir": str(tmp_path / "data"), **places(tmp_path), **ONE_STEP}
    with pytest.raises(InputError, match="label_budget: expected a share that labels at least 1 of 7"):
        run(BUNDLE, ["train", "data_msd"], label_budget=0.01, **settings)
    run(BUNDLE, ["train", "data_msd"], label_budget=0.3, **settings)
    segment(BUNDLE, tmp_path, tmp_path / "data" / "imagesTs", tmp_path / "masks", output_codes=[7, 9])
    (mask,) = (tmp_path / "masks").glob("*.nii.gz")
    assert nib.load(mask).shape == (24, 24, 8)
    assert set(np.unique(np.asarray(nib.load(mask).dataobj))) <= {0, 7, 9}


def test_settings_that_do_not_fit_are_refused(synapse, tmp_path):
    settings = {"dataset_dir": str(synapse), **places(tmp_path), **ONE_STEP}
    with pytest.raises(InputError, match=r"roi_size: expected multiples of 32, .* found \[40, 40, 40\]"):
        run(BUNDLE, ["train"], **{**settings, "roi_size": [40, 40, 40]})
    with pytest.raises(InputError, match="expected a network without labeled decoder"):
        run(BUNDLE, ["train"], supervision="labeled", **settings)


def test_scans_smaller_than_the_patch_are_padded(synapse, tmp_path):
    run(BUNDLE, ["train"], dataset_dir=str(synapse), **places(tmp_path), **{**ONE_STEP, "image_size": None})
    source = synapse / "imagesTr" / "img0008.nii.gz"
    segment(BUNDLE, tmp_path, source, tmp_path / "masks")
    assert nib.load(tmp_path / "masks" / "img0008_seg.nii.gz").shape == (24, 20, 16)
