"""The environment of the MONAI Label server with stand-ins for pip: nothing is installed here."""

import re
from pathlib import Path

import pytest

from tools import label_environment
from tools.label_environment import LabelEnvironmentError, is_complete, make_environment

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A repository to set up; records the commands instead of running them."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "label_requirements.txt").write_text("numpy==1.26.4")
    commands = []
    monkeypatch.setattr(label_environment, "REPOSITORY", tmp_path)
    monkeypatch.setattr(label_environment, "VENV", tmp_path / ".venv-label")
    monkeypatch.setattr(label_environment.sys, "prefix", str(tmp_path / ".venv"))

    def run(command):
        commands.append(" ".join(command))
        (tmp_path / ".venv-label").mkdir(exist_ok=True)
        if room.failing and room.failing in commands[-1]:
            raise LabelEnvironmentError("failed: pip")

    def room():
        return None

    monkeypatch.setattr(label_environment, "_run", run)
    room.commands, room.path, room.failing = commands, tmp_path, ""
    return room


def test_packages_that_contradict_each_other_come_last_and_alone(room):
    make_environment()
    venv, torch, requirements, alone = room.commands
    assert venv.endswith(f"-m venv {room.path}/.venv-label")
    assert torch.endswith("pip install torch==2.13.0")
    assert requirements.endswith("pip install -r tools/label_requirements.txt")
    assert alone.endswith("pip install --no-deps monailabel==0.8.5 pydicom-seg==0.4.1")


def test_torch_of_the_machine_is_inherited_as_by_the_project(room):
    (room.path / ".venv").mkdir()
    (room.path / ".venv" / "pyvenv.cfg").write_text("include-system-site-packages = true\n")
    make_environment()
    assert "--system-site-packages" in room.commands[0]
    assert not any("torch==" in command for command in room.commands)


def test_complete_until_the_requirements_change(room):
    assert not is_complete()
    make_environment()
    assert is_complete()
    (room.path / "tools" / "label_requirements.txt").write_text("numpy==1.26.3")
    assert not is_complete()


def test_half_an_environment_is_not_complete(room):
    make_environment()
    room.failing = "--no-deps"
    with pytest.raises(LabelEnvironmentError):
        make_environment()
    assert not is_complete()


def test_failure_names_the_command_and_usual_reasons(tmp_path):
    with pytest.raises(LabelEnvironmentError, match=r"failed: .*false\n.*no network"):
        label_environment._run(["false"])


def test_every_requirement_has_its_exact_version():
    text = (REPOSITORY / "tools" / "label_requirements.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+(\[[\w,]+\])?==[\w.]+", line)] == []
    assert "pydicom==2.4.5" in lines
    assert "numpy==1.26.4" in lines
