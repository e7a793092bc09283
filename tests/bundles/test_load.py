"""Every bundle is what MONAI's own tools expect, from any working directory."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, create_workflow, load, verify_metadata, verify_net_in_out
from monai.data import load_net_with_metadata

from common.data.abdomen_phantom import write_synapse
from common.data.chaos_phantom import write_chaos
from common.data.kits_phantom import write_kits19
from common.data.phantoms import write_mmwhs
from common.data.picture_phantoms import write_polyp_pranet
from tests.helpers.workflows import (
    REPOSITORY,
    SMALL_CROSSDOMAIN,
    SMALL_DMNET,
    SMALL_KCBAC,
    SMALL_M2SNET,
    SMALL_SKC,
)

pytestmark = pytest.mark.bundle
BUNDLES = sorted(folder.parent.name for folder in REPOSITORY.glob("bundles/*/configs"))
DATA = {
    "kcbac_mmwhs": partial(write_mmwhs, num_cases=5, num_test=0, size=(32, 32, 24)),
    "m2snet_polyp": write_polyp_pranet,
    "dmnet_kits": partial(write_kits19, num_cases=10, num_unlabeled=0),
    "crossdomain_liver": partial(write_chaos, num_ct=2, num_mr=2, size=32, ct_slices=6, mr_slices=6),
    "skc_synapse": partial(write_synapse, size=(16, 16, 12)),
}
IMAGES = {
    "kcbac_mmwhs": "*image.nii.gz",
    "m2snet_polyp": "images/*.png",
    "crossdomain_liver": "DICOM_anon",
    "dmnet_kits": "imaging.nii.gz",
    "skc_synapse": "img*.nii.gz",
}
# Settings of training that keep it from downloading, or fit it to the few cases here.
TRAIN_SETTINGS = {
    "m2snet_polyp": {"feature_weight": 0},
    "crossdomain_liver": {"num_held_out": 1},
    "dmnet_kits": {"label_budget": 1.0},
    "skc_synapse": {"cache_rate": 0.0, "bundle_root": str(REPOSITORY / "bundles" / "skc_synapse")},
}
SMALL = {
    "kcbac_mmwhs": SMALL_KCBAC,
    "m2snet_polyp": SMALL_M2SNET,
    "crossdomain_liver": SMALL_CROSSDOMAIN,
    "dmnet_kits": SMALL_DMNET,
    "skc_synapse": SMALL_SKC,
}
# Sizes of images, in batches of one and two. The weights of the last bundle fit a single size.
SIZES = dict.fromkeys(SMALL, ((32, 48, 16), (64, 48, 32))) | {"skc_synapse": ((64, 128, 128),) * 2}


def config(bundle: str, name: str) -> str:
    return str(REPOSITORY / "bundles" / bundle / "configs" / f"{name}.json")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=BUNDLES)
def small_bundle(request, tmp_path) -> Path:
    """A copy of each bundle with a small network and weights for it."""
    folder = tmp_path / request.param
    source = REPOSITORY / "bundles" / request.param
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.pt", "eval"))
    for name in ("train", "inference"):
        file = folder / "configs" / f"{name}.json"
        content = json.loads(file.read_text())
        arguments = SMALL[request.param].items()
        content["network_def"] |= {key.removeprefix("network_def::"): value for key, value in arguments}
        file.write_text(json.dumps(content))
    torch.save(network_of(folder).state_dict(), folder / "models" / "model.pt")
    return folder


def network_of(folder: Path, *overlays: str) -> torch.nn.Module:
    """The network that a bundle's inference builds, with random weights."""
    parser = ConfigParser()
    parser.read_config([folder / "configs" / f"{name}.json" for name in ("inference", *overlays)])
    return parser.get_parsed_content("network_def")


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize(("name", "workflow_type"), [("train", "train"), ("inference", "infer")])
def test_properties_are_complete(bundle, name, workflow_type, elsewhere):
    DATA[bundle](elsewhere / "data")
    source = elsewhere / "data" if name == "train" else next((elsewhere / "data").rglob(IMAGES[bundle]))
    workflow = create_workflow(
        config_file=config(bundle, name),
        workflow_type=workflow_type,
        logging_file=False,
        dataset_dir=str(source),
        output_dir=str(elsewhere / "output"),
        **SMALL[bundle],
        **(TRAIN_SETTINGS.get(bundle, {}) if name == "train" else {}),
    )
    assert workflow.check_properties() == []


def test_training_and_inference_load_from_another_folder(small_bundle, elsewhere):
    network = load(small_bundle.name, bundle_dir=str(small_bundle.parent))
    assert type(network) is type(network_of(small_bundle))
    saved = torch.load(small_bundle / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())
    again = load(small_bundle.name, bundle_dir=str(small_bundle.parent), workflow_type="inference")
    assert all(torch.equal(value, saved[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize("bundle", BUNDLES)
def test_metadata_follows_monais_schema(bundle, elsewhere, real_data):
    schema = real_data / "schema" / "meta_schema_20240725.json"
    if not schema.is_file():
        pytest.skip(f"no schema at {schema}")
    shutil.copy(schema, elsewhere / "schema.json")
    checksum = hashlib.sha256(schema.read_bytes()).hexdigest()
    verify_metadata(
        meta_file=config(bundle, "metadata"),
        filepath=str(elsewhere / "schema.json"),
        hash_val=checksum,
        hash_type="sha256",
    )


@pytest.mark.parametrize("n", [1, 5])
def test_the_network_takes_and_gives_what_the_metadata_says(small_bundle, elsewhere, n):
    configs = small_bundle / "configs"
    verify_net_in_out(
        "network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
        n=n,
        p=n,
        any=n,
    )


def test_export_from_the_unmodified_configs_equals_the_network(small_bundle, elsewhere):
    configs, models = small_bundle / "configs", small_bundle / "models"
    ckpt_export(
        "network_def",
        filepath=str(models / "model.ts"),
        ckpt_file=str(models / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=[str(configs / "inference.json"), str(configs / "export.json")],
        use_trace=False,
    )
    exported, metadata, files = load_net_with_metadata(
        models / "model.ts", more_extra_files=("inference.json",)
    )
    network = network_of(small_bundle, "export").eval()
    network.load_state_dict(torch.load(models / "model.pt", weights_only=True))
    assert not any("running_var" in name for name, _ in exported.named_buffers())
    image = json.loads((configs / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    axes = len(image["spatial_shape"])
    for batch, size in enumerate(SIZES[small_bundle.name], start=1):
        given = torch.randn(batch, image["num_channels"], *size[:axes])
        with torch.no_grad():
            assert torch.equal(exported(given), network(given))
    assert metadata["version"]
    assert json.loads(files["inference.json"])["network_def"]


def test_a_mistyped_override_on_the_command_line_ends_with_one_plain_line(elsewhere):
    command = [sys.executable, "-m", "monai.bundle", "run", "inferring", "--config_file"]
    command += [config("kcbac_mmwhs", "inference"), "--datset_dir", "scan.nii.gz"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "unknown setting 'datset_dir'" in last
    assert "Did you mean 'dataset_dir'?" in last
