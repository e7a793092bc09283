"""The twelve house rules hold for every bundle, and each of them finds a fault planted in a toy bundle."""

import json
from pathlib import Path

import pytest

from tests.helpers import config_rules
from tests.helpers.bundle_files import Bundle
from tests.helpers.config_rules import RULES, same_across_bundles
from tools.format_configs import format_text

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLES = [Bundle(file.parents[1]) for file in sorted(REPOSITORY.glob("bundles/*/configs/metadata.json"))]

NETWORK = {"_target_": "BasicUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": "@num_classes"}
LOAD = {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True}
KNOBS = {"bundle_root": ".", "dataset_dir": "/data", "output_dir": "eval", "device": "cpu", "num_classes": 2}
PART = {
    "preprocessing": {"_target_": "Compose", "transforms": [LOAD]},
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]},
    "postprocessing": {"_target_": "Compose", "transforms": []},
    "dataset": {"_target_": "Dataset", "data": []},
    "handlers": [{"_target_": "StatsHandler"}],
}
TOY = {
    "train": {
        **KNOBS,
        "class_names": ["organ"],
        "max_epochs": 2,
        "iterations_per_epoch": 2,
        "num_workers": 1,
        "cache_rate": 1.0,
        "val_interval": 1,
        "network_def": NETWORK,
        "network": "@network_def",
        "train": {
            **PART,
            "deterministic_transforms": [{**LOAD, "keys": ["image", "label"]}],
            "trainer": {"_target_": "SupervisedTrainer", "max_epochs": "@max_epochs"},
        },
        "validate": {**PART, "evaluator": {"_target_": "SupervisedEvaluator"}},
        "initialize": [],
        "run": [],
    },
    "inference": {
        **KNOBS,
        "network_def": NETWORK,
        "network": "@network_def",
        **PART,
        "evaluator": {"_target_": "SupervisedEvaluator"},
        "initialize": [],
        "run": [],
    },
    "ablate_narrow": {"network_def::in_channels": 1},
    "metadata": {
        "version": "0.10.0",
        "changelog": {"0.9.0": "first", "0.10.0": "second"},
        "references": ["a paper"],
        "network_data_format": {
            "outputs": {"pred": {"num_channels": 2, "channel_def": {"0": "background", "1": "organ"}}}
        },
    },
}
README = "# Toy\n\n## Variants\n\n| overlay | effect |\n|---|---|\n| `ablate_narrow` | width |\n\n## Limits\n"


def write_bundle(folder, configs=TOY, readme=README, log="[loggers]\n"):
    (folder / "configs").mkdir(parents=True)
    (folder / "docs").mkdir()
    for name, config in configs.items():
        (folder / "configs" / f"{name}.json").write_text(format_text(json.dumps(config)))
    (folder / "configs" / "logging.conf").write_text(log)
    (folder / "docs" / "README.md").write_text(readme)
    return Bundle(folder)


def changed(path, value):
    """The toy configs with one value replaced; ``path`` is a tuple of config name, keys and indices."""
    configs = json.loads(json.dumps(TOY))
    node = configs
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return configs


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.folder.name)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_bundle_keeps(rule, bundle):
    assert rule(bundle) == []


def test_bundles_are_the_same_where_they_can_be():
    assert BUNDLES
    assert same_across_bundles(BUNDLES) == []


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.folder.name)
def test_shared_overlays_fit_every_bundle(bundle):
    shared = {f.stem: json.loads(f.read_text()) for f in REPOSITORY.glob("common/configs/*.json")}
    assert shared
    assert config_rules.overlay_keys_exist(bundle, shared) == []


def test_good_toy_bundle_passes_every_rule(tmp_path):
    bundle = write_bundle(tmp_path / "toy")
    assert {rule.__name__: rule(bundle) for rule in RULES} == {rule.__name__: [] for rule in RULES}
    assert same_across_bundles([bundle]) == []


CHAIN = ("inference", "preprocessing", "transforms")
FORMAT = ("metadata", "network_data_format", "outputs", "pred")


@pytest.mark.parametrize(
    ("rule", "path", "value", "message"),
    [
        ("overlay_keys_exist", ("ablate_narrow", "network_def::in_chanels"), 1, "in_chanels"),
        ("overlay_keys_exist", ("train", "network_def"), "@net", "network_def::in_channels"),
        ("overlay_keys_exist", ("inference", "network_def"), {}, "train and inference"),
        ("no_positional_override", ("ablate_narrow", "train::handlers::0::name"), "x", "has an index"),
        ("no_positional_override", ("train", "network"), "@train::handlers::2", "has an index"),
        ("no_cross_file_macro", ("inference", "handlers"), "%../base.json::handlers", "../base.json"),
        ("no_hash_sign", ("metadata", "references"), ["https://a/b#c"], "contains #"),
        ("no_hash_sign", ("ablate_narrow", "network_def#width"), 1, "contains #"),
        ("complete_files_agree", ("inference", "num_classes"), 3, "num_classes: 2, 3"),
        ("complete_files_agree", ("inference", "network_def", "in_channels"), 2, "network_def::in_channels"),
        ("complete_files_agree", ("inference", "inferer", "roi_size"), [8, 8, 8], "inferer::roi_size"),
        ("complete_files_agree", (*CHAIN, 0, "ensure_channel_first"), False, "ensure_channel_first"),
        ("complete_files_agree", CHAIN, [LOAD, {"_target_": "Identityd", "keys": "image"}], "Identityd"),
        ("bundle_root_is_here", ("train", "bundle_root"), "/home/me/toy", "/home/me/toy"),
        ("bundle_root_is_here", ("ablate_narrow", "bundle_root"), ".", "ablate_narrow.json"),
        ("required_keys_present", ("train", "train", "handlers"), "@all_handlers", "no literal list"),
        ("required_keys_present", ("train", "validate", "dataset"), {}, "validate::dataset::data"),
        ("required_keys_present", ("inference", "network_def"), "$make()", "no literal component"),
        ("targets_resolve", ("train", "network_def", "_target_"), "BasicUNett", "BasicUNett does not exist"),
        (
            "targets_resolve",
            ("train", "network_def", "_target_"),
            "common.networks.nothing.Here",
            "Here does not",
        ),
        ("targets_resolve", ("inference", "network_def", "widht"), 3, "takes no 'widht'"),
        ("short_and_canonical", ("ablate_narrow", "x"), ["y" * 100] * 30, "at most 25"),
        ("readme_lists_overlays", ("data_other",), {}, "data_other.json: not in"),
        ("metadata_is_true", ("metadata", "version"), "0.9.0", "0.9.0 is not the newest"),
        ("metadata_is_true", (*FORMAT, "num_channels"), 3, "num_channels is for 2"),
        ("metadata_is_true", (*FORMAT, "channel_def"), {"0": "background"}, "channel_def is for 0"),
        ("metadata_is_true", ("train", "class_names"), ["a", "b"], "class_names of train.json"),
        ("metadata_is_true", ("metadata", "references"), [], "references are empty"),
    ],
)
def test_planted_fault_is_found(tmp_path, rule, path, value, message):
    problems = getattr(config_rules, rule)(write_bundle(tmp_path / "toy", changed(path, value)))
    assert any(message in problem for problem in problems), problems


def test_other_form_of_the_same_config_is_found(tmp_path):
    bundle = write_bundle(tmp_path / "toy")
    file = bundle.folder / "configs" / "ablate_narrow.json"
    file.write_text(json.dumps(TOY["ablate_narrow"], indent=4))
    assert any("canonical" in problem for problem in config_rules.short_and_canonical(bundle))


def test_listed_overlay_that_does_not_exist_is_found(tmp_path):
    bundle = write_bundle(
        tmp_path / "toy", readme=README.replace("`ablate_narrow`", "`ablate_narrow`, `gone`")
    )
    assert config_rules.readme_lists_overlays(bundle) == ["README.md: overlay gone does not exist"]


def test_bundles_that_drift_apart_are_found(tmp_path):
    first, second = write_bundle(tmp_path / "a"), write_bundle(tmp_path / "b", log="[other]\n")
    (second.folder / "configs" / "ablate_narrow.json").write_text('{ "network_def::in_channels": 1 }\n')
    problems = same_across_bundles([first, second])
    assert [problem.split(":")[0] for problem in problems] == ["logging.conf", "ablate_narrow.json"]
