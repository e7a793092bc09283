"""Runs commands and keeps what they said, as a Markdown transcript without paths of the machine."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError

# What a run of a bundle puts before each line of its log: time, level, name of the logger.
STAMP = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]+ (?:- )?[A-Z]+ (?:[\w.]+ )?- ")
LAST_LINES = 15

# Command, folder and variables; exit code and all that was printed.
Execute = Callable[[Sequence[str], Path, Mapping[str, str]], tuple[int, str]]


def execute(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a command; exit code and what it printed to either stream.

    Raises:
        InputError: there is no such program.
    """
    try:
        done = subprocess.run(
            list(command),
            cwd=folder,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise InputError(f"{command[0]}: expected this program, found none") from error
    return done.returncode, done.stdout


def clean_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Variables without those that tell a Python where to find modules, or which environment it is of."""
    kept = {
        name: value
        for name, value in given.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP")
    }
    return {**kept, "PYTHONNOUSERSITE": "1"}


@dataclass
class Transcript:
    """What was done, step by step.

    Attributes:
        names: what stands for a path, or for anything else that differs from machine to machine.
        run_command: stand-in for :func:`execute`.
        entries: finished steps in Markdown.
        seconds: how long each command took, by the title of its step.
    """

    names: dict[str, str] = field(default_factory=dict)
    run_command: Execute = execute
    entries: list[str] = field(default_factory=list)
    seconds: dict[str, str] = field(default_factory=dict)

    def run(
        self,
        title: str,
        command: Sequence[object],
        folder: Path,
        keep: str | None = None,
        shown: str | None = None,
    ) -> str:
        """Run a command and note it, with its folder as in a shell.

        Args:
            title: of the step.
            command: program and its arguments.
            folder: to run it in.
            keep: regular expression of the lines worth noting; all if None.
            shown: what to note in place of the command, where that is code.

        Returns:
            What it printed.

        Raises:
            InputError: it ends with another exit code than 0; the message ends with what it said last.
        """
        words = [str(word) for word in command]
        start_s, start_cpu_s = time.monotonic(), _children_s()
        code, printed = self.run_command(words, folder, clean_environment(os.environ))
        lines = said(printed)
        if code:
            last = "\n".join(lines[-LAST_LINES:])
            raise InputError(f"{title}: {as_line(words)}\nended with exit code {code}:\n{last}")
        wall_s, cpu_s = time.monotonic() - start_s, _children_s() - start_cpu_s
        self.seconds[title] = f"{wall_s:.1f} s, processor {cpu_s:.1f} s"
        kept = [line for line in lines if keep is None or re.search(keep, line)]
        self.note(title, [f"{folder}$ {shown or as_line(words)}", *kept], self.seconds[title])
        return printed

    def note(self, title: str, lines: Sequence[str], seconds: str = "") -> None:
        """Add a step; names take the place of paths."""
        head = f"{len(self.entries) + 1}. {title}" + (f" ({seconds})" if seconds else "")
        text = "\n".join(f"   {self.renamed(line)}".rstrip() for line in ["```", *lines, "```"])
        self.entries.append(f"{self.renamed(head)}\n\n{text}\n")
        print(self.entries[-1], flush=True)

    def renamed(self, text: str) -> str:
        """A text with names in place of what they stand for; the longest goes first."""
        for path in sorted(filter(None, self.names), key=len, reverse=True):
            # Not within a longer name: /data must not be taken out of /data2 or /my/data.
            text = re.sub(
                rf"(?<![\w.]){re.escape(path)}(?![\w-])", lambda _, path=path: self.names[path], text
            )
        return text


def as_line(words: Sequence[str]) -> str:
    """A command for a shell, with double quotes around words that hold single ones."""
    return " ".join(
        f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word) for word in words
    )


def said(printed: str) -> list[str]:
    """Lines of an output without the stamps of a log; of a progress bar, what it showed last."""
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in printed.split("\n")]
    return [STAMP.sub("", line) for line in lines if line.strip()]


def _children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system
