"""Mistyped settings are refused before anything is built."""

import json
import logging

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow, run

import common
from common.bundle_config import check_overrides, inference_config
from common.errors import InputError

TRAIN = {
    "imports": ["$from common import bundle_config"],
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/runs'",
    "max_epochs": 3,
    "class_names": ["left", "right"],
    "device": "cpu",
    "network_def": {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 1},
    "train": {
        "handlers": [],
        "trainer": {"_target_": "dict", "max_epochs": "@max_epochs", "train_handlers": "@train::handlers"},
    },
    "validate": {"dataset": {"_target_": "dict", "data": []}, "handlers": "%train::handlers"},
    "initialize": ["$bundle_config.check_overrides()"],
    "run": ["$@train::trainer"],
}
INFERENCE = {
    "imports": ["$from common import bundle_config"],
    "bundle_root": ".",
    "output_ext": ".nii.gz",
    "network_def": TRAIN["network_def"],
    "handlers": [],
    "evaluator": {"_target_": "dict", "val_handlers": "@handlers"},
    "initialize": ["$bundle_config.check_overrides()"],
    "run": ["$@evaluator"],
}


@pytest.fixture
def configs(tmp_path):
    """Folder of a bundle with its two complete files."""
    folder = tmp_path / "bundle" / "configs"
    folder.mkdir(parents=True)
    for name, content in {"train": TRAIN, "inference": INFERENCE, "metadata": {"version": "0.1"}}.items():
        write(folder / f"{name}.json", content)
    return folder


def write(file, content):
    file.write_text(json.dumps(content))
    return file


def initialize(*files, **overrides):
    workflow = ConfigWorkflow([str(file) for file in files], logging_file=False, **overrides)
    workflow.initialize()
    return workflow


def problems_of(*files, **overrides):
    with pytest.raises(RuntimeError, match="Failed to evaluate") as caught:
        initialize(*files, **overrides)
    assert isinstance(caught.value.__cause__, InputError)
    return [line.removeprefix("  - ") for line in str(caught.value.__cause__).splitlines()[1:]]


def test_complete_files_pass(configs):
    assert initialize(configs / "train.json").run() == [{"max_epochs": 3, "train_handlers": []}]
    initialize(configs / "inference.json")


@pytest.mark.parametrize(
    "overrides",
    [
        {"max_epochs": 1},
        {"train::trainer::max_epochs": 1},
        {"train#trainer#max_epochs": 1, "validate#dataset#data": [{"image": "a"}], "train#handlers": []},
        {"class_names": ["other"]},
        {"_note": "anything"},
        {"run_name": "site-1_20261121"},
        {"width": 8, "network_def::out_channels": "@width"},
        {"sizes": {"width": 8}, "network_def::out_channels": "$@sizes::width + 1"},
        {"train::note": "anything", "class_names": "@train"},
        {"train::rates": [1, 2], "max_epochs": "$@train::rates::0"},
    ],
)
def test_settings_that_are_used_pass(configs, overrides):
    parser = initialize(configs / "train.json", **overrides).parser
    assert {key: parser[key] for key in overrides} == overrides


def test_mistyped_setting_is_named_with_the_nearest(configs):
    assert problems_of(configs / "train.json", epoch=1) == [
        "unknown setting 'epoch': nothing in the configuration uses it. Did you mean 'max_epochs'?"
    ]


def test_every_mistyped_setting_is_named(configs):
    overrides = {"max_epoch": 1, "train::handler": [], "zzz": "$@max_epochs"}
    assert problems_of(configs / "train.json", **overrides) == [
        "unknown setting 'max_epoch': nothing in the configuration uses it. Did you mean 'max_epochs'?",
        "unknown setting 'zzz': nothing in the configuration uses it.",
        "unknown setting 'train::handler': nothing in the configuration uses it. Did you mean"
        " 'handlers' or 'train::handlers' or 'validate::handlers'?",
    ]


def test_setting_of_the_other_file_passes_for_presets(configs):
    workflow = initialize(configs / "train.json", write(configs / "preset_gpu.json", {"output_ext": ".nii"}))
    assert workflow.parser["output_ext"] == ".nii"


def test_setting_that_only_uses_itself_is_refused(configs):
    (problem,) = problems_of(configs / "train.json", epochs={"first": 1, "last": "@epochs::first"})
    assert "'epochs'" in problem


def test_overlays_may_add_what_they_use_but_not_more(configs, tmp_path):
    good = write(configs / "evaluate.json", {"weights": "model.pt", "run": ["$print(@weights)"]})
    initialize(configs / "train.json", good)
    bad = write(tmp_path / "mine.json", {"learning_rat": 0.1})
    (problem,) = problems_of(configs / "train.json", bad)
    assert "'learning_rat'" in problem
    in_bundle = write(configs / "data_other.json", {"train::batch": 0.1})
    (problem,) = problems_of(configs / "train.json", in_bundle)
    assert "'train::batch'" in problem


def test_lists_run_by_another_name_pass(configs):
    workflow = initialize(configs / "train.json", run_id="sanity", sanity=["$1 + 1"])
    assert workflow.run() == [2]
    assert initialize(configs / "train.json", finalize=["$1 + 1"]).finalize() == [2]


def test_tracking_adds_settings_that_pass(configs, tmp_path):
    workflow = initialize(
        configs / "train.json", tracking="mlflow", tracking_uri="sqlite:///x.db", bundle_root=str(tmp_path)
    )
    assert "experiment_name" in workflow.parser


def test_command_line_entry_point_is_served(configs):
    with pytest.raises(RuntimeError) as caught:
        run(config_file=str(configs / "train.json"), epoch=1)
    assert isinstance(caught.value.__cause__, InputError)
    run(config_file=str(configs / "train.json"), max_epochs=1)


def test_without_a_workflow_nothing_is_checked(caplog):
    with caplog.at_level(logging.DEBUG):
        check_overrides()
        parser = ConfigParser({**TRAIN, "epoch": 1})
        parser.get_parsed_content("initialize")
    assert caplog.text.count("no workflow is running") == 2


def test_configuration_of_other_origin_is_not_checked(configs, tmp_path, caplog):
    own = write(tmp_path / "own.json", {**TRAIN, "epoch": 1})
    with caplog.at_level(logging.DEBUG):
        initialize(own)
    assert "settings not checked" in caplog.text


def test_package_of_the_running_version_passes(configs):
    write(configs.parent / "release.json", {"common_version": common.__version__})
    assert initialize(configs / "train.json").parser["max_epochs"] == TRAIN["max_epochs"]
    assert inference_config(configs.parent)["bundle_root"] == str(configs.parent)


def test_package_of_another_version_is_refused(configs):
    release = write(configs.parent / "release.json", {"common_version": "9.0.0"})
    with pytest.raises(RuntimeError, match="Failed to evaluate") as caught:
        initialize(configs / "train.json")
    message = str(caught.value.__cause__)
    assert message.startswith(f"{release}: expected a package made with common {common.__version__}, which")
    assert "found one made with 9.0.0" in message
    with pytest.raises(InputError, match="found one made with 9.0.0"):
        inference_config(configs.parent)
