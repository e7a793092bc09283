"""Makes `.venv` with everything the project needs; prints each command, does nothing if nothing changed.

Needs only a bare Python. An installed torch (2.8 or newer) is kept; otherwise the pinned one is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "setup_stamp"
TORCH = "torch==2.13.0"
OLDEST_TORCH = (2, 8)
PYTHON_VERSIONS = ((3, 10), (3, 11), (3, 12))
# `python3` first: where a wheel of torch exists for one version only, it is that of the machine's own Python.
CANDIDATES = ("python3", "python3.12", "python3.11", "python3.10", "python")

PROBE = """
import json, os, sys
try:
    import torch
    found = torch.__version__
except Exception:
    found = None
print(json.dumps({"path": os.path.realpath(sys.executable), "version": sys.version_info[:3], "torch": found,
                  "inheritable": sys.prefix == sys.base_prefix}))
"""


class SetupError(RuntimeError):
    """The environment cannot be made; the message says what the user can do."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that runs.

    Attributes:
        path: its executable.
        version: major, minor, micro.
        has_torch: a torch that is new enough is installed where a new environment can see it.
    """

    path: str
    version: tuple[int, ...]
    has_torch: bool


def probe(python: str) -> Interpreter | None:
    """Execute ``python`` and ask it who it is; ``None`` if it does not run or is of an unsupported version.

    A name on the path proves nothing: version managers put placeholders there that only print an error.
    """
    try:
        result = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=True)
        found = json.loads(result.stdout.splitlines()[-1])
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None
    version = tuple(found["version"])
    if version[:2] not in PYTHON_VERSIONS:
        return None
    # An environment made from another environment sees the packages of neither.
    return Interpreter(found["path"], version, found["inheritable"] and is_new_enough(found["torch"]))


def is_new_enough(torch_version: str | None) -> bool:
    """Whether a version text such as ``2.13.0+cpu`` is at least :data:`OLDEST_TORCH`."""
    if torch_version is None:
        return False
    return tuple(int(part) for part in torch_version.split(".")[:2]) >= OLDEST_TORCH


def interpreters(wanted: str) -> list[Interpreter]:
    """Pythons to try, best first: those that bring a torch, then in the order of :data:`CANDIDATES`.

    Args:
        wanted: the user's choice, or empty.

    Raises:
        SetupError: none fits.
    """
    found = [probe(python) for python in ([wanted] if wanted else CANDIDATES)]
    fitting = {python.path: python for python in found if python is not None}
    if not fitting:
        tried = wanted or ", ".join(CANDIDATES)
        raise SetupError(
            f"no Python 3.10, 3.11 or 3.12 that runs (tried: {tried}). Install one and name it: "
            "make setup PYTHON=/path/to/python3.12"
        )
    return sorted(fitting.values(), key=lambda python: not python.has_torch)


def stamp_text(version: str) -> str:
    """Fingerprint of everything that decides what is installed, the place of the repository included."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest() + f"\n{version}\n{ROOT}\n"


def installed_version() -> str:
    """Version of the Python in ``.venv`` as written there by venv; empty if there is none."""
    settings = VENV / "pyvenv.cfg"
    if not settings.is_file() or not _venv_python().exists():
        return ""
    pairs = (line.partition("=") for line in settings.read_text(encoding="utf-8").splitlines())
    return next((value.strip() for key, _, value in pairs if key.strip() == "version"), "")


def is_done(wanted: str) -> bool:
    """Whether ``.venv`` is complete and, if the user named a Python, of that Python's version."""
    version = installed_version()
    if not version or not STAMP.is_file() or STAMP.read_text(encoding="utf-8") != stamp_text(version):
        return False
    return not wanted or _has_version(wanted, version)


def make_environment(wanted: str) -> None:
    """Make or complete ``.venv``.

    Raises:
        SetupError: no Python fits, or pip fails.
    """
    version = installed_version()
    if not version or (wanted and not _has_version(wanted, version)) or not _imports_torch():
        _make_with_torch(interpreters(wanted))
    _run([str(_venv_python()), "-m", "pip", "install", "-e", ".[dev]", "-c", "constraints.txt"])
    STAMP.write_text(stamp_text(installed_version()), encoding="utf-8")


def _make_with_torch(pythons: Sequence[Interpreter]) -> None:
    for number, python in enumerate(pythons, start=1):
        shutil.rmtree(VENV, ignore_errors=True)
        inherit = ["--system-site-packages"] if python.has_torch else []
        try:
            _run([python.path, "-m", "venv", *inherit, str(VENV)])
            if not python.has_torch:
                _run([str(_venv_python()), "-m", "pip", "install", TORCH])
            return
        except SetupError as error:
            shutil.rmtree(VENV, ignore_errors=True)
            if number == len(pythons):
                raise
            print(f"{error}\nTrying the next Python.", flush=True)


def _run(command: Sequence[str]) -> None:
    shown = shlex.join(word.replace(f"{ROOT}/", "") for word in command)
    print(shown, flush=True)
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise SetupError(
            f"failed: {shown}\n"
            "The lines above say why. Usual reasons: no network or package index (set PIP_INDEX_URL or "
            "PIP_FIND_LINKS), no wheel for this Python (try make setup PYTHON=python3.11), no disk space."
        )


def _venv_python() -> Path:
    return VENV / "bin" / "python"


def _has_version(python: str, version: str) -> bool:
    found = probe(python)
    return found is not None and ".".join(map(str, found.version)) == version


def _imports_torch() -> bool:
    return subprocess.run([str(_venv_python()), "-c", "import torch"], capture_output=True).returncode == 0


def main() -> int:
    """Parse the command line; 0 when the environment is ready, 1 with a message when it cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--python", default="", help="the interpreter to build on; default: the first that fits"
    )
    wanted = parser.parse_args().python
    if is_done(wanted):
        return 0
    try:
        make_environment(wanted)
    except SetupError as error:
        print(f"make setup stopped: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
