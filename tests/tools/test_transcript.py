"""A transcript holds what was run and said, under names in place of paths, and stops where a step fails."""

import re
import sys

import pytest

from common.errors import InputError
from tools.transcript import Transcript, as_line, clean_environment, execute, said


def answering(code, printed):
    return lambda command, folder, environment: (code, printed)


def test_step_shows_command_and_output_under_their_names(tmp_path):
    transcript = Transcript({str(tmp_path): "WORK"}, answering(0, f"wrote {tmp_path}/a.zip\n"))
    transcript.run("Pack", ["pack", tmp_path / "b"], tmp_path)
    (entry,) = transcript.entries
    assert re.match(r"1\. Pack \(\d+\.\d s, processor \d+\.\d s\)\n\n", entry)
    assert "   ```\n   WORK$ pack WORK/b\n   wrote WORK/a.zip\n   ```\n" in entry
    assert "Pack" in transcript.seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/a/b.png", "IMAGE"),
        ("file=@/data/a/b.png -o /data/x", "file=@IMAGE -o DATA/x"),
        ("/data2/a, /my/data/a, /data.old", "/data2/a, /my/data/a, DATA.old"),
        ("\"/data/a\", '/data'", "\"DATA/a\", 'DATA'"),
    ],
)
def test_longest_name_wins_and_other_paths_stay(text, expected):
    transcript = Transcript({"/data": "DATA", "/data/a/b.png": "IMAGE", "": "NOTHING"})
    assert transcript.renamed(text) == expected


def test_name_with_signs_of_regular_expressions_is_taken_as_it_is():
    transcript = Transcript({"/a (1)+": r"\1 WORK"})
    assert transcript.renamed("in /a (1)+/x") == r"in \1 WORK/x"


def test_only_lines_worth_noting_are_kept_and_all_are_returned(tmp_path):
    transcript = Transcript(run_command=answering(0, "one\nloaded weights\ntwo\n"))
    assert transcript.run("Infer", ["x"], tmp_path, keep="loaded") == "one\nloaded weights\ntwo\n"
    assert "loaded weights" in transcript.entries[0]
    assert "two" not in transcript.entries[0]


def test_code_gives_way_to_what_it_does(tmp_path):
    transcript = Transcript(run_command=answering(0, ""))
    transcript.run("Look", ["python", "-c", "import sys"], tmp_path, shown="python (looks)")
    assert "$ python (looks)\n" in transcript.entries[0]
    assert "import" not in transcript.entries[0]


def test_step_that_fails_says_what_was_run_and_said_last_and_is_not_noted(tmp_path):
    printed = "\n".join(f"line {number}" for number in range(40))
    transcript = Transcript(run_command=answering(3, printed))
    with pytest.raises(InputError, match="exit code 3") as caught:
        transcript.run("Segment", ["infer", "it"], tmp_path)
    message = str(caught.value)
    assert message.startswith("Segment: infer it\n")
    assert message.endswith("line 39")
    assert "line 24" not in message  # 15 lines: 25 to 39
    assert "line 25" in message
    assert transcript.entries == []


def test_log_lines_lose_their_stamp_and_progress_bars_all_but_the_end():
    printed = (
        "2026-01-02 03:04:05,678 INFO ignite.engine.Engine - wrote 2 file(s):\n  /a\n\n"
        "2026-01-02 03:04:05,678 - INFO - > run_id: 'x'\n"
        "slices:  0%\rslices: 50%\rslices: 100%\n"
    )
    assert said(printed) == ["wrote 2 file(s):", "  /a", "> run_id: 'x'", "slices: 100%"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a", "b c"], "a 'b c'"),
        (["run", "['x','y']"], "run \"['x','y']\""),
        (["-c", "'$HOME'"], "-c ''\"'\"'$HOME'\"'\"''"),
    ],
)
def test_command_can_be_pasted_into_a_shell(words, line):
    assert as_line(words) == line


def test_command_finds_no_modules_of_its_surroundings():
    given = {"PATH": "/bin", "PYTHONPATH": "/repository", "VIRTUAL_ENV": "/x", "PIP_INDEX_URL": "y"}
    assert clean_environment(given) == {"PATH": "/bin", "PIP_INDEX_URL": "y", "PYTHONNOUSERSITE": "1"}


def test_real_command_gives_code_and_both_streams(tmp_path):
    code = "import os, sys; print(os.getcwd(), os.environ['A']); print('bad', file=sys.stderr); sys.exit(4)"
    status, printed = execute([sys.executable, "-S", "-c", code], tmp_path, {"A": "b"})
    assert status == 4
    assert printed.split("\n")[:2] in ([f"{tmp_path} b", "bad"], ["bad", f"{tmp_path} b"])


def test_missing_program_is_named(tmp_path):
    with pytest.raises(InputError, match="no-such-program: expected this program, found none"):
        execute(["no-such-program"], tmp_path, {"PATH": "/nowhere"})
