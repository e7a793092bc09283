"""Scores on a resized grid in an evaluator: golden numbers, tables, key metric, what is refused."""

import json

import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import MetricsSaver

from common.engines.report import EvaluationReport, case_meta
from common.engines.resized_metrics import ResizedGridMetrics, SelectionDice
from common.errors import InputError
from tests.helpers.evaluation import located


def class_map(num_classes, absent=()):
    """Class indices (1, 2, 2, K - 1) with a block of each foreground class except some."""
    row = [0 if k in absent else k for k in range(1, num_classes)]
    return torch.tensor(row, dtype=torch.float32).expand(1, 2, 2, -1).clone()


def run(handler, cases):
    engine = Engine(lambda engine, batch: batch)
    engine.state.metric_details = {}
    handler.attach(engine)
    return engine.run([[case] for case in cases])


def background(reference):
    return {"pred": torch.zeros_like(reference), "label": reference}


@pytest.mark.parametrize(
    ("num_classes", "num_cases", "num_absent", "score"), [(14, 4, 1, 0.0096), (16, 24, 44, 0.0611)]
)
def test_published_scores_of_an_empty_prediction(num_classes, num_cases, num_absent, score):
    """One half for each absent structure: 0.5 / 52 on Synapse, 22 / 360 on AMOS; no other number fits."""
    absent = [num_absent // num_cases + (case < num_absent % num_cases) for case in range(num_cases)]
    cases = [background(class_map(num_classes, range(1, count + 1))) for count in absent]
    state = run(SelectionDice(num_classes), cases)
    assert round(state.metrics["val_selection_dice"], 4) == score
    assert state.metrics["val_selection_dice"] == pytest.approx(
        0.5 * num_absent / num_cases / (num_classes - 1), abs=1e-7
    )


def test_class_that_fails_in_every_case_is_128_of_13_classes():
    """By hand: 128 / 13 = 9.846 and 1200 / 13 = 92.31; the other classes are perfect."""
    reference = class_map(14)
    case = {"pred": class_map(14, absent=[5]), "label": reference}
    state = run(ResizedGridMetrics(14), [case] * 6)
    assert state.metrics == {
        "val_resized_dice": pytest.approx(92.3077, abs=1e-4),
        "val_resized_asd": pytest.approx(9.8462, abs=1e-4),
    }


def test_means_over_cases_and_then_classes_hold_every_value():
    """By hand. Case 1: class 1 right, class 2 missed. Case 2: class 1 absent from both, class 2 right."""
    cases = [
        {"pred": class_map(3, absent=[2]), "label": class_map(3)},
        {"pred": class_map(3, absent=[1]), "label": class_map(3, absent=[1])},
    ]
    state = run(ResizedGridMetrics(3), cases)
    assert state.metric_details["val_resized_dice"].tolist() == [[100, 0], [1, 100]]
    assert state.metric_details["val_resized_asd"].tolist() == [[0, 128], [0, 0]]
    assert state.metrics["val_resized_dice"] == pytest.approx((50.5 + 50) / 2)
    assert state.metrics["val_resized_asd"] == 32
    names = {"prediction_key": "a", "reference_key": "b", "prefix": ""}
    renamed = [{"a": case["pred"], "b": case["label"]} for case in cases]
    assert run(ResizedGridMetrics(3, **names), renamed).metrics["resized_asd"] == 32


def evaluator(key_metric, handlers):
    cases = [
        {"image": located(class_map(3, absent=[2]), name="a"), "label": located(class_map(3), name="a")},
        {"image": located(class_map(3), name="b"), "label": located(class_map(3), name="b")},
    ]
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(cases)),
        network=torch.nn.Identity(),
        key_val_metric=key_metric,
        val_handlers=handlers,
    )


def test_table_and_values_per_case_are_written(tmp_path):
    columns = {"Dice [%]": "val_resized_dice", "ASD [voxel]": "val_resized_asd"}
    handlers = [
        ResizedGridMetrics(3),
        EvaluationReport(tmp_path, ["one", "two"], columns, grid="resized"),
        MetricsSaver(str(tmp_path / "metrics"), metric_details="*", batch_transform=case_meta),
    ]
    engine = evaluator({"val_selection_dice": SelectionDice(3)}, handlers)
    engine.run()
    # Class 2 is missed in one of two cases.
    assert engine.state.best_metric == pytest.approx((1 + 0.5) / 2, abs=1e-6)
    report = json.loads((tmp_path / "report.json").read_text())["columns"]
    assert report["Dice [%]"]["values"] == [100, 50]
    assert report["ASD [voxel]"]["mean"] == 32
    rows = (tmp_path / "metrics" / "val_resized_asd_raw.csv").read_text().splitlines()
    assert [row.split(",")[1:] for row in rows[1:]] == [["0.0000", "128.0000", "64.0000"], ["0.0000"] * 3]


def test_key_metric_of_another_name_is_refused():
    with pytest.raises(InputError, match="expected one of val_selection_dice, found 'val_dice'"):
        evaluator({"val_dice": SelectionDice(3)}, [])


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (torch.zeros(3, 2, 2, 2), r"pred: expected class indices \(1, D, H, W\), found \(3, 2, 2, 2\)"),
        (torch.full((1, 2, 2, 2), 0.5), "pred: expected class indices 0 to 2, found values from 0.5 to 0.5"),
        (torch.full((1, 2, 2, 2), 3), "pred: expected class indices 0 to 2, found values from 3 to 3"),
        (torch.zeros(1, 2, 2, 3), r"expected one grid, found \(2, 2, 3\) and \(2, 2, 2\)"),
    ],
)
def test_maps_that_cannot_be_judged(prediction, message):
    with pytest.raises(InputError, match=message):
        run(ResizedGridMetrics(3), [{"pred": prediction, "label": class_map(3)}])


def test_at_least_one_foreground_class():
    with pytest.raises(InputError, match="num_classes: expected at least 2"):
        ResizedGridMetrics(1)
