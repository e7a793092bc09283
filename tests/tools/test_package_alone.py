"""An unzipped package trains and infers with nothing but its declared requirements."""

import json
import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.helpers.lean_environment import distributions, lean_environment
from tests.helpers.tiny_cases import TINY_CASES
from tools.package_bundle import REPOSITORY, package, package_content

BUNDLES = sorted(folder.parent.name for folder in REPOSITORY.glob("bundles/*/configs"))
TWO_IN_ONE = """
import json, sys
from pathlib import Path
from monai.bundle import ConfigWorkflow

jobs = json.loads(sys.argv[1])
for job in jobs:
    for name, kind in (("train", "train"), ("inference", "infer")):
        files = [f"{job['folder']}/configs/{name}.json"]
        files += [f"{job['folder']}/models/as_trained.json"] if kind == "infer" else []
        settings = {"bundle_root": job["folder"], "logging_file": False, **job[kind]}
        workflow = ConfigWorkflow(files, workflow_type=kind, **settings)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
import common
print("common of", Path(common.__file__).parents[1])
"""


@pytest.fixture(scope="module")
def lean_python(tmp_path_factory):
    """Python of an environment with the requirements of the first bundle; all have the same, says a test."""
    lines = package_content(BUNDLES[0])["requirements.txt"].decode().splitlines()
    return lean_environment(tmp_path_factory.mktemp("lean") / "environment", lines)


def run_python(python, *arguments, cwd, **environment):
    """Run the lean Python without anything of this process's surroundings; return what it printed."""
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "MPLBACKEND": "Agg"}
    # One home for all runs, as matplotlib lists all fonts there when it is first used.
    quiet["HOME"] = str(python.parents[1])
    command = [str(python), *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=cwd,
        env={"PATH": os.defpath, **quiet, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def unzipped(bundle, folder):
    with zipfile.ZipFile(package(bundle, folder / "dist")) as archive:
        archive.extractall(folder)
    return folder / bundle


def settings_of_command(settings):
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


@pytest.mark.parametrize("bundle", BUNDLES)
def test_card_has_no_gaps_and_links_lead_to_files_of_the_package(bundle):
    content = package_content(bundle)
    card = content["docs/model_card.md"].decode()
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", card, re.MULTILINE | re.DOTALL):
        assert text.strip(), title
    assert "not for clinical use" in card.lower()
    for document in ("README.md", "model_card.md"):
        links = re.findall(r"\]\((?!https?:)([^)#]+)", content[f"docs/{document}"].decode())
        known = {os.path.relpath(name, "docs") for name in content}
        assert [link for link in links if link not in known] == []


def test_all_bundles_have_the_same_requirements_and_they_can_be_read():
    texts = {package_content(bundle)["requirements.txt"] for bundle in BUNDLES}
    assert len(texts) == 1
    assert all(Requirement(line) for line in texts.pop().decode().splitlines())


def test_what_a_package_needs_in_turn_counts_but_not_its_extras():
    found = distributions(["nibabel", 'pytest; python_version < "3"'])
    assert {"nibabel", "numpy", "packaging"} <= found.keys()
    assert not {"pytest", "pydicom", "monai"} & found.keys()


@pytest.mark.slow
def test_neither_this_repository_nor_its_tools_are_in_the_lean_environment(lean_python, tmp_path):
    code = "from importlib.util import find_spec as f; print(*map(f, ['common', 'tools', 'pytest', 'onnx']))"
    assert run_python(lean_python, "-c", code, cwd=tmp_path).split() == ["None"] * 4


@pytest.mark.bundle
@pytest.mark.slow
@pytest.mark.parametrize("bundle", BUNDLES)
def test_unzipped_package_trains_and_infers(bundle, lean_python, tmp_path):
    write, settings, images = TINY_CASES[bundle]
    folder, data = unzipped(bundle, tmp_path / "a place"), tmp_path / "data"
    write(data)
    training = settings_of_command({**settings, "dataset_dir": data})
    command = ("-m", "monai.bundle", "run")
    run_python(
        lean_python, *command, "training", "--config_file", "configs/train.json", *training, cwd=folder
    )
    assert (folder / "models" / "model.pt").is_file()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    files = f"['{folder}/configs/inference.json','{folder}/models/as_trained.json']"
    places = {"bundle_root": folder, "output_dir": "masks", "dataset_dir": next(data.rglob(images))}
    places_of_run = settings_of_command(places)
    run_python(
        lean_python,
        *command,
        "inferring",
        "--config_file",
        files,
        *places_of_run,
        cwd=elsewhere,
        PYTHONPATH=str(folder),
    )
    assert [file for file in (elsewhere / "masks").iterdir() if "_seg" in file.name]


@pytest.mark.bundle
@pytest.mark.slow
def test_two_packages_share_a_process(lean_python, tmp_path):
    jobs = []
    for bundle in ("kcbac_mmwhs", "m2snet_polyp"):
        write, settings, images = TINY_CASES[bundle]
        folder, data = unzipped(bundle, tmp_path / f"place of {bundle}"), tmp_path / f"data_{bundle}"
        write(data)
        image = str(next(data.rglob(images)))
        training = {**settings, "dataset_dir": str(data)}
        inference = {"dataset_dir": image, "output_dir": str(folder / "masks")}
        jobs.append({"folder": str(folder), "train": training, "infer": inference})
    path = os.pathsep.join(job["folder"] for job in jobs)
    printed = run_python(lean_python, "-c", TWO_IN_ONE, json.dumps(jobs), cwd=tmp_path, PYTHONPATH=path)
    assert f"common of {jobs[0]['folder']}" in printed
    for job in jobs:
        assert list((Path(job["folder"]) / "masks").glob("*_seg*"))
