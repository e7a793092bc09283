"""Checks of a bundle's network: sizes that it takes and gives, weights, and MONAI's own exports of it."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ckpt_export, onnx_export, verify_net_in_out
from monai.bundle.scripts import _get_fake_spatial_shape
from monai.data import load_net_with_metadata
from monai.utils import get_equivalent_dtype
from torch import Tensor, nn

from tools.verify_configs import Bundle
from tools.verify_rows import CheckError, NotCheckedError

NETWORK = "network_def"
DEPLOYMENT = "export"
# What MONAI and its zoo take for the letters in sizes like "16 * n" unless told, and a second choice.
FIRST_SIZE = {"n": 1, "p": 1, "any": 1}
SECOND_SIZE = {"n": 3, "p": 6, "any": 64}
TOLERANCE = 1e-3
WEIGHTS = "models/model.pt"
_NESTED_UNDER = ("network", "model", "state_dict")


def check_default_size(bundle: Bundle) -> str:
    """MONAI's own check with the sizes that the zoo's tests take."""
    files = bundle.config_files("inference" if bundle.config_file("inference") else "train")
    metadata = bundle.config_file("metadata")
    if metadata is None:
        raise CheckError("configs/metadata.json does not exist")
    verify_net_in_out(NETWORK, str(metadata), files, device="cpu", **FIRST_SIZE)
    return f"{NETWORK} takes {'x'.join(map(str, _shape(bundle.metadata(), 'inputs', 'image', FIRST_SIZE)))}"


def check_second_size(bundle: Bundle) -> str:
    """Two images of another size give what the metadata say, in number, channels, size and type."""
    metadata, network = bundle.metadata(), build_network(bundle)
    image = example(metadata, batch=2)
    with torch.no_grad():
        pred = network(image)
    if not isinstance(pred, Tensor):
        raise CheckError(f"expected one tensor, found {type(pred).__name__}")
    wanted = (2, *_shape(metadata, "outputs", "pred", SECOND_SIZE))
    dtype = get_equivalent_dtype(metadata["network_data_format"]["outputs"]["pred"]["dtype"], Tensor)
    if tuple(pred.shape) != wanted or pred.dtype != dtype:
        raise CheckError(f"expected {wanted} of {dtype}, found {tuple(pred.shape)} of {pred.dtype}")
    return f"{_written(image)} to {_written(pred)}"


def check_weights(bundle: Bundle) -> str:
    """The bundle's weights fit its network, every tensor of it."""
    file = bundle.folder / WEIGHTS
    if not file.is_file():
        listed = (bundle.folder / "large_files.yml").is_file()
        raise NotCheckedError(f"no {WEIGHTS}" + (", see large_files.yml" if listed else ""))
    weights = _plain_weights(torch.load(file, map_location="cpu", weights_only=True))
    build_network(bundle).load_state_dict(weights)
    return f"{len(weights)} tensors"


def check_torchscript(bundle: Bundle) -> str:
    """``ckpt_export`` writes a network that computes what the bundle's network does."""
    image = example(bundle.metadata(), batch=2)
    with tempfile.TemporaryDirectory() as folder:
        settings, network = _export_settings(bundle, Path(folder))
        ckpt_export(NETWORK, filepath=f"{folder}/model.ts", use_trace=False, **settings)
        exported = load_net_with_metadata(f"{folder}/model.ts")[0]
        return _compare(network, exported.eval(), image)


def check_onnx(bundle: Bundle) -> str:
    """``onnx_export`` writes a network that computes the same in onnxruntime."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if not importlib.util.find_spec(name)]
    if missing:
        raise NotCheckedError(f"not installed: {', '.join(missing)}")
    import onnxruntime

    image = example(bundle.metadata(), batch=2)
    with tempfile.TemporaryDirectory() as folder:
        settings, network = _export_settings(bundle, Path(folder))
        file = f"{folder}/model.onnx"
        onnx_export(NETWORK, filepath=file, input_shape=list(image.shape), **settings)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return _compare(network, lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), image)


def build_network(bundle: Bundle, *last: str) -> nn.Module:
    """The bundle's network in evaluation mode, on the processor, with random weights."""
    parser = ConfigParser()
    parser.read_config(
        bundle.config_files("inference" if bundle.config_file("inference") else "train", *last)
    )
    parser.update({"bundle_root": str(bundle.folder), "device": "cpu"})
    return parser.get_parsed_content(NETWORK).cpu().eval()


def example(metadata: Mapping[str, Any], batch: int) -> Tensor:
    """Random image (batch, channels, ...) of the second size, in the range that the metadata state."""
    values = metadata["network_data_format"]["inputs"]["image"].get("value_range") or (0, 1)
    shape = _shape(metadata, "inputs", "image", SECOND_SIZE)
    generator = torch.Generator().manual_seed(0)
    return values[0] + (values[1] - values[0]) * torch.rand((batch, *shape), generator=generator)


def _export_settings(bundle: Bundle, folder: Path) -> tuple[dict[str, Any], nn.Module]:
    """Arguments for MONAI's exports and the network to compare with: the trained form, before any folding."""
    checkpoint, network = bundle.folder / WEIGHTS, build_network(bundle)
    if checkpoint.is_file():
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)
        network.load_state_dict(_plain_weights(weights))
    checkpoint = folder / "model.pt"
    torch.save(network.state_dict(), checkpoint)
    base = "inference" if bundle.config_file("inference") else "train"
    settings = {
        "ckpt_file": str(checkpoint),
        "meta_file": str(bundle.config_file("metadata")),
        "config_file": bundle.config_files(base, DEPLOYMENT),
    }
    return settings, network


def _compare(network: nn.Module, exported: Any, image: Tensor) -> str:
    with torch.no_grad():
        wanted, found = network(image), exported(image)
    if wanted.shape != found.shape:
        raise CheckError(f"expected {_written(wanted)}, found {_written(found)}")
    difference, largest = float((wanted - found).abs().max()), float(wanted.abs().max())
    if not difference <= TOLERANCE * largest:
        raise CheckError(f"differs by {difference:.1e} where the largest value is {largest:.1e}")
    return f"{_written(image)} to {_written(found)}, largest difference {difference:.1e} of {largest:.1e}"


def _shape(metadata: Mapping[str, Any], group: str, name: str, letters: Mapping[str, int]) -> tuple[int, ...]:
    tensor = metadata["network_data_format"][group][name]
    return (tensor["num_channels"], *_get_fake_spatial_shape(tensor["spatial_shape"], **letters))


def _plain_weights(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = [checkpoint[key] for key in _NESTED_UNDER if isinstance(checkpoint.get(key), Mapping)]
    return nested[0] if nested else checkpoint


def _written(tensor: Tensor | Sequence[int]) -> str:
    return "x".join(map(str, tensor.shape if isinstance(tensor, Tensor) else tensor))
