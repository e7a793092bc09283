"""Verifies a bundle, ours or anybody's: files, metadata, network, properties, exports, README. One table.

    python -m tools.verify_bundle --bundle_dir bundles/kcbac_mmwhs
    python -m tools.verify_bundle --bundle_dir bundles/kcbac_mmwhs --generate "write_mmwhs --num_cases 5" \
        --run_commands --shrink preset_laptop smoke
    python -m tools.verify_bundle --bundle_dir /somewhere/spleen_ct --skip onnx --dataset_dir /data/spleen

Each check is a row: ``ok``, ``failed`` or ``skipped``, with what was found. No check can stop the others. The
exit code is 1 if any row failed. Nothing is downloaded and nothing is written into the bundle. The bundle's
configs and its own Python code are executed: verify only what you trust.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tools.bundle_command import REPOSITORY
from tools.verify_commands import check_command, parse_monai, readme_commands
from tools.verify_configs import (
    Bundle,
    check_changelog,
    check_channels,
    check_files,
    check_packages,
    check_parsing,
    check_properties,
    check_property_ids,
    check_references,
    check_schema,
    check_targets,
)
from tools.verify_network import (
    check_default_size,
    check_onnx,
    check_second_size,
    check_torchscript,
    check_weights,
)
from tools.verify_rows import FAILED, CheckError, Row, run_check, table
from tools.verify_runs import Trial, find_image, generate, run_command

COMPLETE = ("train", "inference")
README = "docs/README.md"
WIDTH = 44


def checks_of(bundle: Bundle) -> dict[str, Callable[[], str]]:
    """All checks of a bundle's files and network by name, in the order of the table."""
    alone = {
        "files": check_files,
        "metadata: schema": check_schema,
        "metadata: changelog": check_changelog,
        "metadata: channels": check_channels,
        "metadata: packages": check_packages,
        "configs: parsing": check_parsing,
        "configs: targets": check_targets,
    }
    checks: dict[str, Callable[[], str]] = {name: partial(check, bundle) for name, check in alone.items()}
    by_file = {
        "configs: references": check_references,
        "properties: ids": check_property_ids,
        "properties: built": check_properties,
    }
    for name, check in by_file.items():
        checks.update({f"{name}, {file}": partial(check, bundle, file) for file in COMPLETE})
    network = {
        "network: default size": check_default_size,
        "network: second size": check_second_size,
        "network: weights": check_weights,
        "export: TorchScript (ckpt_export)": check_torchscript,
        "export: ONNX (onnx_export)": check_onnx,
    }
    return {**checks, **{name: partial(check, bundle) for name, check in network.items()}}


def check_readme(bundle: Bundle, trial: Trial | None) -> list[Row]:
    """A row for each command of the README: parsed, and with a trial also run."""
    file = bundle.folder / README
    if not file.is_file():
        return [Row("README", FAILED, f"{README} does not exist")]
    commands = readme_commands(file.read_text(encoding="utf-8"))
    rows = []
    for number, command in enumerate(commands, start=1):
        name = f"README {number}: {_title(command)}"
        row = run_check(name, partial(check_command, command, bundle.folder))
        if trial is not None and row.status != FAILED and parse_monai(command) is not None:
            row = run_check(name, partial(run_command, command, bundle, trial))
        rows.append(row)
    return rows


def verify(bundle: Bundle, trial: Trial | None = None, skip: Sequence[str] = ()) -> list[Row]:
    """Run all checks.

    Args:
        bundle: what is verified.
        trial: what the README's commands run with; None: they are only parsed.
        skip: checks whose name contains one of these words, in any case, are left out.

    Returns:
        A row for each check.
    """
    root = str(bundle.folder)
    sys.path.insert(0, root)  # bundles bring their own package, such as `scripts`
    try:
        rows = [
            run_check(name, check)
            for name, check in checks_of(bundle).items()
            if not any(word.lower() in name.lower() for word in skip)
        ]
        return rows + ([] if any(word.lower() == "readme" for word in skip) else check_readme(bundle, trial))
    finally:
        sys.path.remove(root)


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify one bundle, print the table, return the exit code."""
    options = _options(arguments)
    folder = options.bundle_dir.resolve()
    if not (folder / "configs").is_dir():
        print(f"error: {folder}: expected a bundle with a folder configs", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as aside:
        try:
            bundle, trial = _prepared(options, folder, Path(aside))
        except CheckError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        rows = verify(bundle, trial, options.skip)
    print(table(rows))
    return int(any(row.status == FAILED for row in rows))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Verify a bundle; the exit code is 1 if a check failed.")
    parser.add_argument("--bundle_dir", type=Path, required=True)
    parser.add_argument(
        "--with", dest="overlays", nargs="+", default=[], help="overlays, such as preset_laptop"
    )
    parser.add_argument(
        "--skip", nargs="+", default=[], help="leave out checks with such a word in their name"
    )
    parser.add_argument("--dataset_dir", type=Path, help="data that the bundle's training reads")
    parser.add_argument("--generate", default="", help="generate them: arguments of common.data.phantoms")
    parser.add_argument("--image", type=Path, help="what its inference reads; found in the data if absent")
    parser.add_argument(
        "--run_commands", action="store_true", help="run the README's commands, on these data"
    )
    parser.add_argument("--shrink", nargs="+", default=[], help="overlays that shorten what runs on them")
    parser.add_argument("--run_args", default="", help="further settings for them, in one argument")
    return parser.parse_args(arguments)


def _prepared(options: argparse.Namespace, folder: Path, aside: Path) -> tuple[Bundle, Trial | None]:
    dataset_dir, image = options.dataset_dir, options.image
    if options.generate:
        dataset_dir = aside / "data"
        generate(options.generate, dataset_dir)
    if dataset_dir is not None and image is None:
        image = find_image(dataset_dir, _example_image(folder))
    overlays = tuple(_overlay(name, folder) for name in options.overlays)
    shrink = tuple(_overlay(name, folder) for name in options.shrink)
    bundle = Bundle(folder, overlays, shrink, dataset_dir, image)
    trial = Trial(aside, tuple(shlex.split(options.run_args))) if options.run_commands else None
    return bundle, trial


def _example_image(folder: Path) -> str:
    """What the README gives to inference, whose suffix tells the kind of image."""
    file = folder / README
    commands = readme_commands(file.read_text(encoding="utf-8")) if file.is_file() else []
    for call in filter(None, map(parse_monai, commands)):
        if any(Path(path).stem == "inference" for path in call.config_files[:1]):
            return call.options.get("dataset_dir", "scan.nii.gz")
    return "scan.nii.gz"


def _overlay(name: str, folder: Path) -> Path:
    places = [Path(name), folder / "configs" / f"{name}.json", REPOSITORY / f"common/configs/{name}.json"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise CheckError(f"{name}: expected an overlay of the bundle or the path of one")
    return found.resolve()


def _title(command: str) -> str:
    words = " ".join(command.split()).replace("python -m ", "")
    return words if len(words) <= WIDTH else f"{words[: WIDTH - 4].rstrip()} ..."


if __name__ == "__main__":
    sys.exit(main())
