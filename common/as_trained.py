"""Keeps inference in step with training: the settings of a run, written beside its weights as an overlay."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from common.bundle_config import running_workflow
from common.data.writers import atomic_path

FILE_NAME = "as_trained.json"
# Where things lie and how fast they go is decided anew at each call; what the network saw is not.
LOCAL = (
    "imports",
    "bundle_root",
    "dataset_dir",
    "output_dir",
    "model_dir",
    "device",
    "is_main",
    "num_workers",
)


def save_as_trained(model_dir: str | os.PathLike[str]) -> None:
    """Write the overlay that makes ``inference.json`` fit the running training; part of the ``run`` list.

    It holds the settings that both complete files know (network, classes, spacing, intensities, patch size)
    and whose values differ from those of ``inference.json``, evaluated, so that nothing of the training data
    is needed to use it::

        python -m monai.bundle run --config_file "['configs/inference.json','models/as_trained.json']" ...

    Outside a workflow nothing is written.

    Args:
        model_dir: folder of the run's weights.
    """
    workflow = running_workflow()
    if workflow is None:
        return
    inference = json.loads((Path(workflow.config_root_path) / "inference.json").read_text(encoding="utf-8"))
    # A copy, as the running configuration must not be evaluated a second time in place.
    training = ConfigParser(copy.deepcopy(workflow.parser.get()))
    shared = [key for key in inference if key in training.get() and key not in LOCAL]
    knobs = [key for key in shared if not isinstance(inference[key], dict) and not _is_code(inference[key])]
    overlay = {key: training.get_parsed_content(key) for key in knobs}
    overlay = {key: value for key, value in overlay.items() if value != inference[key]}
    overlay.update(_network_settings(training, inference["network_def"]))
    with atomic_path(Path(model_dir) / FILE_NAME) as temporary:
        temporary.write_text(json.dumps(overlay, indent=2) + "\n", encoding="utf-8")


def _is_code(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_code, value))
    return isinstance(value, str) and value.startswith("$")


def _network_settings(training: ConfigParser, inference: dict[str, Any]) -> dict[str, Any]:
    trained = training.get()["network_def"]
    values = {key: training.get_parsed_content(f"network_def::{key}") for key in trained}
    if trained["_target_"] != inference["_target_"]:
        return {"network_def": values}
    differing = {key: value for key, value in values.items() if trained[key] != inference.get(key)}
    return {f"network_def::{key}": value for key, value in differing.items()}
