"""Does what is left of the runs behind a table: starts, resumes and records them, and shows progress."""

from __future__ import annotations

import fcntl
import os
import platform
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import monai
import torch
from tqdm import tqdm

import common
from tools.reproduce_processes import Job, log_tail, logged_share
from tools.reproduce_runs import FAILED, FINISHED, RUNNING, Run, finished_share

# Runs a job to its end and gives its exit code; meanwhile calls the second argument now and then.
Start = Callable[[Job, Callable[[], None]], int]
SHARE_OF_TRAINING = 0.9
BUSY = "another process works on it"
BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.2f} of {total} runs, {elapsed} passed, {remaining} left"


class Progress:
    """One bar over all runs, in which a run in the middle of its training counts in part.

    Args:
        num_runs: of the whole table.
        num_finished: before this call; they say nothing about the time left.
        is_shown: whether to draw it.
    """

    def __init__(self, num_runs: int, num_finished: int, is_shown: bool = True) -> None:
        self._bar = tqdm(
            total=num_runs, initial=num_finished, bar_format=BAR, disable=not is_shown, smoothing=0
        )
        self._num_finished = num_finished
        self._shares: dict[str, float] = {}
        self._lock = threading.Lock()

    def update(self, run: Run, share: float) -> None:
        """Set how much of a run is done, 0 to 1."""
        with self._lock:
            if run.name not in self._shares:
                self._bar.initial += share  # done by an earlier call
            is_news = self._shares.get(run.name) != share
            self._shares[run.name] = share
            self._bar.n = self._num_finished + sum(self._shares.values())
            if is_news or sys.stderr.isatty():  # a log needs no second line that says the same
                self._bar.refresh()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        with self._lock:
            self._bar.write(line)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def work_off(
    runs: Sequence[Run],
    start: Start,
    progress: Progress,
    gpus: Sequence[str] = (),
    after_each: Callable[[], None] = lambda: None,
    stop: Callable[[], None] = lambda: None,
) -> None:
    """Do what is left of the runs: one after another, or one per GPU at a time.

    A run that fails is recorded, and the others go on.

    Args:
        runs: not yet finished.
        start: runs jobs.
        progress: is kept up to date.
        gpus: values of ``CUDA_VISIBLE_DEVICES``; none: one run at a time, which sees all GPUs.
        after_each: called when a run has ended, in whatever way.
        stop: called on Ctrl-C and on errors, to end the jobs that are running.
    """
    devices: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for gpu in gpus or [None]:
        devices.put(gpu)

    def do(run: Run) -> None:
        gpu = devices.get()
        try:
            state = perform(run, start, gpu, lambda share: progress.update(run, share))
            progress.say(f"{run.name}: {state}")
        finally:
            devices.put(gpu)

    with ThreadPoolExecutor(max_workers=len(gpus) or 1) as pool:
        left: set[Future[None]] = {pool.submit(do, run) for run in runs}
        try:
            while left:
                ended, left = wait(left, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()
                after_each()
        except BaseException:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def perform(run: Run, start: Start, gpu: str | None, advance: Callable[[float], None]) -> str:
    """Train and evaluate one run as far as that is still to be done, and record it.

    Args:
        run: may have been begun before.
        start: runs jobs.
        gpu: that the run sees; ``None``: all.
        advance: told the share of the run that is done.

    Returns:
        "finished", "failed", or that another process works on this run.
    """
    with _held(run.folder) as lock:
        if lock is None:
            return BUSY
        # Bars go to a log, where ten lines per second would only fill the disk.
        environment = {"TQDM_MININTERVAL": "10"} | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})

        def begin(command: Sequence[str], log: Path, poll: Callable[[], None] = lambda: None) -> int:
            return start(Job(command, log, environment, [lock]), poll)

        if not run.is_finished_training() and not _train(run, begin, advance):
            return FAILED
        names = [name for name in run.plan.table.evaluations if not run.is_evaluated(name)]
        for number, name in enumerate(names):
            advance(SHARE_OF_TRAINING + (1 - SHARE_OF_TRAINING) * number / len(names))
            if not _evaluate(run, name, begin):
                return FAILED
        advance(1.0)
        return FINISHED


def _train(run: Run, begin: Callable[..., int], advance: Callable[[float], None]) -> bool:
    if not run.state_file.is_file():
        run.remove()  # a split of other cases, say, left by a call that failed early
    done = finished_share(run.state_file)
    advance(SHARE_OF_TRAINING * done)
    record, log = run.record(), run.folder / "training.log"
    part = record["training"] = {**record["training"], "settings": run.training_settings()}
    if done >= 1:  # cut off between its last epoch and this record
        part["state"] = FINISHED
        run.keep(record)
        return True

    def poll() -> None:
        advance(SHARE_OF_TRAINING * max(done, logged_share(log)))

    command = run.training_command(resume=run.state_file.is_file())
    return _recorded(run, record, part, lambda: begin(command, log, poll), log)


def _evaluate(run: Run, name: str, begin: Callable[..., int]) -> bool:
    folder = run.evaluation_folder(name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # The split and what was found out about the data are taken over: nothing is drawn or read again.
    for file in (run.folder / "training").glob("*.json"):
        shutil.copyfile(file, folder / file.name)
    record, log = run.record(), folder / "evaluation.log"
    part = record["evaluations"][name] = {"settings": run.evaluation_settings(name)}
    return _recorded(run, record, part, lambda: begin(run.evaluation_command(name), log), log)


def _recorded(
    run: Run, record: Mapping[str, Any], part: dict[str, Any], work: Callable[[], int], log: Path
) -> bool:
    """Do one part of a run between two records of it; tell whether it went well."""
    part["state"] = RUNNING
    part.pop("error", None)
    run.keep(record)
    begun_s = time.monotonic()
    try:
        code = work()
        part["state"] = FINISHED if code == 0 else FAILED
        if code != 0:
            part["error"] = {"exit_code": code, "log": str(log), "last_lines": log_tail(log)}
    finally:
        part["seconds"] = round(part.get("seconds", 0.0) + time.monotonic() - begun_s, 1)
        part["made_with"] = _made_with()
        run.keep(record)
    return code == 0


@contextmanager
def _held(folder: Path) -> Iterator[int | None]:
    """Hold a folder until the end of the block; gives ``None`` if another process holds it.

    The jobs inherit what holds it, so that a training which outlives this program is not started twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield lock.fileno()


def _made_with() -> dict[str, str]:
    """Versions and machine."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "medseg-bundles": common.__version__,
        "MONAI": monai.__version__,
        "PyTorch": torch.__version__,
        "Python": platform.python_version(),
        "machine": ", ".join([f"{os.cpu_count()} CPU cores ({platform.machine()})", *_gpu_names()]),
    }


def _gpu_names() -> list[str]:
    """Names of the GPUs, asked of the driver: PyTorch would take up memory on each of them."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
