"""Soft-map handler: published names, protocols, details, empty masks, files, two processes."""

import math
import os

import numpy as np
import pytest
import torch
import torch.multiprocessing
from ignite.engine import Engine
from monai.handlers import MetricsSaver

from common.engines.report import EvaluationReport, case_meta
from common.engines.saliency_metrics import CURVES, MEASURES, SaliencyMetrics
from common.errors import InputError
from common.metrics.saliency import mae, s_measure, soft_dice, stretched, weighted_f
from tests.helpers import reference_saliency
from tests.helpers.evaluation import located


def run(handlers, cases):
    """Engine state after an epoch over ready outputs, one case per iteration."""
    engine = Engine(lambda engine, batch: batch)
    engine.state.metric_details = {}
    for handler in handlers:
        handler.attach(engine)
    return engine.run([[case] for case in cases])


def soft_case(seed, structures=1, name="case"):
    """A map between 0.1 and 0.7 that follows its mask, with noise."""
    generator = np.random.default_rng(seed)
    label = np.zeros((structures, 14, 12), dtype=np.float32)
    label[:, 2 : 7 + seed, 3:9] = 1
    prediction = 0.1 + 0.3 * label + 0.3 * generator.random(label.shape, dtype=np.float32)
    return {"image": located(label, name=name), "pred": located(prediction), "label": located(label)}


def arrays(case, index=0):
    return stretched(case["pred"][index].numpy()), case["label"][index].numpy() > 0.5


def test_every_measure_is_published_and_finite():
    state = run([SaliencyMetrics()], [soft_case(0), soft_case(1)])
    assert set(state.metrics) == {f"val_{name}" for name in [*MEASURES, *CURVES, "empty_references"]}
    assert set(state.metric_details) == {f"val_{name}" for name in MEASURES}
    assert all(math.isfinite(value) for value in state.metrics.values())
    assert all(details.shape == (2, 1) for details in state.metric_details.values())
    assert state.metrics["val_empty_references"] == 0


def test_values_equal_their_definitions():
    cases = [soft_case(0), soft_case(1)]
    state = run([SaliencyMetrics(prefix="")], cases)
    pairs = [arrays(case) for case in cases]
    functions = {"weighted_f": weighted_f, "s_measure": s_measure, "mae": mae, "authors_dice": soft_dice}
    for name, function in functions.items():
        expected = [[function(*pair)] for pair in pairs]
        np.testing.assert_allclose(state.metric_details[name], expected, atol=1e-6)
        assert state.metrics[name] == pytest.approx(np.mean(expected), abs=1e-6)
    table = np.mean([reference_saliency.threshold_scores(*pair) for pair in pairs], axis=0)
    curves = dict(zip(["dice", "iou", "recall", "specificity", "e"], table))
    assert state.metrics["e_mean"] == pytest.approx(curves["e"].mean(), abs=1e-6)
    assert state.metrics["e_max"] == pytest.approx(curves["e"].max(), abs=1e-6)
    for name in ("dice", "iou", "recall", "specificity"):
        assert state.metrics[f"pranet_{name}"] == pytest.approx(curves[name].mean(), abs=1e-6)
    assert state.metrics["pranet_max_dice"] == pytest.approx(curves["dice"].max(), abs=1e-6)
    assert state.metrics["pranet_max_iou"] == pytest.approx(curves["iou"].max(), abs=1e-6)
    adaptive = [reference_saliency.e_measure(p >= min(2 * p.mean(), 1), r) for p, r in pairs]
    assert state.metrics["e_adaptive"] == pytest.approx(np.mean(adaptive), abs=1e-6)


def test_a_faint_map_by_hand():
    # 4 of 16 pixels at 0.3, 2 of them right, 2 object pixels missed: stretched, they are certain.
    prediction, label = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    prediction[0, 0], label[0, 0, :2], label[0, 1, :2] = 0.3, 1, 1
    case = {"pred": prediction, "label": label}
    metrics = run([SaliencyMetrics(prefix="")], [case]).metrics
    plain = run([SaliencyMetrics(prefix="", stretch=False)], [case]).metrics
    expected = {
        "mae": (4 / 16, (2 * 0.3 + 2 * 0.7 + 2 * 1.0) / 16),
        "authors_dice": (4 / 8, 2 * 0.6 / (1.2 + 4)),
        "authors_iou": (2 / 6, 0),
        "dice_at_half": (0, 0),
        "precision_at_half": (0, 0),
        "recall_at_half": (0, 0),
        "specificity_at_half": (1, 1),
        # At threshold 0 all is marked, Dice 8/20. Above 4/8, for all thresholds or up to 0.3, level 76.
        "pranet_dice": ((0.4 + 255 * 0.5) / 256, (0.4 + 76 * 0.5) / 256),
        "pranet_max_dice": (0.5, 0.5),
        "pranet_precision": ((0.25 + 255 * 0.5) / 256, (0.25 + 76 * 0.5) / 256),
    }
    for name, values in expected.items():
        assert (metrics[name], plain[name]) == pytest.approx(values, abs=1e-5)


def test_binary_scores_are_those_above_a_half():
    prediction = torch.tensor([[[0.5, 0.6, 0.9, 0.0, 0.7, 0.1]]])
    label = torch.tensor([[[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]])
    metrics = run([SaliencyMetrics(prefix="")], [{"pred": prediction, "label": label}]).metrics
    names = ("dice", "jaccard", "precision", "recall", "specificity")
    assert [metrics[f"{name}_at_half"] for name in names] == pytest.approx(
        [4 / 6, 2 / 4, 2 / 3, 2 / 3, 2 / 3]
    )


def test_structures_have_columns_of_their_own():
    case = soft_case(0, structures=2)
    case["pred"][1] = 1 - case["pred"][1]
    state = run([SaliencyMetrics(["mae", "e_max"], "")], [case])
    expected = [mae(*arrays(case, index)) for index in range(2)]
    assert state.metric_details["mae"].tolist() == [pytest.approx(expected, abs=1e-6)]
    assert state.metrics["mae"] == pytest.approx(np.mean(expected), abs=1e-6)
    best = [reference_saliency.threshold_scores(*arrays(case, index))[-1].max() for index in range(2)]
    assert state.metrics["e_max"] == pytest.approx(np.mean(best), abs=1e-6)
    assert set(state.metrics) == {"mae", "e_max", "empty_references"}


def test_masks_without_foreground_are_counted_and_finite():
    empty = {"pred": torch.zeros(1, 6, 6), "label": torch.zeros(1, 6, 6)}
    noisy = {"pred": 0.1 * torch.rand(1, 6, 6), "label": torch.zeros(1, 6, 6)}
    state = run([SaliencyMetrics(prefix="")], [soft_case(0), empty, noisy])
    assert state.metrics["empty_references"] == 2
    assert all(math.isfinite(value) for value in state.metrics.values())
    assert state.metric_details["authors_dice"][1] == 1
    assert state.metric_details["pranet_dice"][1:].tolist() == [[0], [0]]
    assert state.metric_details["weighted_f"][1:].tolist() == [[0], [0]]


def test_only_chosen_measures_are_computed(monkeypatch):
    monkeypatch.setitem(MEASURES, "weighted_f", None)
    state = run([SaliencyMetrics(["dice_at_half"])], [soft_case(0)])
    assert set(state.metrics) == {"val_dice_at_half", "val_empty_references"}
    state = run([SaliencyMetrics(["e_max"])], [soft_case(0)])
    assert set(state.metrics) == {"val_e_max", "val_empty_references"}


def test_other_entries_of_the_output_can_be_judged():
    case = soft_case(0)
    renamed = {"probabilities": case["pred"], "mask": case["label"]}
    handler = SaliencyMetrics(["mae"], prediction_key="probabilities", reference_key="mask")
    assert run([handler], [renamed]).metrics == run([SaliencyMetrics(["mae"])], [case]).metrics


def test_a_second_run_starts_afresh():
    handler = SaliencyMetrics(["mae"])
    run([handler], [soft_case(0)])
    assert run([handler], [soft_case(1)]).metric_details["val_mae"].shape == (1, 1)


def test_report_and_saver_read_the_metrics(tmp_path):
    columns = {"Dice": "val_pranet_dice", "Emax": "val_e_max"}
    cases = [soft_case(0, name="a"), soft_case(1, name="b")]
    saver = MetricsSaver(str(tmp_path), metric_details="*", batch_transform=case_meta)
    state = run([SaliencyMetrics(), EvaluationReport(tmp_path, ["polyp"], columns, "native"), saver], cases)
    polyp, mean = (tmp_path / "report.md").read_text().splitlines()[4:6]
    dice, e_max = (f"{state.metrics[name]:.3f}" for name in columns.values())
    assert polyp.split() == ["|", "polyp", "|", dice, "|", e_max, "|"]
    assert mean.split() == ["|", "mean", "|", dice, "|", e_max, "|"]
    assert "/data/b.nii.gz" in (tmp_path / "val_mae_raw.csv").read_text()
    assert f"val_e_max,{state.metrics['val_e_max']:.3f}" in (tmp_path / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            {"pred": torch.zeros(2, 4, 4), "label": torch.zeros(1, 4, 4)},
            r"pred and label: expected equal shapes",
        ),
        (
            {"pred": torch.full((1, 4, 4), 3.0), "label": torch.zeros(1, 4, 4)},
            r"pred: prediction: expected val",
        ),
    ],
)
def test_outputs_that_are_no_maps_are_refused(case, message):
    with pytest.raises(InputError, match=message):
        run([SaliencyMetrics()], [case])


@pytest.mark.parametrize("measures", [[], ["dice"]])
def test_unknown_measures_are_refused(measures):
    with pytest.raises(InputError, match="measures: expected some of weighted_f"):
        SaliencyMetrics(measures)


def judge_share(rank, folder):
    """Worker: three cases over two processes; each writes what it ends with."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29633")
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    state = run([SaliencyMetrics()], [soft_case(seed) for seed in [[0, 1], [2]][rank]])
    torch.save([state.metric_details["val_mae"], dict(state.metrics)], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_all_cases(tmp_path):
    torch.multiprocessing.spawn(judge_share, (tmp_path,), nprocs=2)
    expected = run([SaliencyMetrics()], [soft_case(seed) for seed in range(3)])
    for rank in range(2):
        details, metrics = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(details, expected.metric_details["val_mae"])
        assert metrics == pytest.approx(expected.metrics, abs=1e-6)
