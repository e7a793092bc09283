"""A package is complete, free of rubbish, and the same bytes whenever it is made."""

import json
import os
import zipfile

import pytest

from tools.package_bundle import package

METADATA = {"version": "0.10.0", "changelog": {"0.9.0": "first", "0.10.0": "second"}}


@pytest.fixture
def toy(tmp_path):
    """A repository with one bundle, the shared package, and what lies around after a day of work."""
    files = {
        "LICENSE": "text",
        "common/__init__.py": "",
        "common/networks/net.py": "x = 1",
        "common/configs/smoke.json": "{}",
        "common/networks/__pycache__/net.pyc": "cache",
        "bundles/toy/configs/metadata.json": json.dumps(METADATA),
        "bundles/toy/configs/train.json": "{}",
        "bundles/toy/docs/README.md": "# Toy",
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
    ]


def test_weights_go_along_if_there_are_any(toy, tmp_path):
    (toy / "bundles/toy/models/model.pt").write_bytes(b"weights")
    assert "toy/models/model.pt" in names(package("toy", tmp_path / "dist", toy))


def test_same_files_give_the_same_bytes_at_another_time_with_other_permissions(toy, tmp_path):
    first = package("toy", tmp_path / "a", toy).read_bytes()
    os.utime(toy / "common/__init__.py", (1_000_000_000, 1_000_000_000))
    (toy / "common/networks/net.py").chmod(0o700)
    assert package("toy", tmp_path / "b", toy).read_bytes() == first
    (toy / "common/networks/net.py").write_text("x = 2")
    assert package("toy", tmp_path / "c", toy).read_bytes() != first


def test_packed_files_are_unchanged(toy, tmp_path):
    with zipfile.ZipFile(package("toy", tmp_path / "dist", toy)) as opened:
        assert opened.read("toy/common/networks/net.py") == (toy / "common/networks/net.py").read_bytes()
        assert opened.testzip() is None


def test_second_package_replaces_the_first(toy, tmp_path):
    package("toy", tmp_path / "dist", toy)
    (toy / "bundles/toy/docs/README.md").unlink()
    assert "toy/docs/README.md" not in names(package("toy", tmp_path / "dist", toy))
    assert not (tmp_path / "dist" / "toy" / "docs").exists()


@pytest.mark.parametrize(
    "metadata",
    [
        {**METADATA, "version": "0.9.0"},
        {**METADATA, "version": "0.11.0"},
        {"version": "0.1.0"},
        {"version": "0.1.0", "changelog": {}},
    ],
)
def test_version_without_newest_changelog_entry_is_refused(toy, tmp_path, metadata):
    (toy / "bundles/toy/configs/metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="newest entry of the changelog"):
        package("toy", tmp_path / "dist", toy)
    assert not list(tmp_path.glob("dist/*"))


def test_unknown_bundle_is_refused(toy, tmp_path):
    with pytest.raises(ValueError, match="bundles/nothing"):
        package("nothing", tmp_path / "dist", toy)
