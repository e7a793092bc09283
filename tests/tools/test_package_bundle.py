"""A package is complete, free of rubbish, and the same bytes whenever it is made."""

import json
import os
import re
import subprocess
import sys
import zipfile

import pytest

from tools.package_bundle import REPOSITORY, package, package_content, requirements

METADATA = {
    "version": "0.10.0",
    "changelog": {"0.9.0": "first", "0.10.0": "second"},
    "monai_version": "1.6.1",
    "pytorch_version": "2.13.0",
    "numpy_version": "2.4.6",
    "required_packages_version": {"scipy": "1.17.1", "nibabel": "5.4.2"},
    "name": "Toy network",
    "task": "Segmentation of toys",
    "authors": "Us",
    "copyright": "Copyright (c) Us",
    "image_classes": "gray",
    "pred_classes": "2 channels",
    "intended_use": "Play only.",
    "references": ["First paper", "Second paper"],
}
README = """# Toy

## What it does

Finds toys.

## Data

Toys of all sizes, see [datasets](../../../docs/datasets.md) and [more](../../../docs/papers.md#toys).

## Limits

Not for clinical use.

## Licence

Code: Apache-2.0.
"""
DATASETS = """# Data sets

| data set | overlay of `other` | terms |
|---|---|---|
| others | (none) | theirs |

| data set | overlay of `toy` | terms |
|---|---|---|
| Toys | (none) | CC0 |

More text.
"""
CONSTRAINTS = """# exact versions
monai==1.6.1
fire==0.7.1
numpy==2.2.6; python_version < "3.11"
numpy==2.4.6; python_version >= "3.11"
scipy==1.17.1
"""


@pytest.fixture
def toy(tmp_path):
    """A repository with one bundle, the shared package, and what lies around after a day of work."""
    files = {
        "LICENSE": "text",
        "constraints.txt": CONSTRAINTS,
        "docs/datasets.md": DATASETS,
        "docs/papers.md": "# Papers\n",
        "docs/unused.md": "# Not for this bundle\n",
        "common/__init__.py": '"""Shared."""\n\n__version__ = "0.3.0"\n',
        "common/networks/net.py": "x = 1",
        "common/configs/smoke.json": "{}",
        "common/networks/__pycache__/net.pyc": "cache",
        "bundles/toy/configs/metadata.json": json.dumps(METADATA),
        "bundles/toy/configs/train.json": "{}",
        "bundles/toy/docs/README.md": README,
        "bundles/toy/models/.gitkeep": "",
        "bundles/toy/eval/report.md": "result",
        "bundles/other/configs/metadata.json": "{}",
    }
    for name, text in files.items():
        (tmp_path / "repository" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repository" / name).write_text(text)
    return tmp_path / "repository"


def names(archive):
    with zipfile.ZipFile(archive) as opened:
        return opened.namelist()


def change_metadata(toy, **changes):
    (toy / "bundles/toy/configs/metadata.json").write_text(json.dumps({**METADATA, **changes}))


def test_archive_holds_the_bundle_and_the_shared_package_at_its_root(toy, tmp_path):
    archive = package("toy", tmp_path / "dist", toy)
    assert archive.name == "toy-0.10.0.zip"
    assert names(archive) == [
        "toy/LICENSE",
        "toy/common/__init__.py",
        "toy/common/configs/smoke.json",
        "toy/common/networks/net.py",
        "toy/configs/metadata.json",
        "toy/configs/train.json",
        "toy/docs/README.md",
        "toy/docs/datasets.md",
        "toy/docs/model_card.md",
        "toy/docs/papers.md",
        "toy/release.json",
        "toy/requirements.txt",
    ]


def test_folder_holds_the_same_as_the_archive(toy, tmp_path):
    with zipfile.ZipFile(package("toy", tmp_path / "dist", toy)) as opened:
        packed = {name: opened.read(name) for name in opened.namelist()}
    files = {
        file.relative_to(tmp_path / "dist").as_posix(): file.read_bytes()
        for file in (tmp_path / "dist" / "toy").rglob("*")
        if file.is_file()
    }
    assert files == packed


def test_weights_go_along_if_there_are_any_and_the_card_says_which(toy, tmp_path):
    assert b"none: train first" in package_content("toy", toy)["docs/model_card.md"]
    (toy / "bundles/toy/models/model.pt").write_bytes(b"weights")
    assert "toy/models/model.pt" in names(package("toy", tmp_path / "dist", toy))
    # printf weights | sha256sum
    checksum = b"9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    assert checksum in package_content("toy", toy)["docs/model_card.md"]


def test_same_files_give_the_same_bytes_at_another_time_with_other_permissions(toy, tmp_path):
    first = package("toy", tmp_path / "a", toy).read_bytes()
    os.utime(toy / "common/__init__.py", (1_000_000_000, 1_000_000_000))
    (toy / "common/networks/net.py").chmod(0o700)
    assert package("toy", tmp_path / "b", toy).read_bytes() == first
    (toy / "common/networks/net.py").write_text("x = 2")
    assert package("toy", tmp_path / "c", toy).read_bytes() != first


def test_command_gives_the_same_bytes_from_another_folder_with_another_umask_and_locale(tmp_path):
    archives = []
    for number, mask, settings in ((1, 0o022, {}), (2, 0o077, {"LC_ALL": "C", "TZ": "Asia/Tokyo"})):
        folder = tmp_path / str(number)
        folder.mkdir()
        command = [sys.executable, str(REPOSITORY / "tools" / "package_bundle.py"), "kcbac_mmwhs"]
        subprocess.run(
            [*command, "--output_dir", "dist"],
            cwd=folder,
            check=True,
            umask=mask,
            env={**os.environ, **settings, "PYTHONHASHSEED": str(number)},
            capture_output=True,
        )
        archives += [file.read_bytes() for file in folder.glob("dist/*.zip")]
    assert len(archives) == 2
    assert archives[0] == archives[1]


def test_copied_files_are_unchanged(toy, tmp_path):
    with zipfile.ZipFile(package("toy", tmp_path / "dist", toy)) as opened:
        assert opened.read("toy/common/networks/net.py") == (toy / "common/networks/net.py").read_bytes()
        assert opened.testzip() is None


def test_second_package_replaces_the_first(toy, tmp_path):
    (toy / "bundles/toy/docs/extra.txt").write_text("more")
    package("toy", tmp_path / "dist", toy)
    (toy / "bundles/toy/docs/extra.txt").unlink()
    assert "toy/docs/extra.txt" not in names(package("toy", tmp_path / "dist", toy))
    assert not (tmp_path / "dist" / "toy" / "docs" / "extra.txt").exists()


def test_requirements_are_the_declared_ones_for_every_python(toy):
    assert requirements(METADATA, toy).splitlines() == [
        "torch==2.13.0",
        "monai==1.6.1",
        'numpy==2.2.6; python_version < "3.11"',
        'numpy==2.4.6; python_version >= "3.11"',
        "scipy==1.17.1",
        "nibabel==5.4.2",
        "fire==0.7.1",
    ]


@pytest.mark.parametrize(
    ("declared", "message"),
    [("1.16.0", "declares scipy==1.16.0, constraints.txt has scipy==1.17.1"), ("1.17", "scipy==1.17,")],
)
def test_version_that_was_not_tested_is_refused(toy, declared, message):
    change_metadata(toy, required_packages_version={"scipy": declared})
    with pytest.raises(ValueError, match=re.escape(message)):
        package_content("toy", toy)


def test_model_card_is_made_of_metadata_readme_and_the_terms_of_the_data(toy):
    card = package_content("toy", toy)["docs/model_card.md"].decode()
    said = ["# Model card: Toy network", "`toy` 0.10.0, with `common` 0.3.0", "Play only.", "Finds toys."]
    said += ["Toys of all sizes", "| Toys | (none) | CC0 |", "Not for clinical use.", "Code: Apache-2.0."]
    assert [text for text in [*said, "- First paper\n- Second paper\n"] if text not in card] == []
    assert "theirs" not in card


def test_release_names_the_version_of_the_shared_package(toy):
    release = json.loads(package_content("toy", toy)["release.json"])
    assert release == {"bundle": "toy", "version": "0.10.0", "common_version": "0.3.0"}


def test_links_lead_to_copies_in_the_package(toy):
    content = package_content("toy", toy)
    assert b"[datasets](datasets.md) and [more](papers.md#toys)" in content["docs/README.md"]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("bundles/toy/docs/README.md", "## Limits", "## Limitations", "section 'Limits'"),
        ("bundles/toy/docs/README.md", "docs/papers.md", "README.md", "found ../../../README.md"),
        ("docs/datasets.md", "`toy`", "`toys`", "one table for toy, found 0"),
        ("common/__init__.py", "__version__", "version", "expected __version__"),
        ("constraints.txt", "fire", "water", "a line for fire"),
        ("bundles/toy/configs/metadata.json", '"version": "0.10.0"', '"version": "0.9.0"', "newest entry"),
        ("bundles/toy/configs/metadata.json", '"version": "0.10.0"', '"version": "0.11.0"', "newest entry"),
        ("bundles/toy/configs/metadata.json", '"changelog"', '"changes"', "newest entry of the changelog"),
    ],
)
def test_what_would_make_a_false_package_is_refused(toy, tmp_path, file, old, new, message):
    text = (toy / file).read_text()
    assert old in text
    (toy / file).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(message)):
        package("toy", tmp_path / "dist", toy)
    assert not list(tmp_path.glob("dist/*"))


def test_unknown_bundle_is_refused(toy, tmp_path):
    with pytest.raises(ValueError, match="bundles/nothing"):
        package("nothing", tmp_path / "dist", toy)
