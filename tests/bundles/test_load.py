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
from monai.bundle import ckpt_export, create_workflow, load, verify_metadata, verify_net_in_out
from monai.data import load_net_with_metadata

from common.data.phantoms import write_mmwhs
from common.networks.kcbac import KCBACNet
from tests.helpers.workflows import REPOSITORY

pytestmark = pytest.mark.bundle
BUNDLES = sorted(folder.parent.name for folder in REPOSITORY.glob("bundles/*/configs"))
DATA = {"kcbac_mmwhs": partial(write_mmwhs, num_cases=5, num_test=0, size=(32, 32, 24))}
SMALL = {"network_def::base_width": 2, "network_def::num_scales": 2}


def config(bundle: str, name: str) -> str:
    return str(REPOSITORY / "bundles" / bundle / "configs" / f"{name}.json")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_bundle(tmp_path) -> Path:
    """A copy of the kCBAC bundle with a small network and weights for it."""
    folder = tmp_path / "small_bundle"
    shutil.copytree(
        REPOSITORY / "bundles" / "kcbac_mmwhs", folder, ignore=shutil.ignore_patterns("*.pt", "eval")
    )
    for name in ("train", "inference"):
        file = folder / "configs" / f"{name}.json"
        content = json.loads(file.read_text())
        content["network_def"] |= {"base_width": 2, "num_scales": 2}
        file.write_text(json.dumps(content))
    network = KCBACNet(3, 1, 8, base_width=2, num_scales=2)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize(("name", "workflow_type"), [("train", "train"), ("inference", "infer")])
def test_properties_are_complete(bundle, name, workflow_type, elsewhere):
    DATA[bundle](elsewhere / "data")
    source = elsewhere / "data" if name == "train" else next((elsewhere / "data").rglob("*image.nii.gz"))
    workflow = create_workflow(
        config_file=config(bundle, name),
        workflow_type=workflow_type,
        logging_file=False,
        dataset_dir=str(source),
        output_dir=str(elsewhere / "output"),
        **SMALL,
    )
    assert workflow.check_properties() == []


def test_training_and_inference_load_from_another_folder(small_bundle, elsewhere):
    network = load(small_bundle.name, bundle_dir=str(small_bundle.parent))
    assert isinstance(network, KCBACNet)
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
    network = KCBACNet(3, 1, 8, base_width=2, num_scales=2, fused=True).eval()
    network.load_state_dict(torch.load(models / "model.pt", weights_only=True))
    assert not any("norm" in name for name, _ in exported.named_parameters())
    for shape in ((1, 1, 8, 8, 8), (2, 1, 9, 17, 5)):
        image = torch.randn(shape)
        with torch.no_grad():
            assert torch.equal(exported(image), network(image))
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
