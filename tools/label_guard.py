"""What a request to the MONAI Label server may say; the rest is refused before MONAI Label acts on it.

MONAI Label uses texts of requests as paths, and as values in a bundle's configuration, where a text that
begins with ``$`` is executed. So names have to be names, numbers have to be numbers, and files have to lie in
the folders of the server.

Only the standard library is used: this module also runs in the environment of the server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

NAME = re.compile(r"[\w][\w. +=()-]{0,199}")
DEVICE = re.compile(r"[A-Za-z][\w .:()/+-]{0,99}")
# What a client may set and MONAI Label turns into a path, a word of a command or a value of a configuration.
TEXTS = {
    "device": DEVICE,
    "gpus": re.compile(r"all|\d+(,\d+)*"),
    "label_tag": NAME,
    "logging": re.compile(r"(?i)debug|info|warning|error|critical"),
    "model": NAME,
    "model_filename": NAME,
    "result_dtype": re.compile(r"u?int(8|16|32)|float(32|64)"),
    "result_extension": re.compile(r"(\.[A-Za-z0-9]{1,8}){1,3}"),
    "run_id": NAME,
    # Any other value would be a file of settings, which are code.
    "tracking": re.compile(r"(?i)(none)?"),
}
NUMBERS = ("max_epochs", "val_split", "max_batch_size", "max_workers")
SWITCHES = ("pretrained", "multi_gpu", "force_multi_gpu")
# Set by the server itself. From a client they would be a folder of code and a file to read.
NOT_FROM_CLIENTS = ("bundle_path", "image_path", "session")
CODE = ("$", "@", "%")


class RefusedError(ValueError):
    """A request that is not carried out; the message says which part of it and why."""


def check_address(path: str, query: Iterable[tuple[str, str]]) -> None:
    """Refuse an address that climbs out of a folder or names one from the root.

    Args:
        path: decoded path of the request.
        query: decoded names and values behind the question mark.

    Raises:
        RefusedError: a part is ``..``, a value is an absolute path, or there is a backslash or a zero byte.
    """
    for what, text in (("address", path), *query):
        if ".." in text.split("/") or "\\" in text or "\0" in text:
            raise RefusedError(f"{what}: expected no '..', no backslash and no zero byte, got {text!r}")
        if what != "address" and text.startswith(("/", "~")):
            raise RefusedError(f"{what}: expected a name, got the path {text!r}")


def check_origin(origin: str, host_names: Iterable[str]) -> None:
    """Refuse what a web page of another site sends through the browser of somebody on this machine.

    Args:
        origin: header of the request, empty if there is none, as from programs.
        host_names: names by which the server is reached.

    Raises:
        RefusedError: the page is of another host.
    """
    if origin and urlsplit(origin).hostname not in host_names:
        raise RefusedError(f"origin: a page of {origin!r} may not use this server")


def check_name(name: str, what: str) -> None:
    """Refuse what cannot be the name of one file or folder in a given folder.

    Args:
        name: text from a request.
        what: what it names, for the message.

    Raises:
        RefusedError: empty, too long, hidden, or with signs other than letters, digits and ``. +=()-_``.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or name.endswith("."):
        raise RefusedError(f"{what}: expected letters, digits and '. +=()-_', got {name!r}")


def check_settings(settings: Mapping[str, Any], is_from_client: bool = True) -> None:
    """Refuse settings of a request that would be code, or a path, or of another type.

    Args:
        settings: what the client sent for one inference or training.
        is_from_client: False for a request that the server has already completed with entries of its own.

    Raises:
        RefusedError: names the first setting that is not as expected.
    """
    for name, value in settings.items():
        if is_from_client and name in NOT_FROM_CLIENTS:
            raise RefusedError(f"{name}: is not for clients to set")
        if name in TEXTS:
            _check_text(name, value)
        elif name in NUMBERS and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise RefusedError(f"{name}: expected a number, got {value!r}")
        elif name in SWITCHES and not isinstance(value, bool):
            raise RefusedError(f"{name}: expected true or false, got {value!r}")
        for text in _texts(value):
            if text.startswith(CODE):
                raise RefusedError(
                    f"{name}: expected no text that begins with {' or '.join(CODE)}, got {text!r}"
                )


def check_file(path: str, folders: Iterable[str | Path], what: str) -> None:
    """Refuse a file or folder that lies, links followed, outside of all given folders.

    Args:
        path: of an existing file or folder.
        folders: where it may lie.
        what: what it is, for the message.

    Raises:
        RefusedError: it lies elsewhere.
    """
    real = Path(path).resolve()
    if not any(real.is_relative_to(Path(folder).resolve()) for folder in folders):
        raise RefusedError(f"{what}: {path!r} is not in the folders of this server")


def _check_text(name: str, value: Any) -> None:
    # Viewers send the list of choices back where the user has chosen none: MONAI Label takes the first.
    text = value[0] if isinstance(value, list) and value else value
    if text not in (None, "") and not (isinstance(text, str) and TEXTS[name].fullmatch(text)):
        raise RefusedError(f"{name}: {text!r} cannot be one")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
