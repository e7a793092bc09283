"""The tutorial: its commands name real things, it stops at the first failure, it shows the scores."""

import importlib.util
import re

import pytest

from tools import demo


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A demo that runs in an empty folder; its steps are set by the test."""

    def start(**steps):
        monkeypatch.setattr(demo, "REPOSITORY", tmp_path)
        monkeypatch.setattr(demo, "STEPS", steps)
        return demo.main()

    return start


def touch(name):
    make = f"f = Path('{name}'); f.parent.mkdir(parents=True, exist_ok=True); f.write_text('| LV | 0.9 |')"
    return f'python -c "from pathlib import Path; {make}"'


def test_commands_name_existing_modules_and_configs():
    for line in demo.STEPS.values():
        assert importlib.util.find_spec(line.split()[2]) is not None
        configs = [path for path in re.findall(r"'([^']+\.json)'", line) if not path.startswith("demo/")]
        assert [path for path in configs if not (demo.REPOSITORY / path).is_file()] == []


def test_everything_is_written_to_the_ignored_folder():
    for line in demo.STEPS.values():
        written = re.findall(r"--(?:dataset|output|model)_dir (\S+)", line)
        assert written
        assert all(path.startswith("demo/") for path in written)


def test_scores_and_picture_are_shown(toy, capfd):
    assert toy(score=touch("demo/output/report.md"), draw=touch("demo/output/pictures/a.png")) == 0
    shown = capfd.readouterr().out
    assert "[2/2] draw" in shown
    assert "| LV | 0.9 |" in shown
    assert "demo/output/pictures/a.png" in shown


def test_first_failure_ends_the_demo_with_its_code(toy, capfd, tmp_path):
    assert toy(fail='python -c "raise SystemExit(3)"', after=touch("after.txt")) == 3
    assert "step 1 failed with exit code 3" in capfd.readouterr().err
    assert not (tmp_path / "after.txt").exists()


def test_missing_report_is_a_failure(toy, capfd):
    assert toy(nothing='python -c ""') == 1
    assert "expected report.md" in capfd.readouterr().err
