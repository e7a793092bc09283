"""The set-up with stand-ins for interpreters: nothing is installed here."""

import stat

import pytest

from tools import setup_environment
from tools.setup_environment import Interpreter, SetupError, interpreters, is_new_enough, probe


def script(folder, name, text):
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def answer(version, torch="null", inheritable="true"):
    found = f'"path": "/usr/bin/p", "version": {version}, "torch": {torch}, "inheritable": {inheritable}'
    return f"echo a line that something printed; echo '{{{found}}}'"


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A repository to set up; records the commands instead of running them."""
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / "constraints.txt").write_text("numpy==1")
    commands, failing = [], set()
    monkeypatch.setattr(setup_environment, "ROOT", tmp_path)
    monkeypatch.setattr(setup_environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(setup_environment, "STAMP", tmp_path / ".venv" / "setup_stamp")

    def run(command):
        commands.append(command)
        if "venv" in command:
            (tmp_path / ".venv" / "bin").mkdir(parents=True)
            (tmp_path / ".venv" / "pyvenv.cfg").write_text("home = /x\nversion = 3.11.7\n")
            script(tmp_path / ".venv" / "bin", "python", "exit 0")
            room.base = command[0]
        if "torch==2.13.0" in command and room.base in failing:
            raise SetupError("failed: pip")

    def room():
        return None

    monkeypatch.setattr(setup_environment, "_run", run)
    room.commands, room.failing, room.path = commands, failing, tmp_path
    return room


def use(monkeypatch, *pythons):
    monkeypatch.setattr(setup_environment, "interpreters", lambda wanted: list(pythons))


def test_probe_executes_and_reads_the_last_line(tmp_path):
    python = probe(script(tmp_path, "python3", answer("[3, 11, 7]", '"2.13.0+cpu"')))
    assert python == Interpreter("/usr/bin/p", (3, 11, 7), has_torch=True)


@pytest.mark.parametrize(
    "text", ["echo 'pyenv: python3.12: command not found' >&2; exit 127", "exit 0", answer("[3, 13, 0]")]
)
def test_placeholder_or_unsupported_version_is_no_python(tmp_path, text):
    assert probe(script(tmp_path, "python3", text)) is None
    assert probe(str(tmp_path / "absent")) is None


def test_torch_of_a_virtual_environment_cannot_be_inherited(tmp_path):
    python = probe(script(tmp_path, "python3", answer("[3, 11, 7]", '"2.13.0"', inheritable="false")))
    assert not python.has_torch


@pytest.mark.parametrize(
    ("version", "is_enough"), [("2.8.0", True), ("2.13.0+cpu", True), ("2.7.1", False), (None, False)]
)
def test_oldest_torch_is_2_8_by_number_not_by_text(version, is_enough):
    assert is_new_enough(version) is is_enough


def test_python_with_torch_comes_first_otherwise_the_order_stays(monkeypatch):
    found = {
        "python3": Interpreter("a", (3, 10, 1), False),
        "python3.12": Interpreter("b", (3, 12, 1), False),
        "python3.11": Interpreter("c", (3, 11, 1), True),
        "python": Interpreter("a", (3, 10, 1), False),
    }
    monkeypatch.setattr(setup_environment, "probe", found.get)
    assert [python.path for python in interpreters("")] == ["c", "a", "b"]
    assert [python.path for python in interpreters("python3.12")] == ["b"]
    with pytest.raises(SetupError, match=r"tried: python3\.10"):
        interpreters("python3.10")


def test_bare_python_gets_the_pinned_torch_before_the_project(room, monkeypatch):
    use(monkeypatch, Interpreter("p", (3, 11, 7), False))
    setup_environment.make_environment("")
    assert [" ".join(command[1:4]) for command in room.commands] == [
        f"-m venv {room.path}/.venv",
        "-m pip install",
        "-m pip install",
    ]
    assert room.commands[1][-1] == "torch==2.13.0"
    assert room.commands[2][-4:] == ["-e", ".[dev]", "-c", "constraints.txt"]


def test_installed_torch_is_kept(room, monkeypatch):
    use(monkeypatch, Interpreter("p", (3, 11, 7), True))
    setup_environment.make_environment("")
    assert "--system-site-packages" in room.commands[0]
    assert not any("torch==2.13.0" in command for command in room.commands)


def test_next_python_is_tried_where_torch_has_no_wheel(room, monkeypatch, capsys):
    room.failing.add("p12")
    use(monkeypatch, Interpreter("p12", (3, 12, 1), False), Interpreter("p11", (3, 11, 7), False))
    setup_environment.make_environment("")
    assert [command[0] for command in room.commands if "venv" in command] == ["p12", "p11"]
    assert "Trying the next Python" in capsys.readouterr().out


def test_failure_of_the_last_python_leaves_nothing_behind(room, monkeypatch):
    room.failing.add("p")
    use(monkeypatch, Interpreter("p", (3, 11, 7), False))
    with pytest.raises(SetupError, match="failed: pip"):
        setup_environment.make_environment("")
    assert not (room.path / ".venv").exists()


def test_done_until_something_changes(room, monkeypatch):
    use(monkeypatch, Interpreter("p", (3, 11, 7), False))
    assert not setup_environment.is_done("")
    setup_environment.make_environment("")
    assert setup_environment.is_done("")
    monkeypatch.setattr(setup_environment, "probe", lambda name: Interpreter(name, (3, 11, 7), False))
    assert setup_environment.is_done("python3.11")
    monkeypatch.setattr(setup_environment, "probe", lambda name: Interpreter(name, (3, 12, 1), False))
    assert not setup_environment.is_done("python3.12")
    (room.path / "constraints.txt").write_text("numpy==2")
    assert not setup_environment.is_done("")


def test_changed_constraints_do_not_rebuild_the_environment(room, monkeypatch):
    use(monkeypatch, Interpreter("p", (3, 11, 7), False))
    setup_environment.make_environment("")
    (room.path / "constraints.txt").write_text("numpy==2")
    del room.commands[:]
    setup_environment.make_environment("")
    assert [command[-1] for command in room.commands] == ["constraints.txt"]
