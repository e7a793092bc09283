"""Copies a bundle into the folder of the MONAI Label app, with its weights and the settings of its training.

MONAI Label reads `inference.json` and `train.json` alone, knows neither overlays nor the codes of a data set,
and writes what it trains into the folder that it serves. So it gets a copy: with `as_trained.json` merged
into both files, and labels that are 1, 2, ... in the order of the classes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.package_bundle import REPOSITORY, bundle_files

WEIGHTS = "model.pt"
SETTINGS = "as_trained.json"
RECORD = "served.json"
# The others learn from unlabeled images, from two modalities or from splits in files: MONAI Label, which
# hands over a list of images with labels, has no place for these.
TRAINABLE = ("kcbac_mmwhs",)


def missing_for(bundle: str, model_dir: Path, repository: Path = REPOSITORY) -> list[str]:
    """What keeps a bundle from being served, one line each; empty if nothing does.

    Args:
        bundle: folder name under ``bundles``.
        model_dir: folder with the weights of a training.
        repository: its root.
    """
    known = sorted(folder.parent.name for folder in repository.glob("bundles/*/configs"))
    if bundle not in known:
        return [f"{bundle}: unknown bundle, expected one of: {', '.join(known)}"]
    if not (model_dir / WEIGHTS).is_file():
        return [
            f"{bundle}: no trained model: expected {model_dir / WEIGHTS}. Train one (make train"
            f" BUNDLE={bundle} ...) or name the folder of one with --model_dir"
        ]
    return []


def copy_bundle(bundle: str, model_dir: Path, target: Path, repository: Path = REPOSITORY) -> None:
    """Write a bundle as MONAI Label is to see it, complete with the package ``common``.

    Args:
        bundle: folder name under ``bundles``.
        model_dir: folder with ``model.pt`` and, if training wrote it, ``as_trained.json``.
        target: folder to write; one that exists is replaced.
        repository: its root.

    Raises:
        ValueError: ``as_trained.json`` is none, or names a setting that ``inference.json`` does not have.
    """
    shutil.rmtree(target, ignore_errors=True)
    for name, source in bundle_files(bundle, repository).items():
        if not name.startswith("models/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name)
    (target / "models").mkdir()
    shutil.copyfile(model_dir / WEIGHTS, target / "models" / WEIGHTS)
    settings = read_settings(model_dir)
    _rewrite(target / "configs" / "inference.json", lambda config: for_inference(config, settings))
    if bundle in TRAINABLE:
        _rewrite(target / "configs" / "train.json", lambda config: for_training(config, settings))
    else:
        (target / "configs" / "train.json").unlink()
    _rewrite(target / "configs" / "metadata.json", lambda metadata: with_labels(metadata, settings))
    record = {"weights": _checksum(target / "models" / WEIGHTS), "settings": settings}
    (target / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def keep_trained(served: Path, kept: Path) -> Path | None:
    """Save what the server trained from being replaced by the next copy.

    Args:
        served: folder of a bundle that was served.
        kept: folder for such weights.

    Returns:
        Where weights and settings are now; they can be served or used for inference from there. None if
        nothing was trained.
    """
    weights, record = served / "models" / WEIGHTS, served / RECORD
    if not weights.is_file() or not record.is_file():
        return None
    copied = json.loads(record.read_text(encoding="utf-8"))
    if _checksum(weights) == copied["weights"]:
        return None
    folder = next(
        kept / f"{served.name}_{number}"
        for number in range(1, 10**6)
        if not (kept / f"{served.name}_{number}").exists()
    )
    settings = {**copied["settings"], **read_settings(served / "models")}
    shutil.copytree(served / "models", folder)
    # Training compared its settings with those that were served, so its file lacks these.
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return folder


def read_settings(model_dir: Path) -> dict[str, Any]:
    """The settings that training wrote beside its weights; empty if there are none.

    Raises:
        ValueError: the file is no JSON object.
    """
    file = model_dir / SETTINGS
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: expected settings in JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(settings).__name__}")
    return settings


def for_inference(config: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """``inference.json`` with the settings of a training and labels 1, 2, ...

    Raises:
        ValueError: a setting is not one of the file.
    """
    return _merged(config, {**settings, "output_codes": None}, SETTINGS)


def for_training(config: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """``train.json`` with the same settings, for the labels that MONAI Label saves.

    The list of cases comes from MONAI Label, so nothing is looked for in the layout of the data set.

    Raises:
        ValueError: a setting is not one of the file.
    """
    known = {key: value for key, value in settings.items() if key.split("::")[0] in config}
    return _merged(config, {**known, "label_codes": None, "check_data": False, "cases": []}, SETTINGS)


def with_labels(metadata: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """``metadata.json`` whose channels are the labels: background, then the classes in their order.

    Args:
        metadata: content of the file.
        settings: those of a training. Its classes may be other ones.
    """
    output = metadata["network_data_format"]["outputs"]["pred"]
    names = [name for _, name in sorted(output["channel_def"].items(), key=lambda item: int(item[0]))]
    names = [name for name in names if name != "background"]
    names = list(settings.get("class_names", names))
    num_classes = settings.get("num_classes", len(names) + 1)
    if num_classes != len(names) + 1:
        names = [f"class {number}" for number in range(1, num_classes)]
    output["channel_def"] = {str(number): name for number, name in enumerate(["background", *names])}
    return metadata


def _merged(config: dict[str, Any], settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    for path, value in settings.items():
        *parents, last = path.split("::")
        place = config
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if not isinstance(place, dict) or (not parents and last not in place):
            raise ValueError(f"{source}: unknown setting {path!r}: the bundle has none of this name")
        place[last] = value
    return config


def _rewrite(file: Path, change: Any) -> None:
    content = change(json.loads(file.read_text(encoding="utf-8")))
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
