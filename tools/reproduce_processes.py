"""Commands as processes whose output goes to a log: starting, ending, and reading what they print."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.bundle_command import REPOSITORY, shell_line

POLL_S = 0.5
PATIENCE_S = 10
TAIL_BYTES = 20_000
TAIL_LINES = 12


class Stopped(Exception):  # noqa: N818  (not an error: somebody asked for it)
    """The command was ended because everything is to end."""


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        command: arguments of ``python``.
        log: file to which everything printed is appended.
        environment: variables besides those of this process.
        held: file descriptors that stay open as long as the command runs, such as that of a lock.
    """

    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    held: Sequence[int] = ()


class Processes:
    """Runs each job as a process of its own.

    Args:
        repository: its root, in which they run.
    """

    def __init__(self, repository: Path = REPOSITORY) -> None:
        self.repository = repository
        self._is_stopped = threading.Event()

    def __call__(self, job: Job, poll: Callable[[], None]) -> int:
        """Run a job to its end; may be called from several threads.

        Args:
            job: what to run.
            poll: called about twice a second meanwhile.

        Returns:
            Exit code; negative: the signal that ended it.

        Raises:
            Stopped: ``stop`` was called.
        """
        with open(job.log, "ab") as log:
            log.write(f"$ {shell_line(['python', *job.command])}\n".encode())
            log.flush()
            # In a session of its own, so that Ctrl-C ends the jobs by way of `stop` alone.
            process = subprocess.Popen(
                [sys.executable, *job.command],
                cwd=self.repository,
                env={**os.environ, **job.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=job.held,
                start_new_session=True,
            )
            try:
                while not self._is_stopped.is_set():
                    try:
                        return process.wait(POLL_S)
                    except subprocess.TimeoutExpired:
                        poll()
            finally:
                _end(process)
        raise Stopped

    def stop(self) -> None:
        """End what is running; what is started later ends at once."""
        self._is_stopped.set()


def log_tail(log: Path) -> list[str]:
    """The last lines of a log, progress bars left out."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", _last_text(log))  # bars move the cursor
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text)]
    return [line for line in lines if line and not re.search(r"\d+%\|", line)][-TAIL_LINES:]


def logged_share(log: Path) -> float:
    """Share of the epochs that ended before the last line of a training's log, 0 if it does not say."""
    found = re.findall(r"\bEpoch \[(\d+)/(\d+)\]", _last_text(log))
    return (int(found[-1][0]) - 1) / int(found[-1][1]) if found else 0.0


def _last_text(log: Path) -> str:
    if not log.is_file():
        return ""
    with open(log, "rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return stream.read().decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process and its children to end, and make them if they do not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            continue
