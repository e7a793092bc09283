"""M2SNet's bundle from data folder to segmented image, on generated pictures in the real layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export
from monai.data import load_net_with_metadata
from PIL import Image

from common.data import picture_phantoms as pictures
from common.errors import InputError
from common.import_weights import import_weights
from common.networks.m2snet import M2SNet
from common.weight_names import RELEASED
from tests.helpers.workflows import (
    REPOSITORY,
    TINY_M2SNET,
    places,
    report,
    run,
    segment,
)

pytestmark = pytest.mark.bundle
BUNDLE = "m2snet_polyp"
CONFIGS = REPOSITORY / "bundles" / BUNDLE / "configs"


@pytest.fixture(scope="module")
def polyps(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("polyp")
    pictures.write_polyp_pranet(folder, num_training=20)
    return folder


@pytest.fixture(scope="module")
def trained(polyps, tmp_path_factory) -> Path:
    """A folder with the outputs of two epochs of training."""
    folder = tmp_path_factory.mktemp("run")
    run(BUNDLE, ["train"], dataset_dir=str(polyps), **places(folder), **{**TINY_M2SNET, "max_epochs": 2})
    return folder


def test_training_holds_out_a_tenth_of_each_source(trained):
    files = {path.name for path in (trained / "models").iterdir()}
    assert files == {"model.pt", "model_best.pt", "as_trained.json"}
    split = json.loads((trained / "output" / "split.json").read_text())
    assert (len(split["training"]), len(split["validation"])) == (18, 2)
    assert sorted(name.startswith("cju") for name in split["validation"]) == [False, True]
    assert list((trained / "output").glob("events.out.tfevents*"))


def test_evaluation_names_its_protocol_and_draws_the_extremes(trained, polyps):
    settings = {"dataset_dir": str(polyps), **places(trained), **TINY_M2SNET}
    for overlays, protocol, columns in [
        ([], "protocol of the authors", {"mDice (soft)", "mIoU (0.5)", "E (adaptive)", "MAE"}),
        (["evaluate_pranet"], "protocol of PraNet", {"mDice (mean of 256)", "E max"}),
        (["evaluate_lesion"], "masks above 0.5", {"Jaccard", "specificity"}),
    ]:
        run(BUNDLE, ["train", "evaluate", *overlays], **settings)
        found = report(trained)
        assert protocol in found["grid"]
        assert columns <= set(found["columns"])
        assert found["cases"] == 2
    names = sorted(path.name for path in (trained / "output" / "pictures").glob("*.png"))
    assert [name.split("_")[0] for name in names] == ["best", "worst"]


def test_masks_are_black_and_white_at_the_size_of_the_picture(trained, polyps, tmp_path):
    segment(BUNDLE, trained, polyps / "TrainDataset" / "images", tmp_path)
    masks = sorted(tmp_path.glob("*_seg.png"))
    assert len(masks) == 20
    for mask in masks:
        with Image.open(mask) as opened:
            assert opened.size == (80, 64)
            assert set(np.unique(np.asarray(opened))) <= {0, 255}
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 4


def test_pictures_of_other_modes_are_read_upright(trained, polyps, tmp_path):
    source = Image.open(polyps / "TrainDataset" / "images" / "1.png")
    folder = tmp_path / "in"
    folder.mkdir()
    source.convert("L").save(folder / "gray.png")
    source.quantize(64).save(folder / "palette.png")
    source.convert("RGBA").save(folder / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees for display
    source.save(folder / "turned.jpg", exif=exif)
    segment(BUNDLE, trained, folder, tmp_path / "out", pictures=0)
    sizes = {path.name: Image.open(path).size for path in (tmp_path / "out").glob("*.png")}
    assert sizes.pop("turned_seg.png") == (64, 80)
    assert set(sizes.values()) == {(80, 64)}
    assert len(sizes) == 3


def test_probabilities_are_written_as_gray_maps(trained, polyps, tmp_path):
    source = polyps / "TrainDataset" / "images" / "1.png"
    segment(BUNDLE, trained, source, tmp_path / "maps", "infer_probabilities")
    segment(BUNDLE, trained, source, tmp_path / "masks")
    gray = np.asarray(Image.open(tmp_path / "maps" / "1_probability.png"))
    mask = np.asarray(Image.open(tmp_path / "masks" / "1_seg.png"))
    assert len(np.unique(gray)) > 2
    clear = (gray > 129) | (gray < 126)
    np.testing.assert_array_equal((gray > 127)[clear], (mask > 0)[clear])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "images" / "1.png").write_bytes(b"no picture"), "1.png.*expected"),
        (lambda p: (p / "masks" / "1.png").unlink(), "1.png: no label found"),
        (lambda p: Image.new("L", (9, 9)).save(p / "masks" / "1.png"), "masks/1.png: expected the shape"),
        (lambda p: Image.new("L", (80, 64), 1).save(p / "masks" / "1.png"), "masks/1.png.*label_codes"),
        (lambda p: [file.unlink() for file in p.rglob("*.png")], "found none"),
    ],
)
def test_bad_pictures_stop_training_with_their_names(tmp_path, spoil, message):
    pictures.write_polyp_pranet(tmp_path / "data", num_training=4)
    spoil(tmp_path / "data" / "TrainDataset")
    settings = {"dataset_dir": str(tmp_path / "data"), **places(tmp_path), **TINY_M2SNET, "num_folds": 2}
    with pytest.raises(InputError, match=f"(?s){message}"):
        run(BUNDLE, ["train"], **settings)
    assert not (tmp_path / "models").exists()


def test_a_batch_that_batch_norm_cannot_take_is_refused(polyps, tmp_path):
    with pytest.raises(InputError, match="(?i)batch"):
        run(
            BUNDLE, ["train"], dataset_dir=str(polyps), **places(tmp_path), **{**TINY_M2SNET, "batch_size": 1}
        )
    assert not (tmp_path / "models").exists()


def test_masks_without_polyp_have_scores(tmp_path):
    pictures.write_polyp_pranet(tmp_path / "data", num_training=4)
    for mask in (tmp_path / "data" / "TrainDataset" / "masks").glob("*.png"):
        Image.new("L", (80, 64)).save(mask)
    settings = {"dataset_dir": str(tmp_path / "data"), **places(tmp_path), **TINY_M2SNET, "num_folds": 2}
    run(BUNDLE, ["train"], **settings)
    run(BUNDLE, ["train", "evaluate"], **settings)
    columns = report(tmp_path)["columns"]
    assert all(column["missing"] == [0] for column in columns.values())
    assert all(np.isfinite(column["mean"]) for column in columns.values())


def test_test_sets_are_judged_one_at_a_time(trained, tmp_path):
    pictures.write_polyp_pranet(tmp_path / "data", num_training=4, num_test=3)
    settings = {"dataset_dir": str(tmp_path / "data"), **TINY_M2SNET, **places(tmp_path)}
    settings["model_dir"] = str(trained / "models")
    run(BUNDLE, ["train", "evaluate"], test_sets=["CVC-300"], **settings)
    assert report(tmp_path)["cases"] == 3
    with pytest.raises(InputError, match="expected some of CVC-300, Kvasir, found CVC-301"):
        run(BUNDLE, ["train", "evaluate"], test_sets=["CVC-301"], **settings)


def test_public_weights_of_encoder_and_lossnet_are_used_from_local_files(polyps, tmp_path):
    torch.manual_seed(3)
    encoder = M2SNet(width=8, blocks=(1, 1, 1, 1)).encoder.state_dict()
    torch.save(encoder, tmp_path / "encoder.pth")
    torch.save(RELEASED["vgg16"].build().state_dict(), tmp_path / "vgg16.pth")
    settings = {"dataset_dir": str(polyps), **places(tmp_path), **TINY_M2SNET, "iterations_per_epoch": 1}
    files = {"pretrained_path": tmp_path / "encoder.pth", "vgg16_weights_path": tmp_path / "vgg16.pth"}
    settings |= {"pretrained": True, "feature_weight": 0.1, **{key: str(file) for key, file in files.items()}}
    run(BUNDLE, ["train"], **{**settings, "learning_rate": 0.0, "encoder_learning_rate": 0.0})
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert torch.equal(weights["encoder.conv1.0.weight"], encoder["conv1.0.weight"])
    with pytest.raises(InputError, match="absent.pth.*pretrained false"):
        run(BUNDLE, ["train"], **{**settings, "pretrained_path": str(tmp_path / "absent.pth")})


@pytest.mark.parametrize("unit", ["released", "single"])
def test_imported_weights_of_the_authors_segment(unit, polyps, tmp_path):
    """A generated checkpoint under the authors' names, as parallel training would have written it."""
    released = RELEASED["m2snet" if unit == "released" else "msnet"]
    torch.manual_seed(4)
    network = M2SNet(unit=unit)
    named = {f"module.{released.name_in_file(key)}": value for key, value in network.state_dict().items()}
    torch.save({**named, "module.resnet.fc.bias": torch.zeros(1000)}, tmp_path / "authors.pth")
    target = tmp_path / "models" / "model.pt"
    settings = {"network_def::unit": unit}
    import_weights(tmp_path / "authors.pth", target, REPOSITORY / "bundles" / BUNDLE, **settings)
    places_ = {"model_dir": str(target.parent), "output_dir": str(tmp_path / "out"), "image_size": [64, 64]}
    source = str(polyps / "TrainDataset" / "images" / "1.png")
    run(BUNDLE, ["inference"], "infer", dataset_dir=source, **places_, **settings)
    assert (tmp_path / "out" / "1_seg.png").is_file()


def test_the_weights_of_the_other_network_are_refused(tmp_path):
    weights = M2SNet(unit="single").state_dict()
    named = {RELEASED["msnet"].name_in_file(key): value for key, value in weights.items()}
    torch.save(named, tmp_path / "authors.pth")
    with pytest.raises(InputError, match=r"(?s)authors.pth: expected MSNet.*unexpected|missing"):
        import_weights(tmp_path / "authors.pth", tmp_path / "model.pt", REPOSITORY / "bundles" / BUNDLE)
    assert not (tmp_path / "model.pt").exists()


def test_exported_torchscript_equals_the_network_at_352_and_another_size(trained, tmp_path):
    files = [str(CONFIGS / "inference.json"), str(trained / "models" / "as_trained.json")]
    ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(trained / "models" / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=[*files, str(CONFIGS / "export.json")],
        use_trace=False,
    )
    exported, _, _ = load_net_with_metadata(tmp_path / "model.ts")
    network = M2SNet(width=8, blocks=(1, 1, 1, 1), fused=True).eval()
    network.load_state_dict(torch.load(trained / "models" / "model.pt", weights_only=True))
    for size in ((352, 352), (200, 333)):
        image = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert torch.equal(exported(image), network(image))
