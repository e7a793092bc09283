"""Evaluator handler that writes the report as one page for the browser."""

from __future__ import annotations

import json
import logging
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import monai
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.config import PathLike
from monai.utils import convert_to_numpy, string_list_all_gather

from common import __version__
from common.data.writers import atomic_path
from common.engines.case_metrics import CaseGroups
from common.engines.pictures import case_name
from common.engines.report_figures import picture_uri
from common.engines.report_html import Picture, Report, page
from common.errors import InputError
from common.metrics.averages import mean_over_cases

logger = logging.getLogger(__name__)

FILE_NAME = "report.html"
MAX_PICTURE_BYTES = 6 * 2**20
_EXTREME = re.compile(r"(worst|best)_(\d+)_dice_(\d\.\d{3})_(.+)")
_META = "_meta_"


class ReportPage:
    """Write ``report.html`` when the evaluation has ended: one file, to be opened from disk, to be passed on.

    It holds the scores of ``report.json``, box plots and spread of every structure, every case, the worst and
    best ones as pictures, the configuration, and versions. Names of cases and paths are in it, too.

    List it after ``EvaluationReport``, whose ``report.json`` in the same folder it reads, and after the
    handlers that draw. Only pictures of the same run are shown: those of ``ExtremePictures`` as they are
    ranked; those of ``CasePictures`` by the first metric that has values per case (mean over its structures,
    higher is better), if there are no others. Rank 0 writes; values come from all processes.

    Args:
        output_dir: folder of ``report.json`` and of the page.
        pictures_dir: folder of the pictures; ``None``: the folder ``pictures`` in ``output_dir``.
        case_columns: title of each metric that is shown case by case and its name in
            ``engine.state.metric_details``; ``None``: the columns of the report that have such values.
        group_key: entry of the cases that names their group. Few groups (domains) get box plots of their own,
            any number of them (clips) a column in the tables of cases.
        name_key: entry of the cases with their name; the name of the image file where a case has none.
        settings: the merged configuration, with MONAI's ``_meta_`` in it if there is one, of which the name
            and version make the heading.

    Raises:
        InputError: while running, no new ``report.json``, a name in ``case_columns`` without values per case
            and structure, or a case without group; a file cannot be written.
    """

    def __init__(
        self,
        output_dir: PathLike,
        pictures_dir: PathLike | None = None,
        case_columns: Mapping[str, str] | None = None,
        group_key: str | None = None,
        settings: Mapping[str, Any] | None = None,
        name_key: str = "id",
    ) -> None:
        self.output_dir = Path(output_dir)
        self.pictures_dir = self.output_dir / "pictures" if pictures_dir is None else Path(pictures_dir)
        self.case_columns = case_columns
        self.settings = settings
        self._groups = CaseGroups(group_key)
        self.name_key = name_key
        self._names: list[str] = []
        self._picture_names: list[str] = []  # of the cases of this process, as the drawing handlers name them
        self._earlier: set[tuple[Path, int, int]] = set()

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose decollated output holds ``image``."""
        self._groups.attach(engine)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._gather)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self._names, self._picture_names = [], []
        self._earlier = set(map(_identity, self._files()))

    def _files(self) -> list[Path]:
        """What other handlers may have written, the report first, the pictures by name."""
        report = self.output_dir / "report.json"
        return [*([report] if report.is_file() else []), *sorted(self.pictures_dir.glob("*.png"))]

    def _collect(self, engine: Engine) -> None:
        for given, case in zip(engine.state.batch, engine.state.output):
            picture_name = case_name(case["image"], len(self._picture_names) + 1)
            self._picture_names.append(picture_name)
            self._names.append(str(given.get(self.name_key, picture_name)))

    def _gather(self, engine: Engine) -> None:
        # As the values per case are gathered: rank by rank.
        self._names = string_list_all_gather(self._names, delimiter="\0")

    def _write(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        new = [file for file in self._files() if _identity(file) not in self._earlier]
        if not new or new[0].name != "report.json":
            raise InputError(
                f"{self.output_dir / 'report.json'}: expected a report of this run, found none; list"
                " ReportPage after EvaluationReport, with the same output_dir"
            )
        scores = json.loads(new[0].read_text(encoding="utf-8"))
        cases = self._values(engine, scores)
        meta = (self.settings or {}).get(_META, {})
        # Those of this process, the first one, come first in what was gathered.
        drawn = list(zip(self._picture_names, self._names))
        pictures, note = _pictures(new[1:], drawn, cases)
        report = Report(
            title=" ".join(["Evaluation of", meta["name"], meta["version"]]) if meta else "Evaluation",
            facts=_facts(scores, engine),
            scores=scores,
            case_names=self._names,
            cases=cases,
            group_key=self._groups.key,
            groups=self._groups.names,
            pictures=pictures,
            picture_note=note,
            settings=self._settings_text(),
            versions=versions(),
        )
        with atomic_path(self.output_dir / FILE_NAME) as path:
            path.write_text(page(report), encoding="utf-8")
        logger.info("page of the report: %s", self.output_dir / FILE_NAME)

    def _values(self, engine: Engine, scores: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Values of each case and structure, float64 (cases, K), by title."""
        wanted = self.case_columns
        if wanted is None:
            wanted = {title: column["metric"] for title, column in scores["columns"].items()}
        shape = len(self._names), len(scores["classes"])
        found = {}
        for title, metric in wanted.items():
            details = engine.state.metric_details.get(metric)
            if details is not None and tuple(details.shape) == shape:
                found[title] = convert_to_numpy(details).astype(np.float64)
            elif self.case_columns is not None:
                raise InputError(
                    f"case_columns: expected a metric with values of {shape[0]} case(s) and {shape[1]}"
                    f" structure(s), found {metric!r} with"
                    f" {'none' if details is None else tuple(details.shape)}"
                )
        return found

    def _settings_text(self) -> str | None:
        if self.settings is None:
            return None
        settings = {key: value for key, value in self.settings.items() if key != _META}
        # Settings given from Python may be objects that JSON does not know.
        return json.dumps(settings, indent=2, default=str, ensure_ascii=False)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, by name."""
    return {
        "common": __version__,
        "Python": platform.python_version(),
        "PyTorch": str(torch.__version__),
        "MONAI": monai.__version__,
        "NumPy": np.__version__,
        "system": platform.platform(),
    }


def _identity(file: Path) -> tuple[Path, int, int]:
    """Changes whenever a file is replaced, even by the same content."""
    status = file.stat()
    return file, status.st_ino, status.st_mtime_ns


def _facts(scores: Mapping[str, Any], engine: Engine) -> dict[str, str]:
    facts = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cases": str(scores["cases"]),
        "grid": str(scores["grid"]),
    }
    if "groups" in scores:
        facts["groups"] = f"{scores['groups']} of equal weight ({scores['group_key']})"
    device = torch.device(getattr(engine.state, "device", None) or "cpu")
    facts["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    if idist.get_world_size() > 1:
        facts["processes"] = str(idist.get_world_size())
    return facts


def _pictures(
    files: Sequence[Path], drawn: Sequence[tuple[str, str]], cases: Mapping[str, np.ndarray]
) -> tuple[list[Picture], str]:
    """Pictures from both ends inwards, as many as the page may hold, and what to say of the choice.

    Args:
        files: pictures of this run.
        drawn: of every case that may be among them its name in files and its own.
        cases: values per case, in the same order.
    """
    ranked = _ranked_by_name(files, drawn)
    note = "" if idist.get_world_size() == 1 else "Only cases of the first process were drawn. "
    if not ranked and cases:
        ranked = _ranked_by_value(files, drawn, cases)
        title, values = next(iter(cases.items()))
        note += f"Ranked among the {len(ranked)} drawn cases of {len(values)}, by {title}. "
    pictures: list[Picture] = []
    room = MAX_PICTURE_BYTES
    for number, (kind, text, file) in enumerate(ranked):
        uri = picture_uri(file)
        room -= len(uri)
        if room < 0:
            note += f"{len(ranked) - number} more are in the folder {file.parent.name}."
            break
        pictures.append(Picture(kind, text, uri))
    return pictures, note.strip() if ranked else ""


def _ranked_by_name(files: Sequence[Path], drawn: Sequence[tuple[str, str]]) -> list[tuple[str, str, Path]]:
    """Kind, text and file of what ``ExtremePictures`` drew, the worst and the best in turn."""
    matches = [(match, file) for file in files if (match := _EXTREME.fullmatch(file.stem))]
    matches.sort(key=lambda pair: (int(pair[0][2]), pair[0][1] == "best"))
    counts = Counter(picture_name for picture_name, _ in drawn)
    known = {picture_name: name for picture_name, name in drawn if counts[picture_name] == 1}
    return [(m[1], f"{known.get(m[4], m[4])}: mean Dice {m[3]}", file) for m, file in matches]


def _ranked_by_value(
    files: Sequence[Path], drawn: Sequence[tuple[str, str]], cases: Mapping[str, np.ndarray]
) -> list[tuple[str, str, Path]]:
    """Likewise of what ``CasePictures`` drew; cases without a value are left out."""
    title, values = next(iter(cases.items()))
    means = mean_over_cases(values.T)
    # CasePictures draws the first cases; from the second of a name on, the file has the number of the case.
    indices: dict[str, int] = {}
    for index, (picture_name, _) in enumerate(drawn):
        indices[f"{picture_name}_{index + 1}" if picture_name in indices else picture_name] = index
    found = [(indices[file.stem], file) for file in files if file.stem in indices]
    found = sorted((pair for pair in found if np.isfinite(means[pair[0]])), key=lambda pair: means[pair[0]])
    half = (len(found) + 1) // 2
    ranked = [(rank, "worst", *pair) for rank, pair in enumerate(found[:half])]
    ranked += [(rank, "best", *pair) for rank, pair in enumerate(found[half:][::-1])]
    ranked.sort(key=lambda entry: (entry[0], entry[1] == "best"))
    return [(kind, f"{drawn[index][1]}: {title} {means[index]:.3f}", file) for _, kind, index, file in ranked]
