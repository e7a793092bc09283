"""Exports a bundle's network to TorchScript, ONNX and PT2, and compares each file with the trained network.

    python -m tools.export_bundle --bundle_dir bundles/kcbac_mmwhs --output_dir dist/export
    python -m tools.export_bundle --bundle_dir bundles/kcbac_mmwhs --output_dir dist/export \
        --with as_trained --checkpoint bundles/kcbac_mmwhs/models/model_best.pt --image scan.nii.gz

The network is exported in its deployment form (overlay ``export.json``, if the bundle has one) and compared
with its training form in evaluation: on random images of several sizes, of the form that the metadata state,
and with ``--image`` on what the bundle's own preprocessing and inferer make of an image. Only if all formats
agree, ``model.ts``, ``model.onnx``, ``model.pt2`` and ``parity.json`` appear in the output folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from common.bundle_config import inference_config
from common.engines.weights import load_weights
from common.errors import InputError
from tools.export_formats import FORMATS, Source
from tools.export_inputs import InputFormat, input_format, real_images
from tools.export_parity import parity_report, table

REPOSITORY = Path(__file__).resolve().parents[1]
DEPLOYMENT = "export.json"
TOLERANCE = 1e-3
SEED = 0
MAX_REASON = 500
# No downloads, no progress bars, and the same device for all formats.
QUIET = {"device": "cpu", "is_main": False, "load_pretrain": False}


@dataclass(frozen=True)
class Request:
    """What to export.

    Args:
        bundle_dir: the bundle's folder.
        output_dir: for the files; made if absent.
        overlays: names of overlays in the bundle's ``configs`` or ``models``, or paths, in their order.
        checkpoint: weight file; the bundle's own if None.
        formats: names of ``FORMATS``.
        image: file or folder that the bundle can segment, or None.
        size: of the random image, see :func:`~tools.export_inputs.input_format`.
        random_weights: take random weights, to check the export without a checkpoint.
        max_images: calls of the network that are compared on ``image``.
    """

    bundle_dir: Path
    output_dir: Path
    overlays: tuple[str, ...] = ()
    checkpoint: Path | None = None
    formats: tuple[str, ...] = tuple(FORMATS)
    image: Path | None = None
    size: tuple[int, ...] = ()
    random_weights: bool = False
    max_images: int = 8


def export_bundle(request: Request) -> list[dict[str, Any]]:
    """Write the files and the report.

    Returns:
        The report's rows, see :func:`~tools.export_parity.parity_report`.

    Raises:
        InputError: a file is missing or does not fit, a format needs what is not installed, or an exported
            network differs by more than 0.001 of the largest logit. Nothing is written then.
    """
    for name in request.formats:
        FORMATS[name].check_installed()
    if request.image is not None and not request.image.exists():
        raise InputError(f"{request.image}: expected an image to compare on, found nothing")
    reference = trained_network(request)
    deployed = deployment_form(request, reference)
    parser = _config(request)
    metadata = parser.get("_meta_")
    taken = input_format(metadata, deployed, request.size, _network_arguments(parser))
    images = {"random": taken.random_images(max(FORMATS[name].least_factor for name in request.formats))}
    if request.image is not None:
        images["real"] = real_images(parser, request.max_images)
    source = Source(deployed, taken, metadata, {"inference": _network_config(request)})
    request.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=request.output_dir) as aside:
        files = _write(source, request.formats, Path(aside))
        networks = {"eager": reference, "eager, deployment form": deployed}
        networks |= {name: FORMATS[name].load(file) for name, file in files.items()}
        sizes_mb = {name: file.stat().st_size / 1e6 for name, file in files.items()}
        rows = parity_report(networks, images, sizes_mb, partial(_takes, taken))
        _check(rows)
        report = {"input": _described(taken), "rows": rows, **_origin(request, metadata)}
        (Path(aside) / "parity.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        for file in (*files.values(), Path(aside) / "parity.json"):
            file.replace(request.output_dir / file.name)
    return rows


def trained_network(request: Request) -> nn.Module:
    """The network in its training form, in evaluation mode, with the weights that are asked for."""
    parser = _config(request)
    if request.random_weights:
        torch.manual_seed(SEED)
    network = parser.get_parsed_content("network_def").eval()
    if request.random_weights:
        scramble_norms(network)
        return network
    own = parser.get("checkpoint")
    checkpoint = request.checkpoint or Path(
        parser.get_parsed_content("checkpoint") if own else request.bundle_dir / "models" / "model.pt"
    )
    if not checkpoint.is_file():
        raise InputError(
            f"{checkpoint}: expected trained weights to export, found no file; train first, name a file with"
            " --checkpoint, or give --random_weights to check the export alone"
        )
    load_weights(network, checkpoint)
    return network


def deployment_form(request: Request, reference: nn.Module) -> nn.Module:
    """The network as ``export.json`` builds it, with the weights of the training form.

    Without that overlay the bundle has no other form, and the network itself is returned.
    """
    if not (request.bundle_dir / "configs" / DEPLOYMENT).is_file():
        return reference
    network = _config(request, DEPLOYMENT).get_parsed_content("network_def").eval()
    network.load_state_dict(reference.state_dict())
    return network


def scramble_norms(network: nn.Module) -> None:
    """Give normalizations random weights and statistics, as fresh ones hide what folding them does."""
    generator = torch.Generator().manual_seed(SEED)
    entries = [*network.named_parameters(), *network.named_buffers()]
    kinds = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
    norms = {name for name, module in network.named_modules() if isinstance(module, kinds)}
    for name, tensor in entries:
        owner, _, kind = name.rpartition(".")
        if owner in norms and tensor.is_floating_point():
            drawn = torch.rand(tensor.shape, generator=generator)
            is_offset = kind in ("bias", "running_mean")
            tensor.data.copy_(0.2 * (drawn - 0.5) if is_offset else 0.75 + 0.5 * drawn)


def main(arguments: Sequence[str] | None = None) -> int:
    """Export one bundle, print the comparison, return the exit code."""
    parser = argparse.ArgumentParser(
        description="Export a bundle's network and compare it with the trained one."
    )
    parser.add_argument("--bundle_dir", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--with", dest="overlays", nargs="+", default=[], help="overlays, such as as_trained")
    parser.add_argument("--checkpoint", type=Path, help="weights; the bundle's own if absent")
    parser.add_argument("--formats", nargs="+", choices=tuple(FORMATS), default=tuple(FORMATS))
    parser.add_argument("--image", type=Path, help="compare on this image, too")
    parser.add_argument("--size", nargs="+", type=int, default=[], help="of the random image")
    parser.add_argument("--random_weights", action="store_true", help="no trained weights: a check alone")
    parser.add_argument("--max_images", type=int, default=8, help="network calls compared on --image")
    given = vars(parser.parse_args(arguments))
    try:
        request = Request(**{key: tuple(v) if isinstance(v, list) else v for key, v in given.items()})
        rows = export_bundle(request)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    return 0


def _config(request: Request, *last: str) -> ConfigParser:
    """The merged inference configuration with metadata, nothing of it built yet."""
    folders = [request.bundle_dir / "configs", request.bundle_dir / "models"]
    overlays = []
    for name in request.overlays:
        found = [f"{folder}/{name}.json" for folder in folders if (folder / f"{name}.json").is_file()]
        overlays.append(found[0] if found else name)
    settings: dict[str, Any] = dict(QUIET)
    if request.image is not None:
        settings["dataset_dir"] = str(request.image)
    parser = inference_config(request.bundle_dir, [*overlays, *last], **settings)
    metadata = request.bundle_dir / "configs" / "metadata.json"
    if not metadata.is_file():
        raise InputError(f"{metadata}: expected the bundle's metadata, found no file")
    parser.read_meta(str(metadata))
    return parser


def _network_config(request: Request) -> dict[str, Any]:
    """The configuration of the exported network, with what overlays changed."""
    last = [DEPLOYMENT] if (request.bundle_dir / "configs" / DEPLOYMENT).is_file() else []
    content = dict(_config(request, *last).get())
    content.pop("_meta_", None)
    return content | {"bundle_root": "."}


def _network_arguments(parser: ConfigParser) -> dict[str, Any]:
    names = [name for name in ("in_channels", "spatial_dims") if f"network_def::{name}" in parser]
    return {name: parser.get_parsed_content(f"network_def::{name}") for name in names}


def _takes(taken: InputFormat, name: str, image: Tensor) -> bool:
    """Whether a format, by name, takes an image of this size; networks that are no file take all."""
    return name not in FORMATS or taken.has_factor(image, FORMATS[name].least_factor)


def _write(source: Source, formats: Sequence[str], folder: Path) -> dict[str, Path]:
    files = {}
    for name in formats:
        files[name] = folder / FORMATS[name].file
        try:
            FORMATS[name].write(source, files[name])
        except Exception as error:  # exporters raise types of their own
            reason = " ".join(str(error).split())[:MAX_REASON]
            raise InputError(f"{name}: cannot export {type(source.network).__name__}: {reason}") from error
    return files


def _check(rows: Sequence[dict[str, Any]]) -> None:
    if any(row["relative_difference"] > TOLERANCE for row in rows):
        raise InputError(
            f"an exported network differs by more than {TOLERANCE} of the largest logit; nothing was"
            f" written\n{table(rows)}"
        )


def _described(taken: InputFormat) -> dict[str, Any]:
    axes = {
        axis.name: f"multiple of {axis.multiple}, from {axis.least * axis.multiple} on"
        if axis.multiple
        else axis.size
        for axis in taken.axes
    }
    return {"channels": taken.channels, "batch": "any", **axes, "value_range": list(taken.value_range)}


def _origin(request: Request, metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "bundle": metadata.get("name", request.bundle_dir.name),
        "version": metadata.get("version"),
        "overlays": list(request.overlays),
        "weights": "random" if request.random_weights else "trained",
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
