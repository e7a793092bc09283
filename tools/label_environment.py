"""Makes `.venv-label`, the environment of the MONAI Label server; does nothing if nothing changed."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.setup_environment import TORCH

REPOSITORY = Path(__file__).resolve().parents[1]
VENV = REPOSITORY / ".venv-label"
REQUIREMENTS = "tools/label_requirements.txt"
# What these two ask for does not fit together; label_requirements.txt lists what they really need.
WITHOUT_DEPENDENCIES = ("monailabel==0.8.5", "pydicom-seg==0.4.1")


class LabelEnvironmentError(RuntimeError):
    """The environment cannot be made; the message says what the user can do."""


def environment_python() -> Path:
    """The interpreter of the environment."""
    return VENV / "bin" / "python"


def is_complete() -> bool:
    """Whether the environment was made from these requirements, at this place."""
    stamp = VENV / "setup_stamp"
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == _stamp_text()


def make_environment() -> None:
    """Make the environment anew, on the Python that `.venv` was made on.

    Raises:
        LabelEnvironmentError: a step fails.
    """
    (VENV / "setup_stamp").unlink(missing_ok=True)  # first: half an environment must not pass for a whole one
    shutil.rmtree(VENV, ignore_errors=True)
    # A torch that `.venv` inherits from the machine's Python is inherited here, too.
    settings = Path(sys.prefix) / "pyvenv.cfg"
    inherits = settings.is_file() and "include-system-site-packages = true" in settings.read_text("utf-8")
    _run([sys.executable, "-m", "venv", *(["--system-site-packages"] if inherits else []), str(VENV)])
    pip = [str(environment_python()), "-m", "pip", "install"]
    if not inherits:
        _run([*pip, TORCH])
    _run([*pip, "-r", REQUIREMENTS])
    _run([*pip, "--no-deps", *WITHOUT_DEPENDENCIES])
    (VENV / "setup_stamp").write_text(_stamp_text(), encoding="utf-8")


def _stamp_text() -> str:
    digest = hashlib.sha256((REPOSITORY / REQUIREMENTS).read_bytes())
    digest.update(repr((TORCH, WITHOUT_DEPENDENCIES)).encode())
    return f"{digest.hexdigest()}\n{REPOSITORY}\n"


def _run(command: Sequence[str]) -> None:
    shown = shlex.join(word.replace(f"{REPOSITORY}/", "") for word in command)
    print(shown, flush=True)
    if subprocess.run(command, cwd=REPOSITORY, check=False).returncode:
        raise LabelEnvironmentError(
            f"failed: {shown}\n"
            "The lines above say why. Usual reasons: no network or package index (set PIP_INDEX_URL or "
            "PIP_FIND_LINKS), no disk space (4 GB are needed)."
        )
