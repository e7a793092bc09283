"""Runs a bundle's configs in this process, small."""

import json
from contextlib import suppress
from pathlib import Path

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.engines.input_errors import find_input_error

REPOSITORY = Path(__file__).resolve().parents[2]

# Shrink any run to seconds; the sizes still pass every stage of the pipeline.
SHORT = {
    "num_workers": 0,
    "cache_rate": 0.0,
    "max_epochs": 1,
    "iterations_per_epoch": 2,
    "val_interval": 1,
}
SMALL_KCBAC = {"network_def::base_width": 2, "network_def::num_scales": 2}
TINY = {**SHORT, **SMALL_KCBAC}
TINY_3D = {**TINY, "spacing_mm": [4.0] * 3, "roi_size": [16] * 3, "batch_size": 2, "sw_batch_size": 4}
TINY_2D = {**TINY, "roi_size": [32, 32], "batch_size": 2}
SMALL_M2SNET = {"network_def::width": 8, "network_def::blocks": [1, 1, 1, 1]}
TINY_M2SNET = {
    **SHORT,
    **SMALL_M2SNET,
    "image_size": [64, 64],
    "train_sizes": [32, 64],
    "batch_size": 2,
    "pretrained": False,
    "feature_weight": 0,
}


def config_files(bundle: str, *names: str) -> list[str]:
    """Paths of a bundle's config files; a name with a slash is taken as it is."""
    folder = REPOSITORY / "bundles" / bundle / "configs"
    return [name if "/" in name else str(folder / f"{name}.json") for name in names]


SMALL_CROSSDOMAIN = {"network_def::widths": [2, 3, 4, 4, 4]}
TINY_CROSSDOMAIN = {
    **SHORT,
    **SMALL_CROSSDOMAIN,
    "image_size": [32, 32],
    "batch_size": 2,
    "num_held_out": 1,
}

SMALL_DMNET = {"network_def::encoder": "resnet10", "network_def::width": 8}
TINY_DMNET = {
    **SHORT,
    **SMALL_DMNET,
    "image_size": [32, 32],
    "batch_size": 2,
    "label_budget": 0.5,
}

SMALL_SKC = {"network_def::width": 2}
TINY_SKC = {
    **SHORT,
    **SMALL_SKC,
    "image_size": [40, 40, 40],
    "roi_size": [32, 32, 32],
    "learning_rate": 0.01,
    "sw_batch_size": 8,
}


def places(folder: Path) -> dict[str, str]:
    """Settings that make a run write into a folder."""
    return {"output_dir": str(folder / "output"), "model_dir": str(folder / "models")}


def run(bundle: str, names, workflow_type="train", **overrides) -> ConfigWorkflow:
    """Initialize, run and finalize the merged configs; an input error comes out as on the command line."""
    try:
        return _run(bundle, names, workflow_type, overrides)
    except RuntimeError as error:
        found = find_input_error(error)
        if found is None:
            raise
        raise found from None


def _run(bundle, names, workflow_type, overrides):
    workflow = ConfigWorkflow(
        config_file=config_files(bundle, *names),
        workflow_type=workflow_type,
        logging_file=False,
        bundle_root=str(REPOSITORY / "bundles" / bundle),
        **overrides,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


def network_shapes(bundle: str, base: str, *overlays: str) -> dict[str, torch.Size]:
    """Shapes of all tensors of the network that a complete file and overlays make."""
    parser = ConfigParser()
    parser.read_config(config_files(bundle, base, *overlays))
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    return {name: value.shape for name, value in network.state_dict().items()}


def network_overlays(bundle: str) -> list[str]:
    """Names of a bundle's overlays that may change its network."""
    folder = REPOSITORY / "bundles" / bundle / "configs"
    return sorted(
        f.stem for start in ("ablate_", "network_", "preset_") for f in folder.glob(f"{start}*.json")
    )


def report(folder: Path) -> dict:
    """What the evaluation of a run in this folder reported."""
    return json.loads((folder / "output" / "report.json").read_text())


def segment(bundle: str, trained: Path, source: Path, folder: Path, *overlays: str, **overrides):
    """Apply what was trained in a folder, with the settings that training wrote down."""
    settings = {"dataset_dir": str(source), "model_dir": str(trained / "models"), "output_dir": str(folder)}
    as_trained = str(trained / "models" / "as_trained.json")
    return run(bundle, ["inference", as_trained, *overlays], "infer", **{**settings, **overrides})


def run_cut_off_and_resumed(bundle: str, **settings) -> None:
    """A training that dies in its third iteration and is continued."""

    def die(engine):
        if engine.state.iteration == 3:
            raise KeyboardInterrupt

    folder = str(REPOSITORY / "bundles" / bundle)
    cut = ConfigWorkflow(
        config_file=config_files(bundle, "train"), logging_file=False, bundle_root=folder, **settings
    )
    cut.initialize()
    cut.parser.get_parsed_content("network")  # first, as in a run: initial weights depend on it
    cut.parser.get_parsed_content("train::trainer").add_event_handler(Events.ITERATION_COMPLETED, die)
    with suppress(KeyboardInterrupt):
        cut.run()
    run(bundle, ["train"], resume=True, **settings)


def tensorboard_tags(folder: Path) -> set[str]:
    """Names of the curves that a run in this folder wrote."""
    tags: set[str] = set()
    for file in (folder / "output").glob("events.out.tfevents*"):
        events = EventAccumulator(str(file))
        events.Reload()
        tags |= set(events.Tags()["scalars"])
    return tags
