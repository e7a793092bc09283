"""Overlap of all images of an evaluation: values by hand, key metric, table, two processes."""

import json
import math

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator

from common.engines.confusion_metrics import NAMES, ConfusionMetrics
from common.engines.report import EvaluationReport
from common.errors import InputError
from tests.helpers.parallel_training import join


def run(handler, cases, batch_size=1):
    """Engine state after an epoch over ready outputs."""
    engine = Engine(lambda engine, batch: batch)
    engine.state.metric_details = {}
    handler.attach(engine)
    return engine.run([cases[index : index + batch_size] for index in range(0, len(cases), batch_size)])


def case(predicted, true, size=10):
    """Masks (1, 1, size) whose first pixels are foreground."""
    masks = [torch.zeros(1, 1, size) for _ in range(2)]
    for mask, width in zip(masks, (predicted, true)):
        mask[..., :width] = 1
    return dict(zip(("pred", "label"), masks))


# Foreground 2 of 4 and 6 of 4: together 6 hits, 2 missed and 2 too many; background 6 + 4 hits of 20 pixels.
CASES = [case(2, 4), case(6, 4)]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_numbers_by_hand(batch_size):
    state = run(ConfusionMetrics(2), CASES, batch_size)
    background, foreground = 10 / 14, 6 / 10
    assert state.metrics == {
        "val_miou": pytest.approx((background + foreground) / 2),
        "val_mdice": pytest.approx((20 / 24 + 12 / 16) / 2),
        "val_foreground_iou": pytest.approx(foreground),
        "val_foreground_dice": pytest.approx(12 / 16),
        # 2 / 4 and 4 / 6 of the foreground, 6 / 8 and 4 / 6 of the background.
        "val_image_miou": pytest.approx(((1 / 2 + 2 / 3) / 2 + (3 / 4 + 2 / 3) / 2) / 2),
    }
    assert set(state.metrics) == {f"val_{name}" for name in NAMES}
    assert state.metric_details["val_miou"].tolist() == [pytest.approx([background, foreground])]
    assert state.metric_details["val_mdice"].tolist() == [pytest.approx([20 / 24, 12 / 16])]
    assert state.metric_details["val_image_miou"].tolist() == [
        pytest.approx([3 / 4, 1 / 2]),
        pytest.approx([2 / 3, 2 / 3]),
    ]


def test_classes_absent_everywhere_are_left_out():
    state = run(ConfusionMetrics(3), [case(0, 0)])
    assert state.metric_details["val_miou"][0].tolist() == pytest.approx([1, math.nan, math.nan], nan_ok=True)
    assert state.metrics["val_miou"] == 1
    assert math.isnan(state.metrics["val_foreground_iou"])


def test_a_second_run_starts_afresh():
    handler = ConfusionMetrics(2)
    run(handler, [case(0, 9)])
    assert run(handler, CASES).metrics["val_foreground_iou"] == pytest.approx(0.6)


def evaluator(key_metric, handlers=(), cases=CASES):
    loader = DataLoader(
        Dataset([{"image": c["pred"], "label": c["label"]} for c in cases]), batch_size=len(cases)
    )
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=torch.nn.Identity(),
        key_val_metric=key_metric,
        val_handlers=handlers,
    )


@pytest.mark.parametrize("name", ["miou", "foreground_dice"])
def test_as_key_metric_it_decides_what_is_best(name):
    engine = evaluator({f"val_{name}": ConfusionMetrics(2)})
    engine.run()
    expected = run(ConfusionMetrics(2), CASES).metrics
    assert engine.state.best_metric == pytest.approx(expected[f"val_{name}"])
    assert engine.state.metrics == pytest.approx(expected)


def test_unknown_key_metric():
    with pytest.raises(InputError, match="expected one of val_miou, .*, found 'val_mean_iou'"):
        evaluator({"val_mean_iou": ConfusionMetrics(2)})


def test_the_table_shows_classes_and_their_mean(tmp_path):
    columns = {"IoU": "val_miou", "per image": "val_image_miou", "foreground": "val_foreground_iou"}
    report = EvaluationReport(tmp_path, ["background", "kidney"], columns, "224 x 224")
    evaluator({"val_miou": ConfusionMetrics(2)}, [report]).run()
    content = json.loads((tmp_path / "report.json").read_text())["columns"]
    assert content["IoU"]["values"] == pytest.approx([10 / 14, 6 / 10])
    assert content["IoU"]["mean"] == pytest.approx((10 / 14 + 6 / 10) / 2)
    assert content["per image"]["values"] == pytest.approx([(3 / 4 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2])
    assert content["foreground"]["values"] == [None, None]
    assert content["foreground"]["mean"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": torch.zeros(1, 1, 9)}, r"pred and label: prediction: expected the shape \(1, 1, 9\)"),
        ({"label": torch.full((1, 1, 10), 255.0)}, "reference: expected class indices 0 to 1"),
        ({"pred": torch.full((1, 1, 10), 0.7)}, "prediction: expected class indices 0 to 1"),
        ({"pred": torch.zeros(2, 1, 10)}, r"pred: expected class indices \(1, spatial...\)"),
        ({"label": torch.zeros(1)}, r"label: expected class indices \(1, spatial...\), found \(1,\)"),
    ],
)
def test_unusable_cases_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        run(ConfusionMetrics(2), [CASES[0] | change])


def test_one_class_is_refused():
    with pytest.raises(InputError, match="num_classes: expected at least 2"):
        ConfusionMetrics(1)


WIDTHS = [(2, 4), (6, 4), (0, 1), (9, 9), (3, 0)]


def judge_share(rank, folder):
    """Worker: five cases over two processes, 1 and 4; each writes what it ends with."""
    join(rank, folder / "rendezvous")
    share = WIDTHS[[slice(0, 1), slice(1, None)][rank]]
    state = run(ConfusionMetrics(2), [case(*widths) for widths in share])
    torch.save([dict(state.metrics), dict(state.metric_details)], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_all_images(tmp_path):
    torch.multiprocessing.spawn(judge_share, (tmp_path,), nprocs=2)
    expected = run(ConfusionMetrics(2), [case(*widths) for widths in WIDTHS])
    for rank in range(2):
        metrics, details = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert metrics == pytest.approx(expected.metrics)
        for name, values in expected.metric_details.items():
            torch.testing.assert_close(details[name], values)
