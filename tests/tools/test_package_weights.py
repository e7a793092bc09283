"""The weights of a training elsewhere go into a package in place of those of the bundle."""

import zipfile

import pytest

from tools.package_bundle import bundle_files, main, package

# printf weights | sha256sum
CHECKSUM = b"9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"


@pytest.fixture
def training(tmp_path):
    folder = tmp_path / "training"
    folder.mkdir()
    for name in ("model.pt", "model_best.pt", ".cut_off.model.pt"):
        (folder / name).write_bytes(b"weights")
    (folder / "as_trained.json").write_text("{}")
    return folder


def test_folder_of_the_training_is_packed_and_the_card_names_its_weights(training, tmp_path):
    with zipfile.ZipFile(package("m2snet_polyp", tmp_path / "dist", model_dir=training)) as opened:
        inside = [name for name in opened.namelist() if name.startswith("m2snet_polyp/models/")]
        assert [name.rsplit("/")[-1] for name in inside] == ["as_trained.json", "model.pt", "model_best.pt"]
        assert opened.read("m2snet_polyp/models/model.pt") == b"weights"
        assert CHECKSUM in opened.read("m2snet_polyp/docs/model_card.md")


def test_nothing_of_the_models_of_the_bundle_is_left(training, tmp_path):
    bundle = tmp_path / "bundles" / "toy"
    for name in ("configs/metadata.json", "models/model.pt", "models/model_best.pt", "models/old.pt"):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).touch()
    (tmp_path / "common").mkdir()
    (training / "model_best.pt").unlink()
    files = bundle_files("toy", tmp_path, training)
    assert sorted(files) == ["LICENSE", "configs/metadata.json", "models/as_trained.json", "models/model.pt"]
    assert files["models/model.pt"] == training / "model.pt"


def test_training_without_weights_is_refused(training, tmp_path, capsys):
    (training / "model.pt").unlink()
    words = ["kcbac_mmwhs", "--model_dir", str(training), "--output_dir", str(tmp_path / "dist")]
    assert main(words) == 1
    assert f"error: --model_dir {training}: expected model.pt in this folder" in capsys.readouterr().err
    assert not (tmp_path / "dist").exists()
