"""Weight files that others publish: fetched once from their public address, or read from a local copy."""

from __future__ import annotations

import os
from typing import Any

import torch

from common.errors import InputError


def read_public_weights(
    url: str, path: str | os.PathLike[str] | None, what: str, setting: str, without: str
) -> Any:
    """Content of a weight file; nothing in it is executed.

    Args:
        url: public address. The file's name must end with the start of its SHA-256 (``name-3cf99910.pth``),
            which is checked.
        path: local copy; ``None``: downloaded once into torch's hub folder (``TORCH_HOME``).
        what: what the file holds, for messages.
        setting: name of the setting that takes ``path``, for messages.
        without: how to go on without the file, for messages.

    Returns:
        Whatever the file holds, usually a dictionary of tensors on the CPU.

    Raises:
        InputError: no such file, unreadable, or it cannot be downloaded.
    """
    if path is None:
        return _download(url, what, setting, without)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: expected {what}, found no file; fetch {url}, {without}") from error
    except Exception as error:  # torch.load fails with many types, from KeyError to UnpicklingError
        raise InputError(
            f"{path}: expected {what}, found a file that torch.load(weights_only=True) refuses"
            f" ({type(error).__name__}); fetch {url}, {without}"
        ) from error


def _download(url: str, what: str, setting: str, without: str) -> Any:
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except Exception as error:  # no network, no space, wrong hash, damaged copy: many types
        raise InputError(
            f"{url}: {what} could not be fetched ({error}); fetch this file on another machine and give its"
            f" path ({setting}), {without}"
        ) from error
