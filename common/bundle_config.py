"""A bundle's configuration: finds settings that MONAI would silently ignore, and reads it from Python."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow, ReferenceResolver
from monai.bundle.utils import ID_SEP_KEY

import common
from common.errors import InputError, raise_problems

logger = logging.getLogger(__name__)

COMPLETE_FILES = ("train.json", "inference.json")
SECTIONS = ("train", "validate")
RUN_LISTS = ("initialize", "run", "finalize", "training", "evaluating", "inferring")
# MONAI's federated client adds this to every configuration, for trackers.
ADDED_BY_MONAI = ("run_name",)
# Written beside `configs` by `make package`.
RELEASE_FILE = "release.json"


def check_overrides() -> None:
    """Refuse settings that nothing in the running configuration uses; first entry of ``initialize``.

    Looks at top-level keys and at those directly under ``train`` and ``validate``, after merging files,
    command line and tracking. A key is good if it stands in the bundle's own ``train.json`` or
    ``inference.json`` (presets serve both), if another item refers to it (``@key``), if it is a list that the
    workflow runs, or if it begins with ``_``. The last is for a new key of an overlay which only a macro
    (``%key``) reads: macros are already expanded here.

    The configuration is that of the workflow that is just running this function, found on the call stack, so
    command line, Python and MONAI Label are all served. Elsewhere, or for a configuration that is based on
    neither file, nothing is checked.

    Raises:
        InputError: names every unknown setting and the nearest known one; or see :func:`check_release`.
    """
    workflow = running_workflow()
    if workflow is None:
        logger.debug("settings not checked: no workflow is running")
        return
    check_release(Path(workflow.config_root_path).parent)
    config = workflow.parser.get()
    complete = _complete_configs(Path(workflow.config_root_path))
    if not any(set(base) <= set(config) for base in complete.values()):
        logger.debug(
            "settings not checked: based on neither %s in %s", COMPLETE_FILES, workflow.config_root_path
        )
        return
    # Presets serve training and inference alike, so a setting of either complete file is a known one.
    known = {path for base in complete.values() for path in _settings(base)}
    known |= {*RUN_LISTS, *ADDED_BY_MONAI, workflow.init_id, workflow.run_id, workflow.final_id}
    references = list(_references(config))
    unknown = [
        path
        for path in _settings(config)
        if path not in known and not path.startswith("_") and not _is_used(path, references)
    ]
    raise_problems("configuration", [_describe(path, known) for path in unknown])


def check_release(bundle_dir: str | os.PathLike[str]) -> None:
    """Refuse a package that was made with another version of ``common`` than the one that is running.

    Every package brings its own copy; the first one that a process imports serves all packages in it.

    Args:
        bundle_dir: the bundle's folder. Without ``release.json`` it is no package, and nothing is checked.

    Raises:
        InputError: the versions differ.
    """
    file = Path(bundle_dir).expanduser() / RELEASE_FILE
    if not file.is_file():
        return
    packed = json.loads(file.read_text(encoding="utf-8"))["common_version"]
    if packed != common.__version__:
        raise InputError(
            f"{file}: expected a package made with common {common.__version__}, which this process has from"
            f" {Path(common.__file__).parent}, found one made with {packed}; use packages of one release"
            " together, or a process for each"
        )


def inference_config(
    bundle_dir: str | os.PathLike[str], overlays: Sequence[str | os.PathLike[str]] = (), **overrides: Any
) -> ConfigParser:
    """A bundle's merged inference configuration, nothing of it built yet.

    Args:
        bundle_dir: the bundle's folder, with ``configs/inference.json``.
        overlays: config files merged after it: paths, or names of files in ``configs``.
        overrides: settings that have the last word.

    Raises:
        InputError: a config file does not exist; or see :func:`check_release`.
    """
    check_release(bundle_dir)
    configs = Path(bundle_dir).expanduser() / "configs"
    files = [configs / "inference.json"]
    files += [Path(name) if Path(name).is_file() else configs / name for name in overlays]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: expected a config file of the bundle, found none")
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    parser.update({"bundle_root": str(bundle_dir), **overrides})
    return parser


def running_workflow() -> ConfigWorkflow | None:
    """The workflow whose configuration is just being evaluated, found on the call stack; None elsewhere."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigWorkflow):
            return owner
        frame = frame.f_back
    return None


def _complete_configs(folder: Path) -> dict[str, dict[str, Any]]:
    files = [folder / name for name in COMPLETE_FILES]
    return {file.name: json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()}


def _settings(config: Mapping[str, Any]) -> list[str]:
    nested = [f"{name}{ID_SEP_KEY}{key}" for name in SECTIONS for key in config.get(name, {})]
    return [*config, *nested]


def _references(config: Any, source: str = "") -> Iterator[tuple[str, str]]:
    """All ``@`` references as pairs: path of the item that refers, path it refers to."""
    if isinstance(config, str):
        yield from ((source, target) for target in ReferenceResolver.match_refs_pattern(config))
    elif isinstance(config, (dict, list)):
        for _, path, item in ReferenceResolver.iter_subconfigs(source, config):
            yield from _references(item, path)


def _is_used(path: str, references: list[tuple[str, str]]) -> bool:
    return any(
        not _contains(path, source) and (_contains(path, target) or _contains(target, path))
        for source, target in references
    )


def _contains(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(outer + ID_SEP_KEY)


def _describe(path: str, known: set[str]) -> str:
    by_name: dict[str, list[str]] = {}
    for candidate in sorted(known):
        by_name.setdefault(candidate.split(ID_SEP_KEY)[-1], []).append(candidate)
    nearest = difflib.get_close_matches(path.split(ID_SEP_KEY)[-1], by_name, n=1)
    advice = f" Did you mean {' or '.join(map(repr, by_name[nearest[0]]))}?" if nearest else ""
    return f"unknown setting {path!r}: nothing in the configuration uses it.{advice}"
