"""An exported network computes what the trained one does, at other sizes too, or no file appears."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from monai.data import load_net_with_metadata

from common.data.phantoms import write_mmwhs
from common.errors import InputError
from tests.helpers.workflows import (
    REPOSITORY,
    SMALL_CROSSDOMAIN,
    SMALL_DMNET,
    SMALL_KCBAC,
    SMALL_M2SNET,
    SMALL_SKC,
    segment,
)
from tools import export_bundle as tool
from tools.export_bundle import Request, export_bundle, main
from tools.export_formats import FORMATS
from tools.export_inputs import Axis, InputFormat, input_format, real_images
from tools.export_parity import agreement, table

SMALL = {
    "kcbac_mmwhs": SMALL_KCBAC,
    "m2snet_polyp": SMALL_M2SNET,
    "crossdomain_liver": SMALL_CROSSDOMAIN,
    "dmnet_kits": SMALL_DMNET,
    "skc_synapse": {**SMALL_SKC, "roi_size": [32, 32, 64]},
}
BUNDLES = sorted(folder.parent.name for folder in REPOSITORY.glob("bundles/*/configs"))


def small_request(bundle: str, folder: Path, changed: dict | None = None, **arguments) -> Request:
    """Export of a bundle with a small network."""
    overlay = folder / "small.json"
    overlay.write_text(json.dumps({**SMALL[bundle], **(changed or {})}))
    given = {"overlays": (str(overlay),), "random_weights": True, **arguments}
    return Request(REPOSITORY / "bundles" / bundle, folder / "out", **given)


def metadata(*shape, channels=1, value_range=(0, 1)):
    image = {"num_channels": channels, "spatial_shape": list(shape), "value_range": list(value_range)}
    return {"network_data_format": {"inputs": {"image": image}}}


@pytest.mark.bundle
@pytest.mark.parametrize(
    ("bundle", "changed"),
    [*((name, {}) for name in BUNDLES), ("kcbac_mmwhs", {"spatial_dims": 2, "in_channels": 3})],
)
def test_all_networks_are_the_same_in_onnx_and_torchscript(bundle, changed, tmp_path):
    pytest.importorskip("onnxruntime")
    rows = export_bundle(small_request(bundle, tmp_path, changed, formats=("torchscript", "onnx")))
    # Images of two sizes and two numbers; 1e-5: the rounding of float32 over some dozen layers.
    assert max(row["relative_difference"] for row in rows) < 1e-5
    assert min(row["equal_labels"] for row in rows) > 0.9999
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "model.onnx",
        "model.ts",
        "parity.json",
    ]
    saved, meta, files = load_net_with_metadata(
        tmp_path / "out" / "model.ts", more_extra_files=("inference.json",)
    )
    assert not any("running_var" in name for name, _ in saved.named_buffers())
    assert meta["version"] == json.loads((tmp_path / "out" / "parity.json").read_text())["version"]
    assert json.loads(files["inference.json"])["network_def"]["fused"] is True


@pytest.mark.bundle
def test_onnx_takes_any_batch_and_every_multiple(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    request = small_request("crossdomain_liver", tmp_path, formats=("onnx",))
    export_bundle(request)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    network = tool.trained_network(request)
    for shape in ((1, 3, 16, 32), (2, 3, 48, 112)):
        image = torch.randn(shape)
        found = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
        with torch.no_grad():
            torch.testing.assert_close(found, network(image), rtol=1e-4, atol=1e-6)
    properties = {entry.key: entry.value for entry in load_onnx(tmp_path / "out").metadata_props}
    assert json.loads(properties["metadata"])["version"]


def load_onnx(folder: Path):
    import onnx

    return onnx.load(folder / "model.onnx")


@pytest.mark.bundle
def test_pt2_takes_other_sizes(tmp_path):
    request = small_request("crossdomain_liver", tmp_path, formats=("pt2",))
    export_bundle(request)
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(program(image), tool.trained_network(request)(image), rtol=1e-4, atol=1e-6)


@pytest.mark.bundle
def test_a_real_image_goes_through_the_bundles_own_preprocessing_and_inferer(tmp_path):
    write_mmwhs(tmp_path / "data", num_cases=1, num_test=0, size=(32, 32, 24))
    image = next((tmp_path / "data").rglob("*image.nii.gz"))
    request = small_request("kcbac_mmwhs", tmp_path, formats=("torchscript",), image=image, max_images=2)
    grid = tmp_path / "grid.json"
    grid.write_text(json.dumps({"spacing_mm": [4.0] * 3, "roi_size": [8] * 3}))
    request = Request(**{**vars(request), "overlays": (*request.overlays, str(grid))})
    windows = real_images(tool._config(request), limit=2)
    assert len(windows) == 2
    assert all(window.shape == (1, 1, 8, 8, 8) for window in windows)
    # The bundle scales [-1000, 1000] Hounsfield units to [-1, 1].
    assert all(window.min() >= -1 and window.max() <= 1 for window in windows)
    rows = export_bundle(request)
    assert [row["input"] for row in rows] == ["random", "real"] * 3


@pytest.mark.bundle
def test_the_exported_network_segments_in_place_of_the_original(tmp_path):
    write_mmwhs(tmp_path / "data", num_cases=1, num_test=0, size=(32, 32, 24))
    image = next((tmp_path / "data").rglob("*image.nii.gz"))
    request = small_request("kcbac_mmwhs", tmp_path, formats=("torchscript",))
    export_bundle(request)
    models = tmp_path / "trained" / "models"
    models.mkdir(parents=True)
    shutil.move(tmp_path / "out" / "model.ts", models)
    (models / "as_trained.json").write_text(json.dumps({"spacing_mm": [4.0] * 3, "roi_size": [16] * 3}))
    overlay = tmp_path / "from_ts.json"
    overlay.write_text(
        json.dumps({"network_def": "$torch.jit.load(@model_dir + '/model.ts')", "load_pretrain": False})
    )
    segment("kcbac_mmwhs", tmp_path / "trained", image, tmp_path / "masks", str(overlay))
    assert len(list((tmp_path / "masks").glob("*_seg.nii.gz"))) == 1


def test_a_network_that_differs_leaves_no_file(tmp_path, monkeypatch):
    exact = FORMATS["torchscript"]

    def load_shifted(path):
        network = exact.load(path)
        return lambda image: network(image) + 1

    shifted = type(exact)(exact.file, exact.write, load_shifted)
    monkeypatch.setitem(tool.FORMATS, "torchscript", shifted)
    with pytest.raises(InputError, match="differs by more than 0.001") as error:
        export_bundle(small_request("crossdomain_liver", tmp_path, formats=("torchscript",)))
    assert "torchscript" in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_network_that_cannot_be_exported_is_one_line(tmp_path, monkeypatch):
    exact = FORMATS["torchscript"]

    def write(source, path):
        raise RuntimeError("no such\noperator")

    monkeypatch.setitem(tool.FORMATS, "torchscript", type(exact)(exact.file, write, exact.load))
    message = "torchscript: cannot export CrossDomainUNet: no such operator"
    with pytest.raises(InputError, match=message):
        export_bundle(small_request("crossdomain_liver", tmp_path, formats=("torchscript",)))
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_weights_are_one_line(tmp_path, capsys):
    command = ["--bundle_dir", str(REPOSITORY / "bundles" / "crossdomain_liver")]
    command += ["--output_dir", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "gone.pt")]
    command += ["--formats", "torchscript"]
    assert main(command) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tmp_path / 'gone.pt'}: expected trained weights")
    assert "--random_weights" in message
    assert not (tmp_path / "out").exists()


def test_a_format_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"model.onnx: .* found no onnx, onnxruntime, onnxscript; pip install -e"
    ):
        FORMATS["onnx"].check_installed()


def test_sizes_follow_the_metadata_and_the_network():
    network = torch.nn.Identity()
    shape = input_format(metadata("*", "16 * n"), network).axes
    assert shape == (Axis("height", 64, 32, 2), Axis("width", 64, 16, 1))
    assert input_format(metadata(80, "2 ** p"), network).axes[1].multiple == 32
    network.size_multiple = 48
    # 48 is the network's own; lcm(16, 48) = 48; twice that is the first size from 64 on.
    assert input_format(metadata("*", "16 * n"), network).axes[1] == Axis("width", 96, 48, 1)
    network.roi_size = (40, 40)
    assert input_format(metadata(80, 80), network).axes == (Axis("height", 40), Axis("width", 40))
    flat = input_format(metadata("*", "*", 80), network, arguments={"in_channels": 3, "spatial_dims": 2})
    assert (flat.channels, [axis.name for axis in flat.axes]) == (3, ["height", "width"])
    with pytest.raises(InputError, match="expected multiples of 48 x 40, found 50 x 40"):
        input_format(metadata("*", 80), network, (50, 40))
    with pytest.raises(InputError, match=r"spatial_shape: .* found .__import__"):
        input_format(metadata("__import__('os')", 80), network)
    with pytest.raises(InputError, match="lacks 'network_data_format'"):
        input_format({}, network)


def test_random_images_fill_the_range():
    taken = InputFormat(2, (Axis("height", 64, 32, 2), Axis("width", 80)), (-3.0, 5.0))
    image = taken.random_image(3, seed=0, steps=(1, 1))
    assert image.shape == (3, 2, 96, 80)
    assert image.min() == pytest.approx(-3, abs=0.01)
    assert image.max() == pytest.approx(5, abs=0.01)
    shapes = [tuple(image.shape) for image in taken.random_images(3)]
    # 64 is two multiples of 32: with at least three, one more image of 96 follows.
    assert shapes == [(1, 2, 64, 80), (2, 2, 64, 80), (1, 2, 96, 80), (1, 2, 96, 80)]
    assert len(taken.random_images(2)) == 3


def test_agreement_by_hand():
    # Differences 0 0 | 0 3: largest 3, relative to 6: 0.5. Classes 1 0 and 1 1: half of the pixels agree.
    reference = torch.tensor([[[1.0, 6.0], [2.0, 5.0]]])
    exported = torch.tensor([[[1.0, 6.0], [2.0, 8.0]]])
    found = agreement([reference], [exported])
    assert (found.largest_difference, found.relative_difference, found.equal_labels) == (3, 0.5, 0.5)
    # A single map: labels are where it is above 0.
    assert agreement([torch.tensor([[[1.0, -1.0]]])], [torch.tensor([[[2.0, 1.0]]])]).equal_labels == 0.5
    with pytest.raises(ValueError, match="not finite"):
        agreement([reference], [reference / 0])
    with pytest.raises(ValueError, match="expected the shape"):
        agreement([reference], [reference[:, :1]])


def test_table_has_a_line_for_each_row():
    row = {"format": "onnx", "size_mb": 1.25, "input": "random", "ms_per_call": 2.0}
    row |= {"timed_on": [1, 2, 8], "images": 1}
    row |= {"largest_difference": 1e-6, "relative_difference": 2e-7, "equal_labels": 1.0}
    lines = table([row, row | {"size_mb": None}]).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["onnx", "1.2", "random", "1.00e-06", "2.0e-07", "1.000000", "2.0", "1x2x8"]
