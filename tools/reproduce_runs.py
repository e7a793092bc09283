"""The runs behind a table: where each one lies, its commands, and what is already finished.

A run is one row with one seed (and one fold). It has a folder of its own::

    <output_dir>/<row>/seed_<n>/run.json             settings, progress, time, versions
                                training.log         everything that training printed
                                training/            split, state to continue from, TensorBoard
                                models/              weights
                                evaluations/<name>/  report of one evaluation, beside its log
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.data.writers import atomic_path
from common.engines.weights import read_checkpoint
from common.errors import InputError, raise_problems
from tools.bundle_command import REPOSITORY, bundle_command
from tools.reproduce_tables import Row, Table

RECORD = "run.json"
DATA_OVERLAY = "data_"  # how overlays begin that read another data set
FINISHED, FAILED, RUNNING = "finished", "failed", "running"
# How fast a run goes and where it looks may change between two calls; what it learns may not.
WITHOUT_EFFECT = ("num_workers", "cache_rate", "device", "check_data")


@dataclass(frozen=True)
class Plan:
    """What was asked for.

    Attributes:
        table: whose rows run.
        rows: that run.
        dataset_dir: folder with the data.
        output_dir: folder of all runs.
        seeds: one run each.
        folds: of a cross-validation; empty: the setting ``fold`` is left alone.
        overlays: after those of the table, before those of the row; one of data replaces the table's.
        overrides: further settings, as on the command line.
        repository: its root.
    """

    table: Table
    rows: Sequence[Row]
    dataset_dir: Path
    output_dir: Path
    seeds: Sequence[int]
    folds: Sequence[int] = ()
    overlays: Sequence[str] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)
    repository: Path = REPOSITORY

    @property
    def kept_overlays(self) -> list[str]:
        """Those of the table, without its data set if another one was asked for."""
        has_other_data = any(word.startswith(DATA_OVERLAY) for word in self.overlays)
        return [
            word for word in self.table.overlays if not (has_other_data and word.startswith(DATA_OVERLAY))
        ]

    @property
    def shared_overlays(self) -> list[str]:
        """Of all rows, in the order of merging."""
        return [*self.kept_overlays, *self.overlays]

    @property
    def runs(self) -> list[Run]:
        """All runs: rows in the order of the table, in each of them seeds, in each of them folds."""
        return [
            Run(self, row, seed, fold)
            for row in self.rows
            for seed in self.seeds
            for fold in (self.folds or (None,))
        ]


@dataclass(frozen=True)
class Run:
    """One row with one seed and, in a cross-validation, one fold."""

    plan: Plan
    row: Row
    seed: int
    fold: int | None = None

    @property
    def name(self) -> str:
        """Row and seed, as in the folder's path."""
        return f"{self.row.id}/seed_{self.seed}" + ("" if self.fold is None else f"_fold_{self.fold}")

    @property
    def folder(self) -> Path:
        """Where everything of the run lies."""
        return self.plan.output_dir / self.name

    @property
    def state_file(self) -> Path:
        """From which a training that was cut off goes on."""
        return self.folder / "training" / "checkpoints" / "state.pt"

    def evaluation_folder(self, name: str) -> Path:
        """Where the report of an evaluation lies."""
        return self.folder / "evaluations" / name

    def training_command(self, resume: bool = False) -> list[str]:
        """Arguments of ``python``."""
        overrides = self._overrides(self.folder / "training") | ({"resume": "True"} if resume else {})
        return [*self._base("train", self.overlays), *_words(overrides)]

    def evaluation_command(self, name: str) -> list[str]:
        """Arguments of ``python`` for one of the table's evaluations."""
        evaluation = self.plan.table.evaluations[name]
        settings = {key: as_word(value) for key, value in evaluation.settings.items()}
        overrides = self._overrides(self.evaluation_folder(name)) | settings | dict(self.plan.overrides)
        return [*self._base("evaluate", [*self.overlays, *evaluation.overlays]), *_words(overrides)]

    @property
    def overlays(self) -> list[str]:
        """Of the table, of the call, of the row, in the order of merging."""
        return [*self.plan.shared_overlays, *(self.row.overlays or ())]

    def training_settings(self) -> dict[str, Any]:
        """Whatever decides about the trained weights; two runs with equal ones need not both be made."""
        return self._settings(self.training_command())

    def evaluation_settings(self, name: str) -> dict[str, Any]:
        """Whatever decides about a report, the weights aside."""
        return self._settings(self.evaluation_command(name))

    def record(self) -> dict[str, Any]:
        """What is known of the run; empty parts if it was never started.

        Raises:
            InputError: the file cannot be read.
        """
        file = self.folder / RECORD
        if not file.is_file():
            return {"training": {}, "evaluations": {}}
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{file}: expected the record of a run, found {error}") from error

    def keep(self, record: Mapping[str, Any]) -> None:
        """Write the record."""
        with atomic_path(self.folder / RECORD) as path:
            path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def is_finished_training(self) -> bool:
        """Whether training is recorded as ended. It may have been cut off between its end and the record."""
        return self.record()["training"].get("state") == FINISHED

    def is_evaluated(self, name: str) -> bool:
        """Whether the report is there and was made with these settings."""
        found = self.record()["evaluations"].get(name, {})
        settings_agree = found.get("settings") == self.evaluation_settings(name)
        return found.get("state") == FINISHED and settings_agree and self.evaluation_folder(name).is_dir()

    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.is_finished_training() and all(map(self.is_evaluated, self.plan.table.evaluations))

    def remove(self) -> None:
        """Delete what was trained and evaluated, its record and its log."""
        for name in ("training", "models", "evaluations"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in (RECORD, "training.log"):
            (self.folder / name).unlink(missing_ok=True)

    def _base(self, action: str, overlays: Sequence[str]) -> list[str]:
        words = [word for word in overlays if action != "train" or not word.startswith("evaluate")]
        try:
            return bundle_command(action, self.plan.table.bundle, words, repository=self.plan.repository)
        except ValueError as error:
            raise InputError(f"row {self.row.id}: {error}") from error

    def _overrides(self, output_dir: Path) -> dict[str, str]:
        places = {
            "dataset_dir": str(self.plan.dataset_dir),
            "output_dir": str(output_dir),
            "model_dir": str(self.folder / "models"),
            "seed": str(self.seed),
        }
        fold = {} if self.fold is None else {"fold": str(self.fold)}
        return places | fold | dict(self.plan.overrides)

    def _settings(self, command: Sequence[str]) -> dict[str, Any]:
        given = dict(word[2:].split("=", 1) for word in command if word.startswith("--") and "=" in word)
        places = ("output_dir", "model_dir", *WITHOUT_EFFECT)
        return {
            "configs": [[file, _digest(self.plan.repository / file)] for file in config_files(command)],
            "settings": {key: value for key, value in given.items() if key not in places},
        }


def refuse_other_settings(runs: Sequence[Run]) -> None:
    """Refuse folders that hold runs with other settings than those asked for.

    Raises:
        InputError: names every such run and what differs.
    """
    problems = []
    for run in runs:
        found = run.record()["training"].get("settings")
        is_worth_keeping = run.state_file.is_file() or run.is_finished_training()
        if is_worth_keeping and found != run.training_settings():
            problems.append(f"{run.folder}: {'; '.join(_changes(found, run.training_settings()))}")
    raise_problems(
        "runs made with other settings: give another --output_dir, or --redo to delete them and start anew",
        problems,
    )


def finished_share(state_file: Path) -> float:
    """Share of the epochs of a training that its state has behind it, 0 if there is none."""
    if not state_file.is_file():
        return 0.0
    progress = read_checkpoint(state_file, "cpu")["trainer"]
    return progress["iteration"] / (progress["epoch_length"] * progress["max_epochs"])


def config_files(command: Sequence[str]) -> list[str]:
    """Paths of the config files in a command, in the order of merging."""
    word = command[list(command).index("--config_file") + 1]
    return ast.literal_eval(word) if word.startswith("[") else [word]


def as_word(value: Any) -> str:
    """A setting as the command line of MONAI wants it."""
    return "$None" if value is None else str(value)


def _words(overrides: Mapping[str, str]) -> list[str]:
    return [f"--{key}={value}" for key, value in overrides.items()]


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = dict(before["configs"]), dict(now["configs"])
    names = [[Path(file).stem for file in files] for files in (old, new)]
    changes = [f"overlays {', '.join(names[0])} -> {', '.join(names[1])}"] if names[0] != names[1] else []
    changes += [f"{file} has changed" for file in new if file in old and old[file] != new[file]]
    keys = sorted({*before["settings"], *now["settings"]})
    pairs = [(key, before["settings"].get(key), now["settings"].get(key)) for key in keys]
    return changes + [
        f"{key}: {old_value} -> {new_value}" for key, old_value, new_value in pairs if old_value != new_value
    ]
