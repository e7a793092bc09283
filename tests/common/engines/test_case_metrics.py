"""Groups of cases: means that weigh clips alike, what a case must name, the order over two processes."""

import json

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from ignite.engine import Engine

from common.engines.case_metrics import CaseGroups
from common.engines.report import EvaluationReport
from common.engines.saliency_metrics import SaliencyMetrics
from common.errors import InputError
from tests.helpers.parallel_training import join


def run(handlers, cases):
    """Engine state after an epoch over ready outputs, two cases per iteration."""
    engine = Engine(lambda engine, batch: batch)
    engine.state.metric_details = {}
    for handler in handlers:
        handler.attach(engine)
    return engine.run([cases[index : index + 2] for index in range(0, len(cases), 2)])


def frame(clip, *values):
    """One row of pixels, of which the first is object."""
    label = torch.zeros(1, 1, len(values))
    label[..., 0] = 1
    return {"pred": torch.tensor([[values]]), "label": label, "clip": clip}


def random_frame(seed, clip):
    return frame(clip, *np.random.default_rng(seed).random(6, dtype=np.float32).tolist())


def test_curves_are_averaged_in_clips_before_their_maximum_is_taken():
    # Dice over thresholds, clip a, twice: 2/5 at 0, 1 up to 0.4, then 0.
    # Clip b, once: 2/5 at 0, 2/3 up to 0.5 (a wrong pixel is marked, too), 1 up to 0.9, then 0.
    # Frames: (1 + 1 + 2/3) / 3 up to 0.4 is the highest; clips: (1 + 2/3) / 2; single maxima would give 1.
    faint, sharp = frame("a", 0.4, 0.0, 0.0, 0.0), frame("b", 0.9, 0.5, 0.0, 0.0)
    measures = ["dice_at_half", "pranet_max_dice", "pranet_max_iou"]
    frames, clips = (
        run([SaliencyMetrics(measures, "", stretch=False, group_key=key)], [faint, sharp, faint])
        for key in (None, "clip")
    )
    assert frames.metrics["pranet_max_dice"] == pytest.approx(8 / 9)
    assert clips.metrics["pranet_max_dice"] == pytest.approx(5 / 6)
    assert clips.metrics["pranet_max_iou"] == pytest.approx((1 + 1 / 2) / 2)
    assert frames.metrics["dice_at_half"] == pytest.approx(1 / 3)
    assert clips.metrics["dice_at_half"] == pytest.approx(1 / 2)
    assert clips.metric_details["dice_at_half"].tolist() == [[0], [1], [0]]


def test_frames_of_clips_of_equal_length_have_the_mean_of_all():
    cases = [random_frame(seed, "ab"[seed % 2]) for seed in range(6)]
    frames, clips = (run([SaliencyMetrics(group_key=key)], cases).metrics for key in (None, "clip"))
    assert clips == pytest.approx(frames, abs=1e-12)


def test_report_and_metric_agree(tmp_path):
    cases = [random_frame(seed, clip) for seed, clip in enumerate("abaaa")]
    report = EvaluationReport(tmp_path, ["polyp"], {"MAE": "val_mae"}, "native", group_key="clip")
    state = run([SaliencyMetrics(["mae"], group_key="clip"), report], cases)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["columns"]["MAE"]["mean"] == state.metrics["val_mae"]
    assert state.metrics["val_mae"] != pytest.approx(float(state.metric_details["val_mae"].mean()), abs=1e-3)


def test_every_case_must_name_its_group():
    case = frame("a", 0.5, 0.1)
    with pytest.raises(
        InputError, match="group_key: expected an entry of every case, found no 'video' among"
    ):
        run([SaliencyMetrics(["mae"], group_key="video")], [case])


def test_values_that_are_not_one_per_case_are_refused():
    groups = CaseGroups("clip")
    run([groups], [frame("a", 0.5), frame("b", 0.5)])
    with pytest.raises(InputError, match="group_key: expected one value for each of 2 cases, found 3"):
        groups.mean(np.zeros((3, 1)))


def test_a_second_run_starts_afresh_and_numbers_are_names():
    groups = CaseGroups("clip")
    run([groups], [frame("a", 0.5)])
    run([groups], [frame(clip, 0.5) for clip in (10, 9, 10)])
    assert groups.names == ["10", "9", "10"]
    assert groups.mean(np.array([1.0, 0.0, 2.0])) == pytest.approx(0.75)


CLIPS = ["tab\tin name", "b", "b", "Größe", "b", "tab\tin name", "c"]


def judge_share(rank, folder):
    """Worker: seven cases over two processes, 1 and 6; each writes what it ends with."""
    join(rank, folder / "rendezvous")
    share = list(enumerate(CLIPS))[[slice(0, 1), slice(1, None)][rank]]
    groups = CaseGroups("clip")
    report = EvaluationReport(folder, ["polyp"], {"MAE": "val_mae"}, "native", group_key="clip")
    state = run([groups, SaliencyMetrics(group_key="clip"), report], [random_frame(*case) for case in share])
    torch.save([groups.names, state.metric_details["val_mae"], dict(state.metrics)], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_names_and_values_have_one_order_over_processes_with_uneven_shares(tmp_path):
    torch.multiprocessing.spawn(judge_share, (tmp_path,), nprocs=2)
    expected = run([SaliencyMetrics(group_key="clip")], [random_frame(*case) for case in enumerate(CLIPS)])
    for rank in range(2):
        names, details, metrics = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert names == CLIPS
        torch.testing.assert_close(details, expected.metric_details["val_mae"])
        assert metrics == pytest.approx(expected.metrics, abs=1e-6)
    content = json.loads((tmp_path / "report.json").read_text())
    assert (content["cases"], content["groups"]) == (7, 4)
    assert content["columns"]["MAE"]["mean"] == pytest.approx(expected.metrics["val_mae"], abs=1e-6)
