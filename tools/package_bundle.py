"""Packs a bundle and the package ``common`` into one folder and one archive that work on their own.

    python tools/package_bundle.py kcbac_mmwhs          # dist/kcbac_mmwhs/ and dist/kcbac_mmwhs-<version>.zip

The configs are shipped exactly as they were tested: ``common`` lies unchanged at the root of the bundle.
Packing the same files twice gives the same archive, byte by byte. Weights in ``models`` are taken along if
there are any.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
LEFT_OUT = {"eval", "__pycache__"}
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a ZIP archive can hold
UNIX = 3
FILE_MODE = 0o100644


def bundle_version(metadata: Mapping[str, Any]) -> str:
    """The version in a bundle's metadata.

    Raises:
        ValueError: it is not the newest entry of the changelog.
    """
    newest = max(metadata.get("changelog", {}), key=_version_key, default=None)
    if metadata.get("version") != newest:
        raise ValueError(
            f"version is {metadata.get('version')!r}, newest entry of the changelog is {newest!r}"
        )
    return metadata["version"]


def bundle_files(bundle: str, repository: Path = REPOSITORY) -> dict[str, Path]:
    """Every file of a package: its path inside the bundle and where it lies now, sorted by the former.

    Raises:
        ValueError: there is no such bundle.
    """
    folder = repository / "bundles" / bundle
    if not (folder / "configs" / "metadata.json").is_file():
        raise ValueError(f"bundles/{bundle}: expected a bundle with configs/metadata.json")
    files = {"LICENSE": repository / "LICENSE"}
    files.update({file.relative_to(folder).as_posix(): file for file in _kept(folder)})
    files.update({file.relative_to(repository).as_posix(): file for file in _kept(repository / "common")})
    return dict(sorted(files.items()))


def package(bundle: str, output_dir: Path, repository: Path = REPOSITORY) -> Path:
    """Write ``<output_dir>/<bundle>`` and ``<output_dir>/<bundle>-<version>.zip``; replace what was there.

    Returns:
        Path of the archive.

    Raises:
        ValueError: no such bundle, or its version is not the newest entry of its changelog.
    """
    files = bundle_files(bundle, repository)
    version = bundle_version(json.loads(files["configs/metadata.json"].read_text(encoding="utf-8")))
    output_dir.mkdir(parents=True, exist_ok=True)
    archive = output_dir / f"{bundle}-{version}.zip"
    # Both are built aside, so that an interrupted run leaves no half-written package behind.
    with tempfile.TemporaryDirectory(dir=output_dir) as aside:
        folder = Path(aside) / bundle
        for name, source in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)
        _write_archive(Path(aside) / archive.name, bundle, files)
        shutil.rmtree(output_dir / bundle, ignore_errors=True)
        folder.replace(output_dir / bundle)
        (Path(aside) / archive.name).replace(archive)
    return archive


def main(arguments: list[str] | None = None) -> int:
    """Pack one bundle; return the exit code."""
    parser = argparse.ArgumentParser(description="Pack a bundle with the package common.")
    parser.add_argument("bundle", help="folder name under bundles/")
    parser.add_argument("--output_dir", type=Path, default=REPOSITORY / "dist")
    options = parser.parse_args(arguments)
    try:
        print(package(options.bundle, options.output_dir))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _kept(folder: Path) -> list[Path]:
    """Files below a folder without caches, results and hidden files."""
    files = []
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        if (
            file.is_file()
            and not LEFT_OUT.intersection(parts)
            and not any(part.startswith(".") for part in parts)
        ):
            files.append(file)
    return files


def _write_archive(path: Path, top: str, files: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, source in files.items():
            entry = zipfile.ZipInfo(f"{top}/{name}", date_time=EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = UNIX
            entry.external_attr = FILE_MODE << 16
            entry.file_size = source.stat().st_size  # lets zipfile choose the large format for large weights
            with source.open("rb") as reader, archive.open(entry, "w") as writer:
                shutil.copyfileobj(reader, writer)


if __name__ == "__main__":
    sys.exit(main())
