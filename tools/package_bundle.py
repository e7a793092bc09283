"""Packs a bundle and the package ``common`` into one folder and one archive that work on their own.

    python tools/package_bundle.py kcbac_mmwhs          # dist/kcbac_mmwhs/ and dist/kcbac_mmwhs-<version>.zip

The configs are shipped exactly as they were tested: ``common`` lies unchanged at the root of the bundle.
There are also `requirements.txt`, the model card and `release.json`, which names the version of ``common``.
Packing the same files twice gives the same archive, byte by byte. Weights in ``models`` go along, or with
``--model_dir`` those of a training elsewhere, in their place.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import io
import json
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

REPOSITORY = Path(__file__).resolve().parents[1]
LEFT_OUT = {"eval", "__pycache__"}
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a ZIP archive can hold
UNIX = 3
FILE_MODE = 0o100644
# What `python -m monai.bundle` itself needs, besides what the metadata declares for the configs.
COMMAND_LINE = ("fire",)
# How the documents of a bundle refer to those of the repository.
SHARED_DOCUMENTS = "../../../docs/"
CARD = Path(__file__).with_name("model_card.md")


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


def bundle_files(
    bundle: str, repository: Path = REPOSITORY, model_dir: Path | None = None
) -> dict[str, Path]:
    """Every file of a package that is copied: its path inside the bundle and where it lies now, sorted.

    Args:
        bundle: folder name under ``bundles``.
        repository: its root.
        model_dir: folder of a training that takes the place of the bundle's ``models``.

    Raises:
        ValueError: there is no such bundle, or no ``model.pt`` in ``model_dir``.
    """
    folder = repository / "bundles" / bundle
    if not (folder / "configs" / "metadata.json").is_file():
        raise ValueError(f"bundles/{bundle}: expected a bundle with configs/metadata.json")
    files = {"LICENSE": repository / "LICENSE"}
    files.update({file.relative_to(folder).as_posix(): file for file in _kept(folder)})
    if model_dir is not None:
        if not (model_dir / "model.pt").is_file():
            raise ValueError(f"--model_dir {model_dir}: expected model.pt in this folder, found none")
        files = {name: file for name, file in files.items() if not name.startswith("models/")}
        files.update({f"models/{file.relative_to(model_dir).as_posix()}": file for file in _kept(model_dir)})
    files.update({file.relative_to(repository).as_posix(): file for file in _kept(repository / "common")})
    return dict(sorted(files.items()))


def package_content(
    bundle: str, repository: Path = REPOSITORY, model_dir: Path | None = None
) -> dict[str, Path | bytes]:
    """Everything in a package: its path inside the bundle, and its file or its bytes, sorted by the former.

    Raises:
        ValueError: no such bundle, its version is not the newest entry of its changelog, a document lacks a
            part of the model card or links to what the package does not hold, or versions disagree.
    """
    files = bundle_files(bundle, repository, model_dir)
    metadata = json.loads(files["configs/metadata.json"].read_text(encoding="utf-8"))
    release = {
        "bundle": bundle,
        "version": bundle_version(metadata),
        "common_version": _common_version(repository),
    }
    readme, documents = with_local_links(files["docs/README.md"].read_text(encoding="utf-8"))
    shared = {f"docs/{name}": repository / "docs" / name for name in ["datasets.md", *documents]}
    terms = terms_of_data(bundle, shared["docs/datasets.md"].read_text(encoding="utf-8"))
    made = {
        "docs/README.md": readme,
        "docs/model_card.md": model_card(metadata, release, readme, terms, _describe_weights(files)),
        "release.json": json.dumps(release, indent=2) + "\n",
        "requirements.txt": requirements(metadata, repository),
    }
    content = {**files, **shared, **{name: text.encode() for name, text in made.items()}}
    return dict(sorted(content.items()))


def requirements(metadata: Mapping[str, Any], repository: Path = REPOSITORY) -> str:
    """The declared packages in the form that pip reads, one per line.

    Versions are those of the metadata. Where `constraints.txt` tells versions of Python apart, all its lines
    of the package are taken, since no version exists for all of them.

    Raises:
        ValueError: the version in the metadata is none of those in `constraints.txt`.
    """
    declared = {
        "torch": metadata["pytorch_version"],
        "monai": metadata["monai_version"],
        "numpy": metadata["numpy_version"],
        **metadata["required_packages_version"],
    }
    constraints: dict[str, list[str]] = {}
    for line in (repository / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if "==" in line and not line.startswith("#"):
            constraints.setdefault(line.split("==")[0].lower(), []).append(line)
    lines: list[str] = []
    for name in [*declared, *(name for name in COMMAND_LINE if name not in declared)]:
        pinned = constraints.get(name.lower(), [])
        wanted = f"{name}=={declared[name]}" if name in declared else None
        versions = [line.split(";")[0].strip() for line in pinned]
        if pinned and wanted is not None and wanted.lower() not in map(str.lower, versions):
            raise ValueError(f"metadata.json declares {wanted}, constraints.txt has {' and '.join(versions)}")
        if not pinned and wanted is None:
            raise ValueError(f"constraints.txt: expected a line for {name}, found none")
        lines += pinned or [str(wanted)]
    return "\n".join(lines) + "\n"


def with_local_links(text: str) -> tuple[str, list[str]]:
    """A bundle's document with links into the repository's `docs` turned to copies beside it.

    Returns:
        The text, and the names of the documents it links to.

    Raises:
        ValueError: a link leads elsewhere outside of the bundle.
    """
    text = text.replace(f"]({SHARED_DOCUMENTS}", "](")
    outside = re.findall(r"\]\((\.\./\.\./[^)]*)\)", text)
    if outside:
        raise ValueError(f"docs/README.md: expected links into the bundle or to docs, found {outside[0]}")
    return text, sorted(set(re.findall(r"\]\(([\w-]+\.md)", text)))


def terms_of_data(bundle: str, text: str) -> str:
    """The table of `datasets.md` for one bundle, with its heading.

    Raises:
        ValueError: there is none.
    """
    tables = re.split(r"\n\s*\n", text)
    found = [table for table in tables if table.startswith("|") and f"`{bundle}`" in table.splitlines()[0]]
    if len(found) != 1:
        raise ValueError(f"docs/datasets.md: expected one table for {bundle}, found {len(found)}")
    return found[0].strip()


def model_card(
    metadata: Mapping[str, Any], release: Mapping[str, str], readme: str, terms: str, weights: str
) -> str:
    """The model card, made of what a bundle's metadata and README say.

    Args:
        metadata: content of `metadata.json`.
        release: content of `release.json`.
        readme: the bundle's README.
        terms: table of the data sets with their terms.
        weights: what the package holds of them.

    Raises:
        ValueError: the README lacks a section.
    """
    titles = {"what": "What it does", "data": "Data", "limits": "Limits", "licence": "Licence"}
    parts = {key: _section(readme, title) for key, title in titles.items()}
    references = "\n".join(f"- {reference}" for reference in metadata["references"])
    described = {**metadata, **release, **parts, "references": references}
    return CARD.read_text(encoding="utf-8").format(terms=terms, weights=weights, **described)


def package(
    bundle: str, output_dir: Path, repository: Path = REPOSITORY, model_dir: Path | None = None
) -> Path:
    """Write ``<output_dir>/<bundle>`` and ``<output_dir>/<bundle>-<version>.zip``; replace what was there.

    Returns:
        Path of the archive.

    Raises:
        ValueError: see :func:`package_content`.
    """
    content = package_content(bundle, repository, model_dir)
    version = json.loads(content["release.json"])["version"]
    output_dir.mkdir(parents=True, exist_ok=True)
    archive = output_dir / f"{bundle}-{version}.zip"
    # Both are built aside, so that an interrupted run leaves no half-written package behind.
    with tempfile.TemporaryDirectory(dir=output_dir) as aside:
        folder = Path(aside) / bundle
        for name, source in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with _opened(source) as reader, (folder / name).open("wb") as writer:
                shutil.copyfileobj(reader, writer)
        _write_archive(Path(aside) / archive.name, bundle, content)
        shutil.rmtree(output_dir / bundle, ignore_errors=True)
        folder.replace(output_dir / bundle)
        (Path(aside) / archive.name).replace(archive)
    return archive


def main(arguments: list[str] | None = None) -> int:
    """Pack one bundle; return the exit code."""
    parser = argparse.ArgumentParser(description="Pack a bundle with the package common.")
    parser.add_argument("bundle", help="folder name under bundles/")
    parser.add_argument("--output_dir", type=Path, default=REPOSITORY / "dist")
    parser.add_argument("--model_dir", type=Path, help="pack the weights in this folder of a training")
    options = parser.parse_args(arguments)
    try:
        print(package(options.bundle, options.output_dir, model_dir=options.model_dir))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _common_version(repository: Path) -> str:
    """``common.__version__`` of a repository, read without importing what lies there."""
    for node in ast.parse((repository / "common" / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return ast.literal_eval(node.value)
    raise ValueError("common/__init__.py: expected __version__, found none")


def _section(text: str, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"docs/README.md: expected a section {title!r} for the model card, found none")
    return found[1].strip()


def _describe_weights(files: Mapping[str, Path]) -> str:
    weights = {
        name: file for name, file in files.items() if name.startswith("models/") and file.suffix == ".pt"
    }
    hashes = [f"`{name}`, SHA-256 `{_checksum(file)}`" for name, file in weights.items()]
    return "; ".join(hashes) or "none: train first"


def _checksum(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as reader:
        while block := reader.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _kept(folder: Path) -> list[Path]:
    """Files below a folder without caches, results and hidden files."""
    files = ((file, file.relative_to(folder).parts) for file in folder.rglob("*") if file.is_file())
    return [
        file
        for file, parts in files
        if not LEFT_OUT.intersection(parts) and not any(part.startswith(".") for part in parts)
    ]


def _opened(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _write_archive(path: Path, top: str, content: Mapping[str, Path | bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, source in content.items():
            entry = zipfile.ZipInfo(f"{top}/{name}", date_time=EPOCH)
            # Not compressed: what a compressor makes of the same bytes differs between its versions.
            entry.compress_type = zipfile.ZIP_STORED
            entry.create_system = UNIX
            entry.external_attr = FILE_MODE << 16
            # Lets zipfile choose the large format for large weights.
            entry.file_size = len(source) if isinstance(source, bytes) else source.stat().st_size
            with _opened(source) as reader, archive.open(entry, "w") as writer:
                shutil.copyfileobj(reader, writer)


if __name__ == "__main__":
    sys.exit(main())
