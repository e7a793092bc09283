"""Distances of an evaluation: named metrics, units, missing structures, CSV files, two processes."""

import math
import os

import pytest
import torch
import torch.multiprocessing
from ignite.engine import Engine
from monai.handlers import MetricsSaver
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from monai.networks import one_hot

from common.engines.distance_metrics import DistanceMetrics
from common.engines.report import case_meta
from common.errors import InputError
from tests.helpers.evaluation import evaluate, located

# MONAI 1.6.1 passes an argument to itself that it has deprecated.
monai_warns_of_itself = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")


def strips(*widths):
    """Label map (1, K - 1, 8): class k fills the first pixels of row k - 1."""
    labels = torch.zeros(1, len(widths), 8)
    for row, width in enumerate(widths):
        labels[0, row, :width] = row + 1
    return labels


def case(prediction, reference, spacing_mm=None, name="case"):
    return {"image": located(prediction, spacing_mm, name), "label": located(reference, spacing_mm, name)}


def test_every_measure_is_a_metric_of_its_own():
    # Class 1: 2 against 5 pixels of a row. Class 2: equal.
    state = evaluate([case(strips(2, 3), strips(5, 3))], 3, [DistanceMetrics()])
    expected = {
        "hausdorff": 3.0,
        "hausdorff95": 0.2 * 2 + 0.8 * 3,  # 95th percentile of 0 0 1 2 3
        "assd": (1 + 2 + 3) / 7,
        "adb_region": (1 + 2 + 3) / 5 / 2,
    }
    for measure, value in expected.items():
        for unit in ("vox", "mm"):
            name = f"val_{measure}_{unit}"
            torch.testing.assert_close(state.metric_details[name], torch.tensor([[value, 0.0]]))
            assert state.metrics[name] == pytest.approx(value / 2)
    assert state.metrics["val_distances_missing"] == 0
    assert set(state.metrics) - {"val_mean_dice", "val_distances_missing"} == set(state.metric_details) - {
        "val_mean_dice"
    }


def test_millimeters_follow_the_spacing_of_each_case():
    pair = strips(2, 3), strips(5, 3)
    cases = [case(*pair, spacing_mm=[9.0, 0.5]), case(*pair, spacing_mm=[9.0, 2.0])]
    state = evaluate(cases, 3, [DistanceMetrics()])
    assert state.metric_details["val_hausdorff_mm"].tolist() == [[1.5, 0.0], [6.0, 0.0]]
    assert state.metric_details["val_hausdorff_vox"].tolist() == [[3.0, 0.0], [3.0, 0.0]]


@monai_warns_of_itself
def test_volumes_equal_monai():
    masks = torch.randint(0, 3, (2, 2, 1, 6, 7, 8), generator=torch.Generator().manual_seed(0)).float()
    spacing = (0.5, 1.0, 2.5)
    state = evaluate([case(*pair, spacing_mm=spacing) for pair in masks], 3, [DistanceMetrics(["mm"])])
    prediction, reference = one_hot(masks[:, 0], 3), one_hot(masks[:, 1], 3)
    hausdorff = compute_hausdorff_distance(prediction, reference, spacing=spacing)
    assd = compute_average_surface_distance(prediction, reference, symmetric=True, spacing=spacing)
    torch.testing.assert_close(state.metric_details["val_hausdorff_mm"], hausdorff)
    torch.testing.assert_close(state.metric_details["val_assd_mm"], assd)
    assert "val_assd_vox" not in state.metrics


def test_missing_structures_are_counted_and_left_out_of_the_mean():
    # Class 1: distances 3 and inf (missed). Class 2: nan (absent from both) and 1.
    cases = [case(strips(2, 0), strips(5, 0)), case(strips(0, 3), strips(5, 4))]
    state = evaluate(cases, 3, [DistanceMetrics()])
    details = state.metric_details["val_hausdorff_vox"]
    torch.testing.assert_close(details, torch.tensor([[3.0, math.nan], [math.inf, 1.0]]), equal_nan=True)
    assert state.metrics["val_hausdorff_vox"] == pytest.approx((3 + 1) / 2)
    assert state.metrics["val_distances_missing"] == 2


def test_metrics_saver_writes_cases_by_name(tmp_path):
    cases = [case(strips(2, 3), strips(5, 3), name="a"), case(strips(4, 3), strips(5, 1), name="b")]
    saver = MetricsSaver(
        str(tmp_path), metric_details="*", batch_transform=case_meta, summary_ops=["mean", "notnans"]
    )
    evaluate(cases, 3, [DistanceMetrics(), saver], batch_size=2)
    assert (tmp_path / "val_hausdorff_vox_raw.csv").read_text().splitlines() == [
        "filename,class0,class1,mean",
        "/data/a.nii.gz,3.0,0.0,1.5",
        "/data/b.nii.gz,1.0,2.0,1.5",
    ]
    assert "class0,2.0000,2.0000" in (tmp_path / "val_hausdorff_vox_summary.csv").read_text()
    assert "val_hausdorff_mm,1.5" in (tmp_path / "metrics.csv").read_text()


def test_a_second_run_starts_afresh():
    handler = DistanceMetrics()
    cases = [case(strips(2, 3), strips(5, 3))]
    evaluate(cases, 3, [handler])
    assert evaluate(cases, 3, [handler]).metric_details["val_assd_vox"].shape == (1, 2)


def test_unusable_settings_and_labels_are_refused():
    with pytest.raises(InputError, match=r"units: expected some of vox, mm, found \['cm'\]"):
        DistanceMetrics(["cm"])
    onehot = one_hot(strips(1, 1), 3, dim=0)
    engine = Engine(lambda engine, batch: [{"pred": onehot, "label": onehot}])
    DistanceMetrics().attach(engine)
    with pytest.raises(InputError, match="expected a MetaTensor"):
        engine.run([0])


def evaluate_share(rank, folder):
    """Worker: three cases over two processes; each writes what it ends with."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29631")
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    widths = [[2, 4], [3]][rank]
    state = evaluate([case(strips(width, 3), strips(5, 3)) for width in widths], 3, [DistanceMetrics()])
    torch.save(
        (state.metric_details["val_hausdorff_vox"], state.metrics["val_hausdorff_vox"]), folder / f"{rank}.pt"
    )
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_all_cases(tmp_path):
    torch.multiprocessing.spawn(evaluate_share, (tmp_path,), nprocs=2)
    for rank in range(2):
        details, mean = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert details.tolist() == [[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]
        assert mean == pytest.approx(1.0)
