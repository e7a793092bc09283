"""Builds, prints and runs the MONAI command for training, evaluating or applying a bundle.

    python tools/bundle_command.py train kcbac_mmwhs preset_laptop ablate_cb -- --dataset_dir demo/mmwhs
    python tools/bundle_command.py evaluate kcbac_mmwhs preset_laptop ablate_cb -- --dataset_dir demo/mmwhs
    python tools/bundle_command.py infer kcbac_mmwhs as_trained -- --dataset_dir scan.nii.gz

A word after the bundle names an overlay: ``configs/<word>.json`` of the bundle, ``common/configs/<word>.json``, or
``as_trained``, which training wrote into ``models``. A word that ends in ``.json`` is the path of an overlay. They
are merged in the order given; evaluation merges ``evaluate.json`` after them, and ``evaluate_*`` last. Inference
takes ``as_trained``, ``infer_*`` and overlays of ``network_def``; MONAI stops at settings that it does not know.
What follows ``--`` goes to MONAI unchanged.

The printed line can be pasted into a shell in the root of the repository, where it runs.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BASES = {"train": "train", "evaluate": "train", "infer": "inference"}
RUN_IDS = {"train": "training", "evaluate": "evaluating", "infer": "inferring"}
NO_OVERLAYS = ("train", "inference", "metadata")


def bundle_command(action: str, bundle: str, overlays: list[str], repository: Path = REPOSITORY) -> list[str]:
    """Arguments of ``python`` for one action on one bundle, with paths relative to the repository.

    Args:
        action: "train", "evaluate" or "infer".
        bundle: folder name under ``bundles``.
        overlays: names without ``.json`` or paths with it, in the order of merging.
        repository: its root.

    Raises:
        ValueError: the bundle or an overlay does not exist; the message lists those that do.
    """
    bundles = sorted(folder.parent.name for folder in repository.glob("bundles/*/configs"))
    if bundle not in bundles:
        raise ValueError(f"unknown bundle {bundle!r}, expected one of: {', '.join(bundles)}")
    words = list(overlays)
    if action == "evaluate":
        words = [word for word in overlays if not word.startswith("evaluate")]
        words += ["evaluate", *(word for word in overlays if word.startswith("evaluate_"))]
    base = f"bundles/{bundle}/configs/{BASES[action]}.json"
    files = [base, *_overlay_files(bundle, words, repository)]
    config_file = base if len(files) == 1 else "[" + ",".join(f"'{file}'" for file in files) + "]"
    run = ["-m", "monai.bundle", "run", RUN_IDS[action]]
    return [*run, "--config_file", config_file, "--bundle_root", f"bundles/{bundle}"]


def shell_line(command: list[str]) -> str:
    """The command as one line for a POSIX shell, with double quotes around single ones."""
    return " ".join(map(_quoted, command))


def main(arguments: list[str] | None = None) -> None:
    """Print the command and become it."""
    given = sys.argv[1:] if arguments is None else arguments
    end = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        description="Train, evaluate or apply a bundle. After -- come settings for MONAI."
    )
    parser.add_argument("action", choices=sorted(BASES))
    parser.add_argument("bundle", help="folder name under bundles/")
    parser.add_argument("overlays", nargs="*", help="overlays in the order of merging")
    options = parser.parse_args(given[:end])
    try:
        command = bundle_command(options.action, options.bundle, options.overlays) + given[end + 1 :]
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    os.chdir(REPOSITORY)
    python = Path(sys.executable)
    shown = python.relative_to(REPOSITORY) if python.is_relative_to(REPOSITORY) else python
    print(shell_line([str(shown), *command]), flush=True)
    os.execv(sys.executable, [sys.executable, *command])


def _overlay_files(bundle: str, words: list[str], repository: Path) -> list[str]:
    folders = [repository / "common" / "configs", repository / "bundles" / bundle / "configs"]
    files = [file for folder in folders for file in sorted(folder.glob("*.json"))]
    files += (repository / "bundles" / bundle / "models").glob("as_trained.json")
    known = {
        file.stem: file.relative_to(repository).as_posix() for file in files if file.stem not in NO_OVERLAYS
    }
    known.update({word: word for word in words if word.endswith(".json") and (repository / word).is_file()})
    unknown = [word for word in words if word not in known]
    if unknown:
        raise ValueError(
            f"unknown overlay {', '.join(unknown)} for {bundle}, expected: {', '.join(sorted(known))}"
        )
    return [known[word] for word in words]


def _quoted(text: str) -> str:
    if "'" in text and not any(character in text for character in '"$`\\!'):
        return f'"{text}"'
    return shlex.quote(text)


if __name__ == "__main__":
    main()
