"""Checks of a bundle's files: metadata, configs, and the properties that MONAI's tools ask for."""

from __future__ import annotations

import importlib.metadata
import json
import pydoc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
from monai.bundle import ConfigComponent, ConfigParser, ReferenceResolver, create_workflow
from monai.bundle.config_item import ComponentLocator
from monai.bundle.properties import InferProperties, TrainProperties
from monai.bundle.utils import ID_REF_KEY, ID_SEP_KEY
from monai.utils import BundleProperty, BundlePropertyConfig
from packaging.version import InvalidVersion, Version

from tools.verify_rows import CheckError, NotCheckedError, raise_problems

SCHEMA = Path(__file__).with_name("meta_schema.json")
SUFFIXES = (".json", ".yaml", ".yml")
PROPERTIES = {"train": TrainProperties, "inference": InferProperties}
WORKFLOW_TYPES = {"train": "train", "inference": "infer"}
OPTIONAL_TOOLS = "trt"  # overlays for TensorRT name modules that need a GPU to be installed
PREVIEW = 5


@dataclass(frozen=True)
class Bundle:
    """A bundle, anybody's, and what it is verified with.

    Args:
        folder: absolute path, with ``configs``.
        overlays: config files merged after the complete ones, such as a smaller network.
        shrink: config files that shorten what is run and built from data.
        dataset_dir: data that training can read, or None.
        image: what inference can read, or None.
    """

    folder: Path
    overlays: tuple[Path, ...] = ()
    shrink: tuple[Path, ...] = ()
    dataset_dir: Path | None = None
    image: Path | None = None

    def config_file(self, name: str) -> Path | None:
        """The file ``configs/<name>`` as JSON or YAML, None if there is none."""
        files = [self.folder / "configs" / f"{name}{suffix}" for suffix in SUFFIXES]
        return next((file for file in files if file.is_file()), None)

    def config_files(self, name: str, *last: str) -> list[str]:
        """Paths of a complete file, the overlays, and further files by name where they exist.

        Raises:
            NotCheckedError: there is no such complete file.
        """
        first = self.config_file(name)
        if first is None:
            raise NotCheckedError(f"no configs/{name}.json")
        further = [self.config_file(other) for other in last]
        return [str(file) for file in (first, *self.overlays, *further) if file is not None]

    def metadata(self) -> dict[str, Any]:
        """Content of ``configs/metadata.json``.

        Raises:
            CheckError: there is none.
        """
        file = self.config_file("metadata")
        if file is None:
            raise CheckError("configs/metadata.json does not exist")
        return ConfigParser.load_config_file(str(file))


def check_files(bundle: Bundle) -> str:
    """What every bundle of MONAI's zoo has, and at least one complete config."""
    needed = ["LICENSE", "docs/README.md"]
    missing = [name for name in needed if not (bundle.folder / name).is_file()]
    missing += [] if bundle.config_file("metadata") else ["configs/metadata.json"]
    complete = [name for name in PROPERTIES if bundle.config_file(name)]
    missing += [] if complete else ["configs/train.json or configs/inference.json"]
    raise_problems([f"{name} does not exist" for name in missing])
    return f"{', '.join(complete)}, metadata, LICENSE, README"


def check_schema(bundle: Bundle) -> str:
    """Metadata against the schema in this folder; nothing is downloaded."""
    validator = jsonschema.Draft201909Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    found = sorted(validator.iter_errors(bundle.metadata()), key=lambda error: error.json_path)
    raise_problems([f"{error.json_path}: {error.message[:100]}" for error in found])
    return SCHEMA.name


def check_changelog(bundle: Bundle) -> str:
    """The version is the newest entry of the changelog."""
    metadata = bundle.metadata()
    if not metadata.get("changelog"):
        raise CheckError("metadata have no changelog")
    try:
        newest = max(metadata["changelog"], key=Version)
        is_newest = Version(metadata["version"]) == Version(newest)
    except InvalidVersion as error:
        raise CheckError(str(error)) from None
    if not is_newest:
        raise CheckError(f"version is {metadata['version']}, newest entry of the changelog is {newest}")
    return newest


def check_channels(bundle: Bundle) -> str:
    """Channels, value ranges and names of all tensors agree with each other."""
    problems, count = [], 0
    for group, tensors in bundle.metadata()["network_data_format"].items():
        for name, tensor in tensors.items():
            if not isinstance(tensor, Mapping):
                continue
            count += 1
            channels, names = tensor["num_channels"], tensor.get("channel_def", {})
            if names and len(names) != channels:
                problems.append(f"{group} {name}: {channels} channels, but {len(names)} in channel_def")
            values = tensor["value_range"]
            if values and (len(values) != 2 or values[0] > values[1]):
                problems.append(f"{group} {name}: value_range is {values}")
    raise_problems(problems)
    return f"{count} tensors"


def check_packages(bundle: Bundle) -> str:
    """The packages that the metadata name are installed; other versions are only mentioned."""
    metadata = bundle.metadata()
    stated = {
        **metadata.get("optional_packages_version", {}),
        **metadata.get("required_packages_version", {}),
    }
    missing, others = [], []
    for name, version in {"monai": metadata.get("monai_version"), **stated}.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if version != installed:
            others.append(f"{name} {installed} instead of {version}")
    raise_problems([f"{name} is not installed" for name in missing])
    return f"{len(stated) + 1} installed" + (f", {', '.join(others)}" if others else "")


def check_parsing(bundle: Bundle) -> str:
    """All config files can be read, and no key stands twice in one place."""
    files = sorted(f for f in (bundle.folder / "configs").iterdir() if f.suffix in SUFFIXES)
    problems = []
    for file in files:
        try:
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
            else:
                ConfigParser.load_config_file(str(file))
        except Exception as error:  # JSON and YAML raise types of their own
            problems.append(f"{file.name}: {error}")
    raise_problems(problems)
    return f"{len(files)} files"


def check_targets(bundle: Bundle) -> str:
    """Every class or function that a config names can be imported."""
    names = [f for f in sorted((bundle.folder / "configs").iterdir()) if f.suffix in SUFFIXES]
    used = [file for file in names if OPTIONAL_TOOLS not in file.stem]
    found = {t for file in used for t in _targets(ConfigParser.load_config_file(str(file)))}
    locator = ComponentLocator()
    known = {t for t in found if "." in t or locator.get_component_module_name(t)}
    missing = sorted((found - known) | {t for t in known if "." in t and pydoc.locate(t) is None})
    raise_problems([f"{target} does not exist" for target in missing])
    return f"{len(found)} classes and functions"


def check_references(bundle: Bundle, name: str) -> str:
    """Every ``@reference`` of a complete file leads to an item."""
    parser = ConfigParser()
    parser.read_config(bundle.config_files(name))
    raise_problems([f"{name}: nothing is called {reference}" for reference in lost_references(parser)])
    return f"{name} with {len(parser.ref_resolver.items)} items"


def check_property_ids(bundle: Bundle, name: str) -> str:
    """Required properties exist, optional ones have the ids where MONAI's tools look for them."""
    parser = ConfigParser()
    parser.read_config(bundle.config_files(name))
    problems = []
    for key, entry in PROPERTIES[name].items():
        own_id = entry[BundlePropertyConfig.ID]
        if entry[BundleProperty.REQUIRED] and own_id not in parser:
            problems.append(f"{key}: expected the id {own_id}")
        referring = entry.get(BundlePropertyConfig.REF_ID)
        value = parser.get(referring) if referring and key not in ("evaluator", "val_interval") else None
        if isinstance(value, str) and value.startswith(ID_REF_KEY) and value != f"{ID_REF_KEY}{own_id}":
            problems.append(f"{key}: expected {referring} to be {ID_REF_KEY}{own_id}, found {value}")
    raise_problems(problems)
    return f"{len(PROPERTIES[name])} properties"


def check_properties(bundle: Bundle, name: str) -> str:
    """MONAI's own check, which builds every property, from data."""
    source = bundle.dataset_dir if name == "train" else bundle.image
    if source is None:
        raise NotCheckedError("needs data: --dataset_dir or --generate")
    wrong = create_workflow(
        config_file=[*bundle.config_files(name), *map(str, bundle.shrink)],
        workflow_type=WORKFLOW_TYPES[name],
        logging_file=False,
        bundle_root=str(bundle.folder),
        dataset_dir=str(source),
    ).check_properties()
    raise_problems([f"{key} is missing or has another id" for key in wrong or []])
    return f"{name} was built from {source.name}"


def lost_references(parser: ConfigParser) -> list[str]:
    """References of a parsed configuration to items that do not exist, as written, sorted."""
    parser.parse()
    known = set(parser.ref_resolver.items)
    lost = set()
    for text in _texts(parser.get()):
        for reference in ReferenceResolver.match_refs_pattern(text):
            if reference not in known and reference.split(ID_SEP_KEY)[0] != "_meta_":
                lost.add(f"{ID_REF_KEY}{reference}")
    return sorted(lost)


def _texts(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, (Mapping, list)):
        for item in config.values() if isinstance(config, Mapping) else config:
            yield from _texts(item)


def _targets(config: Any) -> Iterator[str]:
    if ConfigComponent.is_instantiable(config) and not config["_target_"].startswith(("$", ID_REF_KEY)):
        yield config["_target_"]
    if isinstance(config, (Mapping, list)):
        for item in config.values() if isinstance(config, Mapping) else config:
            yield from _targets(item)


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} stands twice")
    return dict(pairs)
