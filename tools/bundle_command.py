"""Builds, prints and runs the MONAI command for training, evaluating or applying a bundle.

    python tools/bundle_command.py train kcbac_mmwhs preset_laptop ablate_cb -- --dataset_dir demo/mmwhs
    python tools/bundle_command.py train kcbac_mmwhs preset_gpu --processes 2 -- --dataset_dir /data/mmwhs
    python tools/bundle_command.py evaluate kcbac_mmwhs preset_laptop -- --dataset_dir demo/mmwhs
    python tools/bundle_command.py infer kcbac_mmwhs as_trained -- --dataset_dir scan.nii.gz

A word after the bundle names an overlay: ``<word>.json`` in the bundle's ``configs``, in ``common/configs``,
or in the bundle's ``models`` (where training leaves ``as_trained.json``). A path of a JSON file works too.
Overlays are merged in the order given, after ``multi_gpu_train.json`` if there are several processes.
Evaluation merges ``evaluate.json`` last, then the bundle's other ``evaluate_*`` overlays if named. What
follows ``--`` goes to MONAI unchanged.

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


def bundle_command(
    action: str, bundle: str, overlays: list[str], processes: int = 1, repository: Path = REPOSITORY
) -> list[str]:
    """Arguments of ``python`` for one action on one bundle, with paths relative to the repository.

    Args:
        action: "train", "evaluate" or "infer".
        bundle: folder name under ``bundles``.
        overlays: names without ``.json`` or paths with it, in the order of merging.
        processes: on this machine, one per GPU.
        repository: its root.

    Raises:
        ValueError: the bundle or an overlay does not exist (the message lists those that do), or inference is
            asked for in several processes.
    """
    bundles = sorted(folder.parent.name for folder in repository.glob("bundles/*/configs"))
    if bundle not in bundles:
        raise ValueError(f"unknown bundle {bundle!r}, expected one of: {', '.join(bundles)}")
    if action == "infer" and processes > 1:
        raise ValueError("infer runs in one process; start it once for each part of the images")
    words = list(overlays)
    if action == "evaluate":
        words = [word for word in overlays if not word.startswith("evaluate")]
        words += ["evaluate", *(word for word in overlays if word.startswith("evaluate_"))]
    if processes > 1:
        words.insert(0, "multi_gpu_train")
    base = f"bundles/{bundle}/configs/{BASES[action]}.json"
    files = [base, *_overlay_files(bundle, words, repository)]
    config_file = base if len(files) == 1 else "[" + ",".join(f"'{file}'" for file in files) + "]"
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    run = ["-m", "monai.bundle", "run", RUN_IDS[action]]
    where = ["--config_file", config_file, "--bundle_root", f"bundles/{bundle}"]
    return [*(launcher if processes > 1 else []), *run, *where]


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
    parser.add_argument("--processes", type=int, default=1, help="on this machine, one per GPU")
    options = parser.parse_args(given[:end])
    try:
        command = bundle_command(options.action, options.bundle, options.overlays, options.processes)
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    command += given[end + 1 :]
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
