"""Runs the commands of a README on a small scale: on other data, into a temporary folder, shortened."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monai.bundle import ConfigParser

from tools.bundle_command import REPOSITORY
from tools.verify_commands import MonaiCommand, check_monai, parse_monai, resolved
from tools.verify_configs import Bundle
from tools.verify_rows import CheckError, NotCheckedError

TIMEOUT_S = 1800
MODELS = "models"
OTHER_DATA = "data_"
# Words in paths that tell labels from images.
LABELS = ("label", "seg", "mask", "ground", "annotation")


@dataclass(frozen=True)
class Trial:
    """What commands run with instead of what the README says.

    Args:
        output_dir: folder for everything that they write.
        arguments: further settings, as on the command line.
    """

    output_dir: Path
    arguments: tuple[str, ...] = ()


def generate(command: str, folder: Path) -> None:
    """Write a data set with ``python -m common.data.phantoms <command>`` into a folder.

    Raises:
        CheckError: the generator failed.
    """
    words = [sys.executable, "-m", "common.data.phantoms", *shlex.split(command)]
    _run([*words, "--dataset_dir", str(folder)], REPOSITORY)


def find_image(dataset_dir: Path, like: str) -> Path:
    """The first image of a data set that inference can be given.

    Args:
        dataset_dir: folder to search.
        like: the path in the README; its suffix decides, none stands for a folder of DICOM files.

    Raises:
        CheckError: there is none.
    """
    suffix = "".join(Path(like).suffixes)
    files = sorted(file for file in dataset_dir.rglob(f"*{suffix or '.dcm'}") if file.is_file())
    for file in files:
        inner = file.relative_to(dataset_dir).as_posix().lower()
        if not any(word in inner for word in LABELS):
            return file if suffix else file.parent
    raise CheckError(f"{dataset_dir}: expected an image like {like}, found none")


def run_command(command: str, bundle: Bundle, trial: Trial) -> str:
    """Run a command of a README with the settings of a trial.

    Args:
        command: as in the README.
        bundle: the bundle with the data to run on, and what shortens the run.
        trial: what else it runs with.

    Returns:
        That it ran.

    Raises:
        CheckError: it ended with an error; the message is the last line that it printed.
        NotCheckedError: it is no ``run`` of MONAI, or wants data of another layout.
    """
    call = parse_monai(command)
    if call is None or call.verb != "run":
        raise NotCheckedError("only `monai.bundle run` is run")
    if any(Path(path).name.startswith(OTHER_DATA) for path in call.config_files):
        raise NotCheckedError("not run: wants data in the layout of another data set")
    check_monai(call, bundle.folder)
    words, where = trial_command(call, bundle, trial)
    _run(words, where)
    return f"{' '.join(call.positional) or 'run'} ran"


def trial_command(call: MonaiCommand, bundle: Bundle, trial: Trial) -> tuple[list[str], Path]:
    """The words of the command that a trial runs, and the folder to run it in."""
    folder = bundle.folder
    base = resolved(call.config_files[0], folder)
    where = Path(str(base)[: -len(call.config_files[0])]) if base else folder
    model_dir = trial.output_dir / MODELS
    files = [str(model_dir / Path(f).name) if MODELS in Path(f).parts else f for f in call.config_files]
    files[1:1] = [str(file) for file in bundle.shrink]
    parser = ConfigParser()
    parser.read_config(
        [str(resolved(file, folder) or file) for file in files if Path(file).name != "as_trained.json"]
    )
    is_inference = base is not None and base.stem == "inference"
    source = bundle.image if is_inference else bundle.dataset_dir
    own = {"dataset_dir": source, "output_dir": trial.output_dir / "eval", "model_dir": model_dir}
    options = {**call.options, **{k: str(v) for k, v in own.items() if v is not None and k in parser}}
    options["config_file"] = repr(files)
    words = [sys.executable, "-m", "monai.bundle", call.verb, *call.positional]
    for name, value in options.items():
        words += [f"--{name}", value]
    return [*words, *trial.arguments], where


def _run(words: Sequence[str], where: Path) -> None:
    path = os.pathsep.join([str(where), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            words, cwd=where, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise CheckError(f"did not end within {TIMEOUT_S} s") from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise CheckError(f"exit code {done.returncode}: {lines[-1] if lines else 'no output'}")
