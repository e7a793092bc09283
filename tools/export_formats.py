"""The file formats of an exported network: how each is written, and opened again for a comparison.

TorchScript: scripted, with metadata and configs inside as ``ckpt_export`` of MONAI puts them there.
ONNX: traced where spatial sizes are open, by the exporter that MONAI's ``onnx_export`` no longer uses. It
records sizes as operations, so that the file takes other sizes too, and needs seconds where the one based on
``torch.export`` needs minutes. That one serves networks of a fixed size, whose batch the tracing one fixes.
PT2: ``torch.export``, for ``torch.compile``, AOTInductor and Torch-TensorRT.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import save_net_with_metadata
from torch import Tensor, nn

from common.errors import InputError
from tools.export_inputs import InputFormat

INPUT, OUTPUT, BATCH = "image", "pred", "batch"
OPSET = 18  # the newest one that the tracing exporter fully supports
MAX_BATCH = 64
# torch.export takes a length of 1, which the coarsest features of the smallest image have, for a constant.
MIN_FACTOR, MAX_FACTOR = 2, 64


@dataclass(frozen=True)
class Source:
    """What is exported, and what goes into the files with it.

    Args:
        network: in deployment form, in evaluation mode.
        taken: form of its input.
        metadata: content of ``metadata.json``.
        configs: file name and content of each config that the network was built from.
    """

    network: nn.Module
    taken: InputFormat
    metadata: Mapping[str, Any]
    configs: Mapping[str, Any]


@dataclass(frozen=True)
class FileFormat:
    """One file format.

    Args:
        file: name of the file.
        write: from a source to a path.
        load: from a path to a function of an image (B, C, ...) that gives logits (B, K, ...).
        modules: what has to be installed for it.
        least_factor: smallest size on open axes, in multiples of what the network takes.
    """

    file: str
    write: Callable[[Source, Path], None]
    load: Callable[[Path], Callable[[Tensor], Tensor]]
    modules: tuple[str, ...] = ()
    least_factor: int = 1

    def check_installed(self) -> None:
        """Raise InputError if a module that this format needs is not installed."""
        missing = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if missing:
            raise InputError(
                f"{self.file}: expected {', '.join(self.modules)} to be installed, found no"
                f" {', '.join(missing)}; pip install -e .[onnx]"
            )


def write_torchscript(source: Source, path: Path) -> None:
    """Script the network and save it with its metadata and configs."""
    with warnings.catch_warnings():
        # MONAI Label and MONAI's other tools still take this format alone.
        warnings.filterwarnings("ignore", ".*torch.jit.*", DeprecationWarning)
        scripted = torch.jit.script(source.network)
    extra = {f"{name}.json": json.dumps(content).encode() for name, content in source.configs.items()}
    save_net_with_metadata(
        scripted,
        str(path),
        include_config_vals=False,
        append_timestamp=False,
        meta_values=dict(source.metadata),
        more_extra_files=extra,
    )


def load_torchscript(path: Path) -> Callable[[Tensor], Tensor]:
    """A scripted network."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.*", DeprecationWarning)
        return torch.jit.load(str(path), map_location="cpu").eval()


def write_onnx(source: Source, path: Path) -> None:
    """Convert the network; batch and spatial sizes stay open where the network allows it."""
    import onnx

    is_open = any(axis.multiple for axis in source.taken.axes)
    with warnings.catch_warnings(), torch.no_grad(), _unlogged():
        # That Python looked at a size is what the comparison at other sizes is for.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)  # of the exporters' own parts
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.onnx")
        torch.onnx.export(
            source.network,
            # What is based on torch.export takes a batch of 1 for a constant.
            (source.taken.random_image(1 if is_open else 2, seed=0),),
            str(path),
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            **(_traced(source) if is_open else _exported()),
        )
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {"metadata": json.dumps(source.metadata)})
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path))


def load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """A network in onnxruntime, on the processor, with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])


def write_pt2(source: Source, path: Path) -> None:
    """Export with ``torch.export``; batch and spatial sizes stay open where the network allows it."""
    sizes: dict[int, Any] = {0: torch.export.Dim(BATCH, min=1, max=MAX_BATCH)}
    for index, axis in enumerate(source.taken.axes):
        if axis.multiple:
            factor = torch.export.Dim(f"{axis.name}_steps", min=MIN_FACTOR, max=MAX_FACTOR)
            sizes[2 + index] = axis.multiple * factor if axis.multiple > 1 else factor
    image = source.taken.random_image(2, 0, source.taken.missing_steps(MIN_FACTOR))
    program = torch.export.export(source.network, (image,), dynamic_shapes=(sizes,), strict=False)
    extra = {f"{name}.json": json.dumps(content) for name, content in source.configs.items()}
    torch.export.save(program, str(path), extra_files={"metadata.json": json.dumps(source.metadata), **extra})


def load_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    """A network from ``torch.export``."""
    return torch.export.load(str(path)).module()


def _traced(source: Source) -> dict[str, Any]:
    axes = {0: BATCH, **{2 + i: axis.name for i, axis in enumerate(source.taken.axes) if axis.multiple}}
    return {"dynamo": False, "dynamic_axes": {INPUT: axes, OUTPUT: axes}}


def _exported() -> dict[str, Any]:
    batch = torch.export.Dim(BATCH, min=1, max=MAX_BATCH)
    return {"dynamo": True, "dynamic_shapes": ({0: batch},), "external_data": False, "verbose": False}


@contextmanager
def _unlogged() -> Iterator[None]:
    """Without the exporter's notes on packages that nothing here needs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


FORMATS = {
    "torchscript": FileFormat("model.ts", write_torchscript, load_torchscript),
    "onnx": FileFormat("model.onnx", write_onnx, load_onnx, ("onnx", "onnxruntime", "onnxscript")),
    "pt2": FileFormat("model.pt2", write_pt2, load_pt2, least_factor=MIN_FACTOR),
}
