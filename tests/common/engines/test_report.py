"""The table of scores: numbers, missing structures, pooled metrics, files."""

import json
import logging

import pytest
import torch
from ignite.engine import Engine
from monai.handlers import ConfusionMatrix, from_engine

from common.engines.distance_metrics import DistanceMetrics
from common.engines.report import EvaluationReport
from common.errors import InputError
from tests.helpers.evaluation import evaluate, located

NAN, INF = float("nan"), float("inf")


def write_report(folder, details, metrics=None, columns=None, names=("LV", "RV"), clips=None):
    """Report of an engine that has scored two cases, or one per name of ``clips``, which are the groups."""
    details = {name: torch.tensor(values) for name, values in details.items()}
    metrics = dict.fromkeys(details, 0.0) | (metrics or {})
    columns = columns or {name: name for name in metrics}
    report = EvaluationReport(folder, names, columns, grid="native", group_key="clip" if clips else None)
    engine = Engine(lambda engine, batch: batch)
    report.attach(engine)
    engine.state.metrics, engine.state.metric_details = metrics, details
    engine.run([[{"clip": clip}] for clip in clips or ("", "")])
    return json.loads((folder / "report.json").read_text()), (folder / "report.md").read_text()


def test_means_over_cases_then_over_classes(tmp_path):
    # LV: 0.9 and 0.7. RV: 0.5, and one case without a value.
    content, table = write_report(
        tmp_path, {"val_mean_dice": [[0.9, 0.5], [0.7, NAN]]}, columns={"Dice": "val_mean_dice"}
    )
    assert content["columns"]["Dice"] == {
        "metric": "val_mean_dice",
        "values": pytest.approx([0.8, 0.5]),
        "mean": pytest.approx(0.65),
        "missing": [0, 1],
    }
    assert table == (
        "# Evaluation of 2 case(s), grid: native\n"
        "\n"
        "| structure | Dice  |\n"
        "|-----------|-------|\n"
        "| LV        | 0.800 |\n"
        "| RV        | 0.500 |\n"
        "| mean      | 0.650 |\n"
        "| missing   | 1     |\n"
    )


def test_clips_weigh_the_same_whatever_their_number_of_frames(tmp_path):
    # LV: clip a (0.9 + 0.8 + 0.7) / 3, clip b 0.2; frames alone give 0.65. RV: clip b has no value.
    dice = [[0.9, 0.6], [0.2, NAN], [0.8, NAN], [0.7, 0.8]]
    content, table = write_report(tmp_path, {"dice": dice}, clips=["a", "b", "a", "a"])
    assert content["columns"]["dice"]["values"] == pytest.approx([0.5, 0.7])
    assert content["columns"]["dice"]["mean"] == pytest.approx(0.6)
    assert content["columns"]["dice"]["missing"] == [0, 2]
    assert {name: content[name] for name in ("cases", "groups", "group_key")} == {
        "cases": 4,
        "groups": 2,
        "group_key": "clip",
    }
    assert table.startswith("# Evaluation of 4 case(s) in 2 groups of equal weight, grid: native\n")
    plain, _ = write_report(tmp_path, {"dice": dice[:2]})
    assert not {"groups", "group_key"} & set(plain)


def test_evaluator_hands_over_the_clip_of_every_frame(tmp_path):
    # 5 of 8 pixels are lymph node, k of them predicted: Dice 2k / (k + 5) is 4/7, 1, 2/6.
    mask = located((torch.arange(8) < 5).float()[None, None])
    cases = [
        {"image": located((torch.arange(8) < k).float()[None, None]), "label": mask, "clip": clip}
        for k, clip in ((2, "a"), (5, "b"), (1, "a"))
    ]
    report = EvaluationReport(tmp_path, ["node"], {"Dice": "val_mean_dice"}, "native", group_key="clip")
    evaluate(cases, 2, [report], batch_size=2)
    dice = json.loads((tmp_path / "report.json").read_text())["columns"]["Dice"]
    assert dice["mean"] == pytest.approx(((4 / 7 + 2 / 6) / 2 + 1) / 2)


def test_published_mean_follows_from_the_published_structures(tmp_path):
    # Dice of kCBAC-Net with deep supervision, MM-WHS CT: the paper prints the mean 0.919.
    names = ["LV", "RV", "LA", "RA", "Myo", "AO", "PA"]
    published = [[0.951, 0.902, 0.938, 0.911, 0.922, 0.974, 0.837]]
    content, _ = write_report(tmp_path, {"dice": published}, names=names)
    assert round(content["columns"]["dice"]["mean"], 3) == 0.919


def test_structure_without_any_value_is_a_dash_and_null(tmp_path):
    content, table = write_report(tmp_path, {"hd": [[INF, 4.0], [NAN, 2.0]]})
    assert content["columns"]["hd"] == {"metric": "hd", "values": [None, 3.0], "mean": 3.0, "missing": [2, 0]}
    assert "| LV        | -     |" in table


def test_pooled_number_fills_only_the_mean(tmp_path):
    content, _ = write_report(tmp_path, {}, {"f1": 0.75})
    assert content["columns"]["f1"] == {
        "metric": "f1",
        "values": [None, None],
        "mean": 0.75,
        "missing": [0, 0],
    }


def test_counts_per_case_are_not_taken_for_scores(tmp_path):
    # ConfusionMatrix keeps four counts per case and class unless save_details is False.
    content, _ = write_report(tmp_path, {"f1": [[[3.0, 1.0, 4.0, 2.0]] * 2] * 2}, {"f1": 0.75})
    assert content["columns"]["f1"] == {
        "metric": "f1",
        "values": [None, None],
        "mean": 0.75,
        "missing": [0, 0],
    }


def test_pooled_number_of_the_only_class_fills_its_row(tmp_path):
    content, _ = write_report(tmp_path, {}, {"f1": 0.75}, names=["lymph node"])
    assert content["columns"]["f1"]["values"] == [0.75]


def test_pooled_numbers_per_class_fill_their_rows(tmp_path):
    content, _ = write_report(tmp_path, {}, {"f1": torch.tensor([0.5, 0.75])})
    assert content["columns"]["f1"]["values"] == [0.5, 0.75]
    assert content["columns"]["f1"]["mean"] == 0.625


def test_wrong_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="columns: expected names among dice, found 'dise'"):
        write_report(tmp_path, {"dice": [[0.5, 0.5]]}, columns={"Dice": "dise"})
    with pytest.raises(InputError, match="class_names: expected 2 names, as dice has, found 1"):
        write_report(tmp_path, {"dice": [[0.5, 0.5]]}, names=["LV"])
    with pytest.raises(InputError, match="class_names: expected 1 names, as dice has, found 2"):
        write_report(tmp_path, {"dice": [[0.5]]})


def test_evaluator_with_dice_distances_and_pooled_counts(tmp_path, caplog):
    # One row of 8 pixels, 2 predicted inside 5: Dice 4 / 7, precision 1, Hausdorff 3.
    mask = (torch.arange(8) < 5).float()[None, None]
    case = {"image": located((torch.arange(8) < 2).float()[None, None]), "label": located(mask)}
    precision = ConfusionMatrix(
        False,
        "precision",
        reduction="sum",
        save_details=False,
        output_transform=from_engine(["pred", "label"]),
    )
    columns = {"Dice": "val_mean_dice", "HD [voxel]": "val_hausdorff_vox", "Precision": "val_precision"}
    report = EvaluationReport(tmp_path, ["node"], columns, grid="1 mm")
    with caplog.at_level(logging.INFO, "common.engines.report"):
        evaluate(
            [case, case, case], 2, [DistanceMetrics(), report], {"val_precision": precision}, batch_size=2
        )
    assert "Evaluation of 3 case(s), grid: 1 mm" in caplog.text
    assert "| node      | 0.571 | 3.000      | 1.000     |" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]
