"""Turns weights that others have released into a file that our networks load.

    python -m common.import_weights --bundle_dir bundles/m2snet_polyp --source FILE.pth \
        --target bundles/m2snet_polyp/models/model.pt

What a file holds is recognized by the names of its tensors, see :mod:`common.weight_names`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.utils import ensure_tuple
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from common.bundle_config import inference_config
from common.data.image_files import joined
from common.data.writers import atomic_path
from common.engines.input_errors import report_plainly
from common.engines.weights import read_checkpoint
from common.errors import InputError
from common.weight_names import RELEASED, ReleasedNames

_LISTED = 3
# PyTorch before 0.4.1 did not write these; it has read their absence as zero ever since.
_COUNTER = "num_batches_tracked"


def import_weights(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    bundle_dir: str | os.PathLike[str] | None = None,
    kind: str | None = None,
    overlays: str | Sequence[str] = (),
    overwrite: bool = False,
    **overrides: Any,
) -> str:
    """Convert a released weight file; nothing in the file is executed.

    Args:
        source: file written by ``torch.save``: a dictionary of tensors, with or without the ``module.``
            prefix of parallel training.
        target: file to write: a plain state dict, which the network loads strictly.
        bundle_dir: bundle whose network the weights must fit (``network_def`` of its ``inference.json``);
            ``None``: the published form of the network.
        kind: a name of :data:`common.weight_names.RELEASED`; ``None``: told by the names in the file.
        overlays: config files merged after ``inference.json``: paths, or names of files in ``configs``.
        overwrite: whether ``target`` may exist.
        **overrides: settings of the bundle, such as ``out_channels`` or ``network_def::unit``.

    Returns:
        What was recognized, written and left out, in one line.

    Raises:
        InputError: unreadable or unrecognized file, tensors missing, unexpected or of another shape, a bundle
            without network, or a target that exists.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if not source.is_file():
        raise InputError(f"{source}: expected released weights, found no file")
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists already; give another target, or overwrite it (--overwrite True)")
    found = plain(read_checkpoint(source, "cpu"), source)
    kind = _recognized(found, source) if kind is None else kind
    if kind not in RELEASED:
        raise InputError(f"kind: expected one of {', '.join(RELEASED)}, found {kind!r}")
    released = RELEASED[kind]
    network = _network(released, bundle_dir, ensure_tuple(overlays), overrides)
    weights = convert(found, released, network, source)
    with atomic_path(target) as temporary:
        torch.save(weights, temporary)
    used = {released.name_in_file(name) for name in weights}
    left_out = sorted(found.keys() - used)
    return (
        f"{target}: {len(weights)} tensors of {kind} ({released.title}), left out as unused:"
        f" {joined(left_out) or 'none'}"
    )


def plain(checkpoint: Any, source: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, without the prefix of parallel training.

    Args:
        checkpoint: what the file holds.
        source: the file, for messages.

    Raises:
        InputError: anything but named tensors in it, or nothing at all.
    """
    if not isinstance(checkpoint, Mapping):
        raise InputError(f"{source}: expected a dictionary of tensors, found {type(checkpoint).__name__}")
    others = [
        f"{name} ({type(value).__name__})"
        for name, value in checkpoint.items()
        if not isinstance(name, str) or not isinstance(value, Tensor)
    ]
    if others or not checkpoint:
        raise InputError(
            f"{source}: expected a dictionary of named tensors, found "
            + (f"{len(others)} other entries: {joined(others, _LISTED)}" if others else "an empty one")
        )
    weights = dict(checkpoint)
    consume_prefix_in_state_dict_if_present(weights, "module.")
    return weights


def convert(
    found: Mapping[str, Tensor], released: ReleasedNames, network: nn.Module, source: Path
) -> dict[str, Tensor]:
    """State dict of a network from tensors under other names.

    Args:
        found: tensors by the names of the file.
        released: the names of this kind of file.
        network: tells what is expected; may be on the meta device.
        source: where the tensors come from, for messages.

    Returns:
        Tensors by the names of ``network``, in its order and types. Counters of batches, which old files do
        not have, are 0 there.

    Raises:
        InputError: tensors are missing, unexpected, of another shape, or not the constant they must be; names
            some of each as the file does.
    """
    expected = {released.name_in_file(name): (name, value) for name, value in network.state_dict().items()}
    problems = {
        "missing": [name for name in expected if name not in found and not name.endswith(_COUNTER)],
        "unexpected": [
            name
            for name in found
            if name not in expected and name not in released.unused and name not in released.constants
        ],
        "of another shape": [
            f"{name} (expected {list(value.shape)}, found {list(found[name].shape)})"
            for name, (_, value) in expected.items()
            if name in found and found[name].shape != value.shape
        ],
        "of other values": [
            f"{name} (expected {value:g} everywhere)"
            for name, value in released.constants.items()
            if name in found and not bool((found[name] == value).all())
        ],
    }
    lines = [f"  - {len(n)} {what}: {joined(n, _LISTED)}" for what, n in problems.items() if n]
    if lines:
        fitting = "" if released.part is None else f", fitting the network {type(network).__name__}"
        headline = f"{source}: expected {released.title}{fitting}; differences in tensors:"
        raise InputError("\n".join([headline, *lines]))
    return {
        own: found[name].detach().to(value.dtype, copy=True)
        if name in found
        else torch.zeros(value.shape, dtype=value.dtype)
        for name, (own, value) in expected.items()
    }


def _recognized(found: Mapping[str, Tensor], source: Path) -> str:
    """The one kind of file that the names fit."""

    def occurs(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in found)

    fitting = [
        kind
        for kind, released in RELEASED.items()
        if all(map(occurs, released.has)) and not any(map(occurs, released.lacks))
    ]
    if len(fitting) == 1:
        return fitting[0]
    known = [
        f"  - {kind}: {released.title}; names begin with {', '.join(released.has)}"
        + (f" and none with {', '.join(released.lacks)}" if released.lacks else "")
        for kind, released in RELEASED.items()
    ]
    raise InputError(
        f"{source}: expected weights of a known kind, found {len(found)} tensors that fit"
        f" {' and '.join(fitting) or 'none'}: {joined(found, _LISTED)}; known are\n"
        + "\n".join([*known, "give the kind (--kind) to see what a file lacks"])
    )


def _network(
    released: ReleasedNames,
    bundle_dir: str | os.PathLike[str] | None,
    overlays: Sequence[str],
    overrides: Mapping[str, Any],
) -> nn.Module:
    """What the weights must fit, on the meta device: of the bundle, or in its published form."""
    with torch.device("meta"):
        if bundle_dir is None:
            if overlays or overrides:
                given = joined([*overlays, *overrides])
                raise InputError(f"bundle_dir: expected the bundle that {given} belong to, found none")
            return released.build()
        network = _bundle_network(Path(bundle_dir), overlays, overrides)
        if released.part is None:
            return released.build()
    try:
        return network.get_submodule(released.part)
    except AttributeError as error:
        raise InputError(
            f"{bundle_dir}: expected a network with the part {released.part!r}, which {released.title} is,"
            f" found {type(network).__name__}"
        ) from error


def _bundle_network(bundle_dir: Path, overlays: Sequence[str], overrides: Mapping[str, Any]) -> nn.Module:
    parser = inference_config(bundle_dir, overlays, **overrides)
    if "network_def" not in parser:
        raise InputError(f"{bundle_dir}: expected the bundle's network under network_def, found no such key")
    return parser.get_parsed_content("network_def")


if __name__ == "__main__":
    import fire

    report_plainly()
    fire.Fire(import_weights)
