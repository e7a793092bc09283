"""Starts a network from public weights of its encoder, fetched or read from a local copy."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from common.engines.weights import unwrapped
from common.errors import InputError
from common.import_weights import convert, plain
from common.public_weights import read_public_weights
from common.weight_names import RELEASED

WITHOUT = "or train from scratch (pretrained false)"


def load_pretrained(network: nn.Module, kind: str, path: str | os.PathLike[str] | None = None) -> None:
    """Fill a part of a network with public weights; part of the ``run`` list of a training.

    Args:
        network: has the part that the weights fill, in its published form; parallel wrappers are looked
            through.
        kind: a name of :data:`common.weight_names.RELEASED` with a public address, e.g. ``res2net50_v1b``.
        path: local copy of the file; ``None``: downloaded once into torch's hub folder (``TORCH_HOME``) and
            checked by hash.

    Raises:
        InputError: unknown kind, no such file, unreadable, no download, or weights of another network.
    """
    published = [name for name, released in RELEASED.items() if released.url and released.part]
    if kind not in published:
        raise InputError(f"kind: expected one of {', '.join(published)}, found {kind!r}")
    released = RELEASED[kind]
    part = unwrapped(network).get_submodule(released.part)
    checkpoint = read_public_weights(
        released.url, path, f"the weights of {released.title}", "pretrained_path", WITHOUT
    )
    source = Path(released.url if path is None else path)
    part.load_state_dict(convert(plain(checkpoint, source), released, part, source))
