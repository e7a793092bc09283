"""The verification passes sound bundles, anybody's, and names what is wrong with a broken one."""

import json
import re
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.helpers.workflows import REPOSITORY
from tools.verify_bundle import main, verify
from tools.verify_commands import readme_commands
from tools.verify_configs import SCHEMA, Bundle
from tools.verify_rows import (
    FAILED,
    OK,
    SKIPPED,
    CheckError,
    NotCheckedError,
    Row,
    run_check,
    table,
)
from tools.verify_runs import Trial, run_command

BUNDLES = sorted(folder.parent.name for folder in REPOSITORY.glob("bundles/*/configs"))
TENSOR = {"type": "image", "format": "magnitude", "spatial_shape": ["32 * n", "32 * n"], "dtype": "float32"}
METADATA = {
    "schema": "https://project-monai.github.io/schema/meta_schema_20240725.json",
    "version": "0.2.0",
    "changelog": {"0.1.0": "first", "0.2.0": "second"},
    **{f"{name}_version": "1.0.0" for name in ("monai", "pytorch", "numpy")},
    "required_packages_version": {"nibabel": "1.0.0"},
    **{name: "text" for name in ("task", "description", "authors", "copyright")},
    "network_data_format": {
        "inputs": {"image": {**TENSOR, "num_channels": 1, "value_range": [0, 1], "channel_def": {"0": "a"}}},
        "outputs": {
            "pred": {**TENSOR, "num_channels": 2, "value_range": [], "channel_def": {"0": "", "1": ""}}
        },
    },
}
INFERENCE = {
    "imports": ["$import torch"],
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/eval'",
    "dataset_dir": "/data",
    "device": "$torch.device('cpu')",
    "network_def": {
        "_target_": "BasicUNet",
        "spatial_dims": 2,
        "features": [4, 4, 4, 4, 4, 4],
        "out_channels": "@num_classes",
    },
    "num_classes": 2,
    "network": "$@network_def.to(@device)",
    "data_list": [{"image": 0.0}],
    "dataset": {"_target_": "Dataset", "data": "@data_list", "transform": "@preprocessing"},
    "preprocessing": {"_target_": "scripts.blank.BlankImaged", "keys": "image"},
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset"},
    "inferer": {"_target_": "SimpleInferer"},
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
    },
    "run": ["$@evaluator.run()"],
}
TRANSFORM = """import torch
from monai.transforms import MapTransform


class BlankImaged(MapTransform):
    def __call__(self, data):
        return {"image": torch.zeros(1, 32, 32)}
"""
README = """# Foreign

```
python -m monai.bundle run --config_file configs/inference.json
```

```python
not = "a command"
```
"""


def write_foreign(folder: Path, metadata=METADATA, inference=INFERENCE, readme=README) -> Path:
    """A bundle as in MONAI's zoo, with a package ``scripts`` of its own and nothing of this repository."""
    files = {
        "LICENSE": "text",
        "configs/metadata.json": json.dumps(metadata),
        "configs/inference.json": json.dumps(inference),
        "docs/README.md": readme,
        "scripts/__init__.py": "",
        "scripts/blank.py": TRANSFORM,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(autouse=True)
def no_scripts_of_others():
    """The package of one foreign bundle must not stand in for that of the next."""
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]


def by_status(rows: list[Row], status: str) -> dict[str, str]:
    return {row.check: row.reason for row in rows if row.status == status}


@pytest.mark.bundle
def test_a_foreign_bundle_passes(tmp_path, capsys):
    folder = write_foreign(tmp_path / "foreign")
    image = tmp_path / "scan.nii.gz"
    rows = verify(Bundle(folder, image=image))
    assert by_status(rows, FAILED) == {}
    skipped = set(by_status(rows, SKIPPED))
    not_there = {f"{name}, train" for name in ("configs: references", "properties: ids", "properties: built")}
    assert skipped - {"export: ONNX (onnx_export)"} == not_there | {"network: weights"}
    passed = by_status(rows, OK)
    assert passed["network: second size"] == "2x1x96x96 to 2x2x96x96"
    assert passed["properties: built, inference"] == "inference was built from scan.nii.gz"
    assert passed["README 1: monai.bundle run --config_file configs/i ..."] == "run run of inference"
    assert main(["--bundle_dir", str(folder), "--skip", "network", "export"]) == 0
    assert ", 0 failed, " in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.bundle
def test_a_broken_bundle_fails_in_named_rows(tmp_path, capsys):
    outputs = {"pred": {**METADATA["network_data_format"]["outputs"]["pred"], "num_channels": 3}}
    metadata = {key: value for key, value in METADATA.items() if key != "task"} | {
        "version": "0.1.0",
        "required_packages_version": {"no-such-package": "1.0"},
        "network_data_format": {**METADATA["network_data_format"], "outputs": outputs},
    }
    inference = {key: value for key, value in INFERENCE.items() if key != "inferer"} | {
        "preprocessing": {"_target_": "scripts.blank.NoSuchTransform"},
    }
    readme = README + "```\npython -m monai.bundle run training --config_file configs/gone.json\n```\n"
    folder = write_foreign(tmp_path / "broken", metadata, inference, readme)
    (folder / "LICENSE").unlink()
    assert main(["--bundle_dir", str(folder), "--skip", "export"]) == 1
    failed = dict(re.findall(r"^(.*?) +failed +(.*)$", capsys.readouterr().out, re.MULTILINE))
    expected = {
        "files": "LICENSE does not exist",
        "metadata: schema": "'task' is a required property",
        "metadata: changelog": "version is 0.1.0, newest entry of the changelog is 0.2.0",
        "metadata: channels": "outputs pred: 3 channels, but 2 in channel_def",
        "metadata: packages": "no-such-package is not installed",
        "configs: targets": "scripts.blank.NoSuchTransform does not exist",
        "configs: references, inference": "nothing is called @inferer",
        "properties: ids, inference": "inferer: expected the id inferer",
        "network: default size": "`2` doesn't match: `3`",
        "network: second size": "expected (2, 3, 96, 96)",
        "README 1: monai.bundle run --config_file configs/i ...": "@inferer leads nowhere",
        "README 2: monai.bundle run training --config_file ...": "configs/gone.json does not exist",
    }
    assert set(failed) == set(expected)
    assert {name: reason in failed[name] for name, reason in expected.items()} == dict.fromkeys(
        expected, True
    )


@pytest.mark.bundle
def test_a_command_of_a_readme_really_runs(tmp_path):
    folder = write_foreign(tmp_path / "foreign")
    bundle, command = Bundle(folder, image=tmp_path), readme_commands(README)[0]
    assert run_command(command, bundle, Trial(tmp_path)) == "run ran"
    with pytest.raises(CheckError, match="exit code 1: .*no_such_run"):
        run_command(command, bundle, Trial(tmp_path, ("--run_id", "no_such_run")))


@pytest.mark.parametrize("bundle", BUNDLES)
def test_our_metadata_follow_our_schema(bundle):
    metadata = json.loads((REPOSITORY / "bundles" / bundle / "configs/metadata.json").read_text())
    validator = jsonschema.Draft201909Validator(json.loads(SCHEMA.read_text()))
    assert [error.message for error in validator.iter_errors(metadata)] == []


def test_our_schema_refuses_what_the_public_one_refuses(real_data):
    public_file = real_data / "schema" / "meta_schema_20240725.json"
    if not public_file.is_file():
        pytest.skip(f"no schema at {public_file}")
    schemas = [json.loads(file.read_text()) for file in (SCHEMA, public_file)]
    own, public = (jsonschema.Draft201909Validator(schema) for schema in schemas)
    faults = [{key: value for key, value in METADATA.items() if key != name} for name in METADATA]
    faults += [{**METADATA, name: 3} for name in METADATA]
    image = METADATA["network_data_format"]["inputs"]["image"]
    for name in image:
        for changed in ({k: v for k, v in image.items() if k != name}, {**image, name: None}):
            tensors = {"inputs": {"image": changed}, "outputs": {}}
            faults.append({**METADATA, "network_data_format": tensors})
    refused = [fault for fault in faults if not public.is_valid(fault)]
    assert len(refused) > 25
    assert own.is_valid(METADATA)
    assert public.is_valid(METADATA)
    assert [fault for fault in refused if own.is_valid(fault)] == []


def test_a_row_never_raises_and_stays_on_its_line():
    def explode():
        try:
            raise KeyError("deep")
        except KeyError as error:
            raise RuntimeError("outer") from error

    def skip():
        raise NotCheckedError("no\ndata")

    rows = [run_check("a", lambda: "fine"), run_check("bb", explode), run_check("c", skip)]
    assert table(rows).splitlines() == [
        "a   ok       fine",
        "bb  failed   RuntimeError: 'deep'",
        "c   skipped  no data",
        "1 ok, 1 failed, 1 skipped",
    ]


@pytest.mark.slow
@pytest.mark.bundle
def test_the_commands_of_our_readme_run_on_generated_data(capsys):
    command = ["--bundle_dir", str(REPOSITORY / "bundles" / "crossdomain_liver"), "--run_commands"]
    command += ["--generate", "write_chaos --num_ct 9 --num_mr 9 --ct_slices 6 --mr_slices 6"]
    command += ["--shrink", "preset_laptop", "smoke", "--skip", "network", "export"]
    code = main(command)
    table_lines = capsys.readouterr().out.splitlines()
    assert code == 0, "\n".join(table_lines)
    ran = [line for line in table_lines if line.startswith("README") and line.endswith(" ran")]
    assert [line.split()[-2] for line in ran] == ["training", "evaluating", "inferring"]
    assert [line for line in table_lines if line.startswith("properties: built") and " ok " not in line] == []
