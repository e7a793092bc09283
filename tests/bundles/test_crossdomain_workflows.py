"""The cross-domain bundle from CHAOS folders to segmented scans, on generated DICOM series."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from common.data.chaos_phantom import write_chaos, write_covid19_ct_20
from common.data.phantoms import write_msd
from common.errors import InputError
from tests.helpers.dicom_seg import NO_HIGHDICOM, seg_on_grid
from tests.helpers.workflows import (
    REPOSITORY,
    TINY_CROSSDOMAIN,
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
BUNDLE = "crossdomain_liver"
CONFIGS = REPOSITORY / "bundles" / BUNDLE / "configs"


@pytest.fixture(scope="module")
def chaos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chaos")
    write_chaos(folder, num_ct=3, num_mr=3, size=32, ct_slices=8, mr_slices=6)
    return folder


@pytest.fixture(scope="module")
def trained(chaos, tmp_path_factory) -> Path:
    """A folder with the outputs of two epochs of training."""
    folder = tmp_path_factory.mktemp("run")
    settings = {"dataset_dir": str(chaos), **places(folder), **TINY_CROSSDOMAIN, "max_epochs": 2}
    run(BUNDLE, ["train"], **settings)
    return folder


def test_training_holds_out_patients_of_both_modalities(trained):
    files = {path.name for path in (trained / "models").iterdir()}
    assert files == {"model.pt", "model_best.pt", "as_trained.json"}
    split = json.loads((trained / "output" / "split.json").read_text())
    for names, count in ((split["training"], 2), (split["validation"], 1)):
        assert [sum(name.startswith(domain) for name in names) for domain in ("CT", "MR")] == [count] * 2
    weights = torch.load(trained / "models" / "model.pt", weights_only=True)
    assert not any(name.startswith("judge") for name in weights)
    state = torch.load(trained / "output" / "checkpoints" / "state.pt", weights_only=True)
    assert set(state["partners"]) == {"discriminator", "discriminator_optimizer"}


def test_all_losses_are_in_tensorboard(trained):
    tags = tensorboard_tags(trained)
    wanted = {"discriminator_loss", "generator_loss", "segmentation_loss", "real_score", "fake_score"}
    assert wanted | {"segmentation_loss_CT", "segmentation_loss_MR", "val_mean_dice"} <= tags


def test_evaluation_tells_the_modalities_apart_and_names_the_profile(trained, chaos):
    settings = {"dataset_dir": str(chaos), **places(trained), **TINY_CROSSDOMAIN}
    for overlays, profile in ([], "paper_reconstruction"), (["evaluate_chaos2019"], "chaos2019"):
        run(BUNDLE, ["train", "evaluate", *overlays], **settings)
        found = report(trained)
        assert f"scores {profile}" in found["grid"]
        assert {"VO [%] CT", "VO [%] MR", "MSSD [mm] CT", "score MR", "score"} <= set(found["columns"])
        assert found["cases"] == 2
    assert len(list((trained / "output" / "pictures").glob("*.png"))) == 2


def test_active_responses_are_counted_per_modality(trained, chaos):
    settings = {"dataset_dir": str(chaos), **places(trained), **TINY_CROSSDOMAIN}
    run(BUNDLE, ["train", "evaluate", "evaluate_activity"], **settings)
    folder = trained / "output" / "activity"
    assert {path.name for path in folder.iterdir()} == {"activity.json", "activity.md", "activity.png"}
    table = (folder / "activity.md").read_text()
    assert all(word in table for word in ("CT", "MR", "encoder.0", "decoder.2"))


def test_a_dicom_folder_becomes_a_mask_on_its_own_grid(trained, chaos, tmp_path):
    series = next(chaos.glob("Train_Sets/CT/*/DICOM_anon"))
    segment(BUNDLE, trained, series, tmp_path, output_codes=[63])
    (file,) = tmp_path.glob("*_seg.nii.gz")
    mask = nib.load(file)
    assert mask.shape == (32, 32, 8)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 63}


def test_the_same_mask_as_dicom_seg(trained, chaos, tmp_path):
    pytest.importorskip("highdicom", reason=NO_HIGHDICOM)
    series = next(chaos.glob("Train_Sets/MR/*/T1DUAL/DICOM_anon/InPhase"))
    segment(BUNDLE, trained, series, tmp_path, dicom_seg=True, largest_component=False)
    (file,), (seg,) = tmp_path.glob("*_seg.nii.gz"), tmp_path.glob("*_seg.dcm")
    mask = nib.load(file)
    found = seg_on_grid(seg, mask.affine, mask.shape)
    assert np.array_equal(found["liver"], np.asarray(mask.dataobj) == 1)
    assert found["liver"].any()


def test_only_one_component_is_left(trained, chaos, tmp_path):
    from scipy import ndimage

    series = next(chaos.glob("Train_Sets/CT/*/DICOM_anon"))
    for largest in (True, False):
        segment(BUNDLE, trained, series, tmp_path / str(largest), largest_component=largest, pictures=0)
        (file,) = (tmp_path / str(largest)).glob("*_seg.nii.gz")
        _, count = ndimage.label(np.asarray(nib.load(file).dataobj))
        assert count <= 1 or not largest


def test_equal_runs_and_a_resumed_run_end_with_the_same_bytes(trained, chaos, tmp_path):
    settings = {"dataset_dir": str(chaos), **places(tmp_path), **TINY_CROSSDOMAIN, "max_epochs": 2}
    run_cut_off_and_resumed(BUNDLE, **settings)
    for file in ("models/model.pt", "output/checkpoints/state.pt"):
        assert (tmp_path / file).read_bytes() == (trained / file).read_bytes()
    with pytest.raises(InputError, match="found that of discriminator"):
        run(BUNDLE, ["train"], resume=True, adversarial=False, **{**settings, "max_epochs": 3})


def test_one_modality_alone_has_to_be_asked_for(chaos, tmp_path):
    settings = {"dataset_dir": str(chaos), **places(tmp_path), **TINY_CROSSDOMAIN}
    with pytest.raises(InputError, match="at least two, found CT.*allow_single_domain"):
        run(BUNDLE, ["train"], modalities=["CT"], **settings)
    run(BUNDLE, ["train", "ablate_ct_only"], **settings)
    split = json.loads((tmp_path / "output" / "split.json").read_text())
    assert all(name.startswith("CT") for name in split["training"])


def spoil_gap(folder):
    next(iter(sorted((folder / "Train_Sets/CT/1/DICOM_anon").glob("*.dcm"))[2:])).unlink()
    sorted((folder / "Train_Sets/CT/1/Ground").glob("*.png"))[2].unlink()


def spoil_count(folder):
    sorted((folder / "Train_Sets/MR/1/T1DUAL/Ground").glob("*.png"))[0].unlink()


def spoil_codes(folder):
    from PIL import Image

    file = sorted((folder / "Train_Sets/MR/1/T1DUAL/Ground").glob("*.png"))[1]
    Image.fromarray(np.full((32, 32), 99, np.uint8)).save(file)


def spoil_series(folder):
    source = sorted((folder / "Train_Sets/CT/2/DICOM_anon").glob("*.dcm"))[0]
    target = sorted((folder / "Train_Sets/CT/1/DICOM_anon").glob("*.dcm"))[0]
    target.write_bytes(source.read_bytes())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_gap, "slice.*missing"),
        (spoil_count, "expected .*mask"),
        (spoil_codes, "99"),
        (spoil_series, "expected one DICOM series, found 2"),
    ],
)
def test_bad_series_stop_training_with_their_names(tmp_path, spoil, message):
    write_chaos(tmp_path / "data", num_ct=2, num_mr=2, size=32, ct_slices=6, mr_slices=6)
    spoil(tmp_path / "data")
    settings = {"dataset_dir": str(tmp_path / "data"), **places(tmp_path), **TINY_CROSSDOMAIN}
    with pytest.raises(InputError, match=f"(?s){message}"):
        run(BUNDLE, ["train"], **settings)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("overlay", network_overlays(BUNDLE))
def test_overlays_build_the_same_network_for_training_and_inference(overlay):
    assert network_shapes(BUNDLE, "train", overlay) == network_shapes(BUNDLE, "inference", overlay)


def test_the_published_sizes_of_both_players():
    parser = ConfigParser()
    parser.read_config(config_files(BUNDLE, "train"))
    with torch.device("meta"):
        players = [parser.get_parsed_content(name) for name in ("network_def", "discriminator")]
    assert [sum(value.numel() for value in player.parameters()) for player in players] == [3_805_800, 632_097]


@pytest.mark.parametrize("overlay", ["ablate_no_can", "ablate_cond", "ablate_att", "ablate_t0", "ablate_t2"])
def test_baselines_train(chaos, tmp_path, overlay):
    settings = {"dataset_dir": str(chaos), **places(tmp_path), **TINY_CROSSDOMAIN, "iterations_per_epoch": 1}
    run(BUNDLE, ["train", overlay], **settings)
    assert (tmp_path / "models" / "model.pt").is_file()


def test_augmented_slices_are_finite_and_some_hold_bright_patches(chaos, tmp_path):
    parser = ConfigParser()
    parser.read_config(config_files(BUNDLE, "train", "augment"))
    places_and_sizes = {"dataset_dir": str(chaos), **places(tmp_path), **TINY_CROSSDOMAIN}
    parser.update({**places_and_sizes, "is_main": False})
    dataset = parser.get_parsed_content("train::dataset")
    dataset.transform.set_random_state(0)
    drawn = [dataset[index] for index in range(len(dataset)) for _ in range(20)]
    assert all(sample["image"].isfinite().all() for sample in drawn)
    assert {tuple(sample["image"].shape) for sample in drawn} == {(3, 32, 32)}
    # Bright patches of one value are what fluid looks like to the network.
    assert any((sample["image"] == sample["image"].max()).sum() > 100 for sample in drawn)


def test_lungs_and_infections_of_two_sources(tmp_path):
    write_covid19_ct_20(tmp_path / "data", num_per_source=5, size=(32, 32, 8))
    settings = {"dataset_dir": str(tmp_path / "data"), **places(tmp_path), **TINY_CROSSDOMAIN}
    del settings["num_held_out"]
    run(BUNDLE, ["train", "data_covid19"], **settings)
    run(BUNDLE, ["train", "data_covid19", "evaluate"], **settings)
    assert report(tmp_path)["classes"] == ["lung", "infection"]
    assert "VO [%] coronacases" in report(tmp_path)["columns"]


def test_own_volumes_lie_in_a_folder_per_domain(tmp_path):
    for name in ("A", "B"):
        write_msd(tmp_path / "data" / name, num_cases=3, num_classes=2, size=(24, 24, 6))
    settings = {"dataset_dir": str(tmp_path / "data"), **places(tmp_path), **TINY_CROSSDOMAIN}
    run(BUNDLE, ["train", "data_domains"], **settings)
    assert (tmp_path / "models" / "model.pt").is_file()
