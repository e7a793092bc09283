"""Starts a MONAI Label server, on this machine only, that offers bundles to viewers such as 3D Slicer.

    python -m tools.label_server kcbac_mmwhs --studies /data/scans
    python -m tools.label_server kcbac_mmwhs dmnet_kits --model_dir kcbac_mmwhs=demo/output/models
    python -m tools.label_server kcbac_mmwhs --studies http://127.0.0.1:8042/dicom-web

The first start makes the environment `.venv-label`. All files of the server go to `runs/label`. The printed
line can be pasted into a shell. See docs/monai_label.md.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tools.label_bundle import copy_bundle, keep_trained, missing_for
from tools.label_environment import (
    LabelEnvironmentError,
    environment_python,
    is_complete,
    make_environment,
)

REPOSITORY = Path(__file__).resolve().parents[1]
LOOPBACK = ("127.0.0.1", "localhost")
# Name in the app's folder and module here.
APP_FILES = {
    "main.py": "label_app.py",
    "label_asgi.py": "label_asgi.py",
    "label_guard.py": "label_guard.py",
}
EXTENSIONS = ["*.nii.gz", "*.nii", "*.nrrd", "*.png", "*.jpg", "*.tif"]


def model_dirs(bundles: Sequence[str], given: Sequence[str]) -> dict[str, Path]:
    """Folder of the weights of each bundle.

    Args:
        bundles: names of bundles.
        given: ``FOLDER`` for a single bundle, or ``BUNDLE=FOLDER``; by default ``bundles/BUNDLE/models``.

    Raises:
        ValueError: a folder for a bundle that is not served, or a folder for nobody knows which.
    """
    folders = {bundle: REPOSITORY / "bundles" / bundle / "models" for bundle in bundles}
    for text in given:
        bundle, equals, folder = text.partition("=")
        if not equals and len(bundles) == 1:
            bundle, folder = bundles[0], text
        elif not equals:
            raise ValueError(f"--model_dir {text}: say which bundle it belongs to: BUNDLE={text}")
        if bundle not in folders:
            raise ValueError(f"--model_dir {text}: {bundle!r} is none of: {', '.join(bundles)}")
        folders[bundle] = Path(folder).expanduser()
    return folders


def prepare_app(folders: dict[str, Path], app_dir: Path) -> list[str]:
    """Write the folder of the app: our main module, the bundles, and empty folders for what comes in.

    Args:
        folders: the bundles to serve, and where their weights are.
        app_dir: folder to write. What an earlier server trained there is kept.

    Returns:
        What the user should know, one line each.
    """
    notes = []
    for name in ("tmp", "work"):  # left over by an earlier server
        shutil.rmtree(app_dir / name, ignore_errors=True)
        (app_dir / name).mkdir(parents=True)
    for name, module in APP_FILES.items():
        shutil.copyfile(REPOSITORY / "tools" / module, app_dir / name)
    for bundle, model_dir in folders.items():
        served = app_dir / "model" / bundle
        kept = keep_trained(served, app_dir / "trained")
        if kept:
            notes.append(f"{bundle}: what an earlier server trained is now in {kept}")
        copy_bundle(bundle, model_dir, served)
    return notes


def server_environment(app_dir: Path, host: str, names: Sequence[str]) -> dict[str, str]:
    """Variables for the process of the server.

    Args:
        app_dir: folder of the app.
        host: address it listens on.
        names: further names by which it is reached.
    """
    defaults = {
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(EXTENSIONS),
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(app_dir / "dicom"),
    }
    own = {
        "LABEL_HOST_NAMES": ",".join(dict.fromkeys([*LOOPBACK, host, *names])),
        "MONAI_LABEL_SESSION_PATH": str(app_dir / "sessions"),
        # Programs of the environment: a converter to DICOM SEG, which would be downloaded, and torchrun.
        "PATH": os.pathsep.join([str(environment_python().parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(app_dir),
        "TMPDIR": str(app_dir / "tmp"),
    }
    return {**defaults, **os.environ, **own}


def server_command(bundles: Sequence[str], app_dir: Path, studies: str, host: str, port: int) -> list[str]:
    """Arguments of the server's Python."""
    settings = {"models": ",".join(bundles), "zoo_source": "local"}  # the default asks a server in the net
    command = ["-m", "monailabel.main", "start_server", "--app", str(app_dir), "--studies", studies]
    command += ["--host", host, "--port", str(port), "--uvicorn_app", "label_asgi:app"]
    for name, value in settings.items():
        command += ["--conf", name, value]
    return command


def main(arguments: list[str] | None = None) -> None:
    """Check, prepare and become the server; exit with code 2 if something is missing."""
    parser = _parser()
    options = parser.parse_args(arguments)
    app_dir = options.app_dir.resolve()
    studies = options.studies or str(app_dir / "studies")
    try:
        folders = model_dirs(options.bundles, options.model_dir)
        problems = [line for bundle, folder in folders.items() for line in missing_for(bundle, folder)]
        problems += _studies_problems(options.studies) + _port_problems(options.host, options.port)
        if problems:
            raise ValueError("\n".join(problems))
        if not is_complete():
            print("MONAI Label needs an environment of its own; making .venv-label", flush=True)
            make_environment()
        notes = prepare_app(folders, app_dir)
    except (LabelEnvironmentError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
    if "://" not in studies:
        Path(studies).mkdir(parents=True, exist_ok=True)
        studies = str(Path(studies).resolve())
    if not _is_loopback(options.host):
        notes.append(
            f"{options.host} can be reached from other machines, without a password: read 'Before others can"
            " reach it' in docs/monai_label.md"
        )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    command = server_command(options.bundles, app_dir, studies, options.host, options.port)
    environment = server_environment(app_dir, options.host, options.host_name)
    _become([str(environment_python()), *command], environment, app_dir)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", help="folder names under bundles/")
    parser.add_argument(
        "--model_dir",
        action="append",
        default=[],
        help="folder with model.pt; for several bundles BUNDLE=FOLDER, once each; default: their models/",
    )
    parser.add_argument(
        "--studies", help="folder with images or address of a DICOMweb server; default: an empty folder"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--host_name", action="append", default=[], help="further name it is reached by")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--app_dir", type=Path, default=REPOSITORY / "runs" / "label")
    return parser


def _studies_problems(studies: str | None) -> list[str]:
    if studies is None or "://" in studies or Path(studies).is_dir():
        return []
    return [f"--studies {studies}: expected a folder or the address of a DICOMweb server, found none"]


def _port_problems(host: str, port: int) -> list[str]:
    # Found out before anything is written: the folders may be those of the server that listens there.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            return [f"--host {host} --port {port}: cannot listen there: {error.strerror}"]
    return []


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _become(command: list[str], environment: dict[str, str], app_dir: Path) -> NoReturn:
    own = {name: value for name, value in environment.items() if os.environ.get(name) != value}
    shown = [f"{name}={shlex.quote(value)}" for name, value in sorted(own.items())]
    print(" ".join(["cd", shlex.quote(str(app_dir / "work")), "&&", *shown, shlex.join(command)]), flush=True)
    # An empty folder: MONAI Label takes the name of an image for a path if there is such a path.
    os.chdir(app_dir / "work")
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
