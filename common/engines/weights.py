"""Loading trained weights, with an error that says what is wrong with the file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from common.errors import InputError

_NESTED_UNDER = ("network", "model", "state_dict")
_LISTED = 3


class WeightsLoader:
    """Engine handler that loads trained weights when the engine starts.

    Args:
        network: receives the weights.
        path: weight file, see :func:`load_weights`.
        map_location: device on which the file is read.
        fuse: then bring the network into its faster deployment form, if it has one (a method ``fuse``). The
            network cannot be trained any more.
    """

    def __init__(
        self,
        network: nn.Module,
        path: str | os.PathLike[str],
        map_location: str | torch.device = "cpu",
        fuse: bool = False,
    ) -> None:
        self.network = network
        self.path = path
        self.map_location = map_location
        self.fuse = fuse

    def attach(self, engine: Engine) -> None:
        """Hook into an engine.

        Args:
            engine: evaluator (or trainer) that needs the weights.
        """
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        load_weights(self.network, self.path, self.map_location)
        if self.fuse and hasattr(self.network, "fuse"):
            self.network.fuse()
        engine.logger.info(f"loaded weights from {self.path}")


def load_weights(
    network: nn.Module, path: str | os.PathLike[str], map_location: str | torch.device = "cpu"
) -> None:
    """Load a weight file into a network, strictly.

    Accepts a plain state dict or one nested under ``network``, ``model`` or ``state_dict``, with or without
    the ``module.`` prefix of parallel training. The network's own load hooks may convert keys.

    Args:
        network: receives the weights; parallel wrappers are looked through.
        path: file written by ``torch.save`` with tensors and plain values only.
        map_location: device on which the file is read.

    Raises:
        InputError: no such file, not a checkpoint of tensors, or the checkpoint of another network.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(
            f"{file}: expected trained weights, found no file; train first (train.json writes model.pt) or"
            " fetch the released weights that the bundle's README names"
        )
    checkpoint = read_checkpoint(file, map_location)
    nested = [checkpoint[key] for key in _NESTED_UNDER if isinstance(checkpoint.get(key), Mapping)]
    load_into(network, nested[0] if nested else checkpoint, file)


def read_checkpoint(file: Path, map_location: str | torch.device) -> Mapping[str, Any]:
    """Read a dictionary of tensors and plain values; nothing in the file is executed.

    Args:
        file: written by ``torch.save``.
        map_location: device for its tensors.

    Returns:
        The dictionary.

    Raises:
        InputError: torch refuses the file, or it holds something else than a dictionary.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns before it refuses a TorchScript archive
            checkpoint = torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:  # torch.load fails with many types, from KeyError to UnpicklingError
        raise InputError(
            f"{file}: expected a checkpoint of tensors as torch.save(network.state_dict(), ...) writes it,"
            f" found a file that torch.load(weights_only=True) refuses ({type(error).__name__}); it is"
            " damaged, no checkpoint, or holds pickled objects"
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise InputError(f"{file}: expected a dictionary of tensors, found {type(checkpoint).__name__}")
    return checkpoint


def load_into(network: nn.Module, weights: Mapping[str, Any], file: Path) -> None:
    """Load a state dict, strictly.

    Args:
        network: receives the weights; parallel wrappers are looked through.
        weights: state dict, with or without the ``module.`` prefix of parallel training.
        file: where the weights come from, for the message.

    Raises:
        InputError: keys or shapes differ; names some of each.
    """
    weights = dict(weights)
    consume_prefix_in_state_dict_if_present(weights, "module.")
    network = unwrapped(network)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        differences = _differences(network.state_dict(), weights) or [str(error)]
        raise InputError(
            f"{file}: holds the weights of another network\n" + "\n".join(differences)
        ) from error


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside a wrapper for parallel training, or the network itself."""
    is_wrapped = isinstance(network, (nn.parallel.DistributedDataParallel, nn.DataParallel))
    return network.module if is_wrapped else network


def _differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    shared = [key for key in expected if isinstance(found.get(key), Tensor)]
    kinds = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [str(key) for key in found if key not in expected],
        "of another shape": [
            f"{key} (expected {list(expected[key].shape)}, found {list(found[key].shape)})"
            for key in shared
            if expected[key].shape != found[key].shape
        ],
    }
    return [
        f"  - {len(keys)} {kind}: {', '.join(keys[:_LISTED])}{', ...' if len(keys) > _LISTED else ''}"
        for kind, keys in kinds.items()
        if keys
    ]
