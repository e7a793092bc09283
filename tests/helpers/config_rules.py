"""The house rules for bundle configs as pure functions: each returns a list of problems.

Every rule takes a :class:`Bundle`; ``same_across_bundles`` takes all of them. A problem begins with its file.
"""

import json
import re

from monai.bundle import ConfigParser

from tests.helpers.bundle_files import COMPLETE, Bundle, components, has_key, rejected, resolve, strings
from tools.format_configs import format_text

# Keys that an overlay may bring along although its base does not know them.
ADDITIONS = {
    "evaluate": {
        "checkpoint",
        "evaluating",
        "pictures",
        "distance_units",
        "report_columns",
        "report_columns_mm",
        "average_by",
        "profile",
        "activity",
        "measures",
        "protocol",
    },
    "multi_gpu_train": {"local_rank", "finalize"},
    "data_busi": {"include_normal"},
    "data_images": {"group_pattern"},
    "data_polyp_video": {"drop_clip_ends"},
}
# Overlays that are merged after another overlay, and so may replace that one's keys, too.
AFTER = {"evaluate_": "evaluate"}
# Shared top-level keys whose values have a reason to differ between train.json and inference.json.
MAY_DIFFER = {
    "imports",  # each file imports what its own expressions use
    "dataset_dir",  # a data set for one, an image or a folder of images for the other
    "num_workers",  # inference reads a handful of images
    "network_def",  # compared argument by argument, see NETWORK_MAY_DIFFER
    "initialize",  # training seeds, inference has nothing to seed
    "run",  # what each file is for
}
NETWORK_MAY_DIFFER = {"fused"}  # inference merges the branches of trained asymmetric convolutions
COMPONENT_MAY_DIFFER = {"keys", "mode", "progress"}  # with or without label; a progress bar over windows
# Transforms of slices, and those that do the same to a volume.
SLICED = "common.transforms.slice_of_volume."
WHOLE_VOLUME = {"LoadImaged", "Orientationd", "NormalizeIntensityd"}
TRAIN_KEYS = """bundle_root device dataset_dir output_dir network_def network val_interval train::trainer
    train::trainer::max_epochs train::dataset train::dataset::data train::inferer train::preprocessing
    train::handlers validate::evaluator validate::dataset validate::dataset::data
    validate::inferer validate::preprocessing validate::postprocessing validate::handlers initialize run"""
INFERENCE_KEYS = """bundle_root device dataset_dir output_dir network_def network preprocessing inferer
    postprocessing dataset dataset::data evaluator handlers initialize run"""
MAX_LINES = {"train": 230, "inference": 230, "evaluate": 40, "multi_gpu_train": 40}
MAX_EVALUATION_LINES = 40
MAX_OVERLAY_LINES = 25


def overlay_keys_exist(bundle: Bundle, overlays: dict[str, dict] | None = None) -> list[str]:
    """Rule 1: a misspelt key of an overlay would be added silently and never be used.

    An overlay of nothing but network arguments must fit inference, too.
    """
    problems = []
    for name, overlay in (bundle.overlays if overlays is None else overlays).items():
        bases = ["inference" if name.startswith("infer_") else "train"]
        bases += [base for prefix, base in AFTER.items() if name.startswith(prefix)]
        is_network_only = all(key.startswith("network_def") for key in overlay)
        bases, enough = (COMPLETE, all) if is_network_only else (bases, any)
        known = {key for key in overlay if enough(has_key(bundle.configs[base], key) for base in bases)}
        unknown = set(overlay) - known - ADDITIONS.get(name, set())
        problems += [f"{name}.json: {key!r} is not in {' and '.join(bases)}.json" for key in sorted(unknown)]
    return problems


def no_positional_override(bundle: Bundle) -> list[str]:
    """Rule 2: an index means another item as soon as somebody adds one."""
    found = [(name, key) for name, overlay in bundle.overlays.items() for key in overlay]
    found += [(name, text) for name, text in strings(bundle) if text.startswith(("@", "%"))]
    return [f"{name}.json: {text!r} has an index" for name, text in found if re.search(r"::\d+(::|$)", text)]


def no_cross_file_macro(bundle: Bundle) -> list[str]:
    """Rule 3: the path of ``%file.json::key`` is relative to the working directory."""
    is_macro = re.compile(r"^%.*\.(json|ya?ml)\b")
    return [f"{name}.json: macro {text!r}" for name, text in strings(bundle) if is_macro.search(text)]


def no_hash_sign(bundle: Bundle) -> list[str]:
    """Rule 4: MONAI rewrites the sign to ``::`` in any text."""
    return [f"{name}.json: {text!r} contains #" for name, text in strings(bundle) if "#" in text]


def complete_files_agree(bundle: Bundle) -> list[str]:
    """Rule 5: what the network saw in training is what it sees in use."""
    train, inference = bundle.configs["train"], bundle.configs["inference"]
    shared = [key for key in train if key in inference and key not in MAY_DIFFER]
    values = {key: (train[key], inference[key]) for key in shared}
    if "class_names" in values:
        values["class_names"] = (_class_names(train), _class_names(inference))
    problems = [f"{key}: {own!r}, {other!r}" for key, (own, other) in values.items() if own != other]
    problems += _differences(
        "network_def", train["network_def"], inference["network_def"], NETWORK_MAY_DIFFER
    )
    chain = [item for item in train["train"]["deterministic_transforms"] if item["keys"] != "label"]
    used = inference["preprocessing"]["transforms"]
    may_differ = COMPONENT_MAY_DIFFER
    if any(item["_target_"].startswith(SLICED) for item in chain):
        # Trained on slices, applied to volumes: reading and inferer differ, what a slice becomes does not.
        chain = [item for item in chain if not item["_target_"].startswith(SLICED)]
        used = [item for item in used if item["_target_"] not in WHOLE_VOLUME]
        may_differ = COMPONENT_MAY_DIFFER | {"spatial_dims", "spatial_size"}
    else:
        problems += _differences("inferer", train["validate"]["inferer"], _windows(inference), may_differ)
    names = [[item["_target_"] for item in items] for items in (chain, used)]
    if names[0] != names[1]:
        problems.append(f"transforms: {names[0]}, {names[1]}")
    for first, second in zip(chain, used):
        problems += _differences(first["_target_"], first, second, may_differ)
    return [f"train.json and inference.json differ in {problem}" for problem in problems]


def _windows(inference: dict) -> dict:
    """The inferer, or the windows of which a knob makes two kinds of inferers."""
    return inference.get("windows", inference["inferer"])


def bundle_root_is_here(bundle: Bundle) -> list[str]:
    """Rule 6: ``bundle_root`` is ``"."`` and given on the command line, nowhere else."""
    roots = {name: config.get("bundle_root") for name, config in bundle.configs.items()}
    return [
        f"{name}.json: bundle_root is {root!r}"
        for name, root in roots.items()
        if root != ("." if name in COMPLETE else None)
    ]


def required_keys_present(bundle: Bundle) -> list[str]:
    """Rule 7: what MONAI and MONAI Label look for; ``train::handlers`` must be a literal list of dicts."""
    problems = []
    for name, keys in (("train", TRAIN_KEYS), ("inference", INFERENCE_KEYS)):
        problems += [
            f"{name}.json: {key} is missing" for key in keys.split() if not has_key(bundle.configs[name], key)
        ]
        if not isinstance(bundle.configs[name].get("network_def"), dict):
            problems.append(f"{name}.json: network_def is no literal component")
    handlers = bundle.configs["train"].get("train", {}).get("handlers")
    if not isinstance(handlers, list) or not all(isinstance(item, dict) for item in handlers):
        problems.append("train.json: train::handlers is no literal list of components")
    return problems


def targets_resolve(bundle: Bundle) -> list[str]:
    """Rule 8: every ``_target_`` exists and takes the arguments it is given."""
    problems = []
    for name, config in bundle.configs.items():
        for component in components(config):
            target = component["_target_"]
            found = resolve(target)
            if found is None:
                problems.append(f"{name}.json: {target} does not exist")
                continue
            given = {key for key in component if not (key.startswith("_") and key.endswith("_"))}
            problems += [f"{name}.json: {target} takes no {key!r}" for key in sorted(rejected(found, given))]
    return problems


def short_and_canonical(bundle: Bundle) -> list[str]:
    """Rule 9: length limits, and the form that ``make fmt`` gives."""
    problems = []
    for name, text in bundle.texts.items():
        others = MAX_EVALUATION_LINES if name.startswith("evaluate_") else MAX_OVERLAY_LINES
        lines, limit = len(text.splitlines()), MAX_LINES.get(name, others)
        if name != "metadata" and lines > limit:
            problems.append(f"{name}.json: {lines} lines, at most {limit} are allowed")
        if format_text(text) != text:
            problems.append(f"{name}.json: not in canonical form, run make fmt")
    return problems


def same_across_bundles(bundles: list[Bundle]) -> list[str]:
    """Rule 10: ``logging.conf``, and overlays that say the same, are the same bytes in all bundles."""
    first: dict[tuple[str, str], tuple[str, bytes]] = {}
    problems = []
    for bundle in bundles:
        log = bundle.folder / "configs" / "logging.conf"
        if not log.is_file():
            problems.append(f"{bundle.folder.name}: logging.conf is missing")
        files = {("logging.conf", ""): log} if log.is_file() else {}
        for name, overlay in bundle.overlays.items():
            files[f"{name}.json", json.dumps(overlay, sort_keys=True)] = (
                bundle.folder / f"configs/{name}.json"
            )
        for key, file in files.items():
            owner, content = first.setdefault(key, (bundle.folder.name, file.read_bytes()))
            if content != file.read_bytes():
                problems.append(f"{key[0]}: not the same bytes in {owner} and {bundle.folder.name}")
    return problems


def readme_lists_overlays(bundle: Bundle) -> list[str]:
    """Rule 11: the first column of the table "Variants" names exactly the overlays that exist."""
    section = re.search(r"^## Variants$(.*?)(?=^## |\Z)", bundle.readme, re.MULTILINE | re.DOTALL)
    cells = re.findall(r"^\|([^|]*)\|", section[1] if section else "", re.MULTILINE)
    listed = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    problems = [
        f"{name}.json: not in the README's Variants" for name in sorted(set(bundle.overlays) - listed)
    ]
    return problems + [
        f"README.md: overlay {name} does not exist" for name in sorted(listed - set(bundle.overlays))
    ]


def metadata_is_true(bundle: Bundle) -> list[str]:
    """Rule 12: version and changelog, classes and references."""
    metadata, train = bundle.metadata, bundle.configs["train"]
    problems = []
    versions = sorted(metadata.get("changelog", {}), key=lambda version: [int(n) for n in version.split(".")])
    if metadata.get("version") not in versions[-1:]:
        problems.append(
            f"version {metadata.get('version')} is not the newest changelog entry {versions[-1:]}"
        )
    output = metadata["network_data_format"]["outputs"]["pred"]
    # With sigmoid outputs background has no channel.
    background = int(train.get("mode") != "sigmoid")
    counts = {
        "num_channels": output["num_channels"] - background,
        "channel_def": len(output["channel_def"]) - background,
        "class_names of train.json": len(_class_names(train)),
    }
    problems += [
        f"{name} is for {count} structures, num_classes of train.json for {train['num_classes'] - 1}"
        for name, count in counts.items()
        if count != train["num_classes"] - 1
    ]
    if not metadata.get("references") or not all(metadata["references"]):
        problems.append("references are empty")
    return [f"metadata.json: {problem}" for problem in problems]


RULES = (
    overlay_keys_exist,
    no_positional_override,
    no_cross_file_macro,
    no_hash_sign,
    complete_files_agree,
    bundle_root_is_here,
    required_keys_present,
    targets_resolve,
    short_and_canonical,
    readme_lists_overlays,
    metadata_is_true,
)


def _class_names(config: dict) -> list[str]:
    """The names, also where an expression takes them from ``common``."""
    needed = {"imports": config.get("imports", []), "class_names": config["class_names"]}
    return ConfigParser(needed).get_parsed_content("class_names")


def _differences(name: str, first: dict, second: dict, may_differ: set[str]) -> list[str]:
    """Arguments that differ, of components in components, too."""
    problems = []
    for key in dict.fromkeys([*first, *second]):
        values = first.get(key), second.get(key)
        if key in may_differ or values[0] == values[1]:
            continue
        if all(isinstance(value, dict) for value in values):
            problems += _differences(f"{name}::{key}", *values, may_differ)
        else:
            problems.append(f"{name}::{key}: {values[0]!r}, {values[1]!r}")
    return problems
