"""A repository with one bundle and one table of results, and runs that only pretend to train."""

import json
import re

import torch

from tools import reproduce

COLUMNS = [
    {"name": "Dice", "metric": "val_dice", "evaluation": "test", "structures": ["LV", "mean"]},
    {"name": "IoU", "metric": "val_iou", "evaluation": "test", "unit": "%", "scale": 100, "digits": 1},
    {"name": "cost", "better": "lower"},
]
ROWS = [
    {"id": "full", "name": "Full", "overlays": [], "paper": {"Dice": [0.9, 0.8], "IoU": [70.0]}},
    {"id": "small", "name": "Small | <b>", "overlays": ["ablate_small"], "paper": {"Dice": [0.7, 0.6]}},
    {"id": "other", "name": "Other", "why_not": "another method", "paper": {"cost": [3.0]}},
]
TABLE = {
    "bundle": "toy",
    "table": "1",
    "title": "Hearts",
    "source": "A paper, Table 1",
    "evidence": "as printed",
    "data": "hearts",
    "setting": {"data": "20 scans", "training": "long", "pretraining": "none", "repeats": "one run"},
    "differs": ["The split is ours."],
    "evaluations": {"test": {"overlays": ["evaluate_extra"], "settings": {"sets": ["a"]}, "test_cases": 4}},
    "columns": COLUMNS,
    "rows": ROWS,
}
CONFIGS = {
    "train": {"max_epochs": 9, "pretrained": True, "network_def": {"k": 2}},
    "evaluate": {},
    "evaluate_extra": {},
    "ablate_small": {"network_def::k": 1},
    "preset_tiny": {"max_epochs": 1, "network_def::k": 2},
}


class FakeRuns:
    """Stands in for processes: writes what a training or an evaluation would leave behind."""

    def __init__(self, dice=0.5, cases=4, fails=(), cut_off=(), classes=("LV", "RV")):
        self.dice, self.cases, self.fails, self.cut_off = dice, cases, fails, list(cut_off)
        self.classes = list(classes)
        self.jobs = []

    def __call__(self, job, poll):
        words = dict(word[2:].split("=", 1) for word in job.command if word.startswith("--") and "=" in word)
        kind = job.command[job.command.index("run") + 1]
        row, seed = re.search(r"(\w+)/(seed_\w+)/", words["output_dir"]).groups()
        self.jobs.append((kind, row, seed, words.get("resume"), job.environment.get("CUDA_VISIBLE_DEVICES")))
        poll()
        output = job.log.parent / "training" if kind == "training" else job.log.parent
        output.mkdir(parents=True, exist_ok=True)
        if row in self.fails:
            job.log.write_text("epoch\r 50%|#####     | 1/2\nno image in folder\n")
            return 3
        if kind == "evaluating":
            assert (output / "split.json").is_file()
            self._report(output)
            return 0
        (output / "split.json").write_text("{}")
        is_cut = row in self.cut_off
        write_state(output / "checkpoints" / "state.pt", 4 if is_cut else 9)
        if is_cut:
            self.cut_off.remove(row)
            raise KeyboardInterrupt
        return 0

    def _report(self, folder):
        columns = {
            "Dice": {
                "metric": "val_dice",
                "values": [self.dice, 0.1],
                "mean": self.dice / 2,
                "missing": [0, 0],
            },
            "IoU": {"metric": "val_iou", "values": [None, None], "mean": 0.6, "missing": [0, 0]},
        }
        report = {"grid": "native", "cases": self.cases, "classes": self.classes, "columns": columns}
        (folder / "report.json").write_text(json.dumps(report))


def write_state(file, epochs, of=9):
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"trainer": {"iteration": epochs * 10, "epoch_length": 10, "max_epochs": of}}, file)


class ToyTable:
    """A repository in a folder; call it like the program, with the words after ``--output_dir``."""

    def __init__(self, folder):
        self.bundle, self.data, self.out = folder / "bundles" / "toy", folder / "data", folder / "out"
        self.pages = self.out / "table_1"
        for name in ("configs", "tables"):
            (self.bundle / name).mkdir(parents=True)
        for name, config in CONFIGS.items():
            (self.bundle / "configs" / f"{name}.json").write_text(json.dumps(config))
        (self.bundle / "tables" / "1.json").write_text(json.dumps(TABLE))
        self.data.mkdir()

    def __call__(self, words="", start=None):
        where = ["--bundle_dir", self.bundle, "--table", "1", "--dataset_dir", self.data]
        return reproduce.main([*map(str, [*where, "--output_dir", self.out]), *words.split()], start)


def results(toy):
    return json.loads((toy.pages / "results.json").read_text())


def figures(toy, row):
    return next(item["figures"] for item in results(toy)["rows"] if item["id"] == row)
