"""Organs of an evaluation: values and scores per case, means per domain, flagged cases, two processes."""

import math

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator

from common.engines.organ_metrics import OrganMetrics, domain_columns
from common.errors import InputError
from common.metrics.scores import paper_reconstruction
from tests.helpers.evaluation import located
from tests.helpers.parallel_training import join


def run(handler, cases, batch_size=1):
    """Engine state after an epoch over ready outputs."""
    engine = Engine(lambda engine, batch: batch)
    engine.state.metric_details = {}
    handler.attach(engine)
    return engine.run([cases[index : index + batch_size] for index in range(0, len(cases), batch_size)])


def strips(*widths):
    """Class map (1, 1, K - 1, 8): class k fills the first voxels of row k - 1."""
    labels = torch.zeros(1, 1, len(widths), 8)
    for row, width in enumerate(widths):
        labels[0, 0, row, :width] = row + 1
    return labels


def case(prediction, reference, domain="CT", edge_mm=0.5):
    pair = (located(strips(*widths), [9.0, 9.0, edge_mm]) for widths in (prediction, reference))
    return dict(zip(("prediction", "reference"), pair)) | {"domain": domain}


def test_values_and_scores_by_hand():
    # 2 against 5 voxels of a row: borders of one voxel each, 3 voxels or 1.5 mm apart.
    state = run(OrganMetrics(), [case([2], [5])])
    expected = {
        "vo": 40.0,
        "dice": 4 / 7,
        "rvd": -60.0,
        "ravd": 60.0,
        "assd_mm": 1.5,
        "rmsd_mm": 1.5,
        "mssd_mm": 1.5,
        "score_chaos2019_dice": 0.0,
        "score_chaos2019_ravd": 0.0,
        "score_chaos2019_assd_mm": 90.0,
        "score_chaos2019_mssd_mm": 97.5,
        "score_chaos2019": (90 + 97.5) / 4,
        "score_paper_reconstruction_vo": 40.0,
        "score_paper_reconstruction_ravd": 0.0,
        "score_paper_reconstruction_assd_mm": 90.0,
        "score_paper_reconstruction_rmsd_mm": 100 - 150 / 27,
        "score_paper_reconstruction_mssd_mm": 97.5,
        "score_paper_reconstruction": (40 + 90 + 100 - 150 / 27 + 97.5) / 5,
    }
    assert {name: details.tolist() for name, details in state.metric_details.items()} == {
        f"val_{name}": [[pytest.approx(value, rel=1e-6)]] for name, value in expected.items()
    }
    for name, value in expected.items():
        assert (
            state.metrics[f"val_{name}"] == state.metrics[f"val_{name}_ct"] == pytest.approx(value, rel=1e-6)
        )
    assert state.metrics["val_flagged_cases"] == 0
    assert len(state.metrics) == 2 * len(expected) + 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_domains_weigh_alike_and_have_means_of_their_own(batch_size):
    # VO: CT 40 and 80, MR 20. Mean of the domains (60 + 20) / 2; of the cases it would be 46.7.
    cases = [case([2], [5]), case([1], [5], "MR"), case([4], [5], "ct")]
    metrics = run(OrganMetrics([]), cases, batch_size).metrics
    assert (metrics["val_vo_ct"], metrics["val_vo_mr"], metrics["val_vo"]) == pytest.approx((60, 20, 40))
    assert (metrics["val_rvd_ct"], metrics["val_rvd_mr"]) == pytest.approx((-40, -80))
    everyone = run(OrganMetrics([], group_key=None), cases, batch_size).metrics
    assert everyone["val_vo"] == pytest.approx(140 / 3)
    assert "val_vo_ct" not in everyone


def test_monais_evaluator_hands_the_domains_on():
    cases = [case([2], [5]), case([1], [5], "MR"), case([4], [5])]
    cases = [{"image": c["prediction"], "label": c["reference"], "domain": c["domain"]} for c in cases]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(cases), batch_size=2),
        network=torch.nn.Identity(),
        val_handlers=[OrganMetrics(["chaos2019"], prediction_key="pred", reference_key="label")],
    )
    evaluator.run()
    metrics = evaluator.state.metrics
    assert (metrics["val_vo_ct"], metrics["val_vo_mr"], metrics["val_vo"]) == pytest.approx((60, 20, 40))
    assert metrics["val_mssd_mm_mr"] == pytest.approx(4 * 0.5)


def test_scores_are_made_per_case():
    # RAVD 20 and 0 %: scores 0 and 100. The mean RAVD of 10 % would score 0 as well.
    metrics = run(OrganMetrics(["chaos2019"]), [case([4], [5]), case([5], [5])]).metrics
    assert metrics["val_score_chaos2019_ravd"] == pytest.approx(50)


def test_several_organs_and_spacings():
    cases = [case([2, 3, 8], [5, 3, 6], edge_mm=edge) for edge in (0.5, 2.0)]
    state = run(OrganMetrics(["sliver07"], num_classes=4), cases)
    # Organs are rows of a plane here, so all their voxels are border.
    assert state.metric_details["val_vo"].tolist() == [pytest.approx([40.0, 100.0, 75.0])] * 2
    mssd_mm = state.metric_details["val_mssd_mm"]
    assert mssd_mm.tolist() == [[1.5, 0.0, 1.0], [6.0, 0.0, 4.0]]
    assert state.metric_details["val_score_sliver07_mssd_mm"][1].tolist() == pytest.approx(
        [100 - 25 * 6 / 19, 100.0, 100 - 25 * 4 / 19]
    )
    assert state.metrics["val_vo_ct"] == pytest.approx(215 / 3)


def test_each_profile_has_its_own_borders():
    # A block of 4 x 4 x 4 has 64 - 8 border voxels. Without the four of one edge it has 52, and two more if
    # neighbors across edges count; these two and the four taken away are 1 mm from the other border.
    reference = torch.zeros(1, 6, 6, 6)
    reference[:, 1:5, 1:5, 1:5] = 1
    prediction = reference.clone()
    prediction[:, 1, 1] = 0
    masks = {"prediction": located(prediction), "reference": located(reference), "domain": "CT"}
    state = run(OrganMetrics(["sliver07", paper_reconstruction(assd_mm=4.0)]), [masks])
    by_faces, by_edges = (
        state.metrics[f"val_score_{name}_assd_mm"] for name in ("paper_reconstruction", "sliver07")
    )
    assert state.metrics["val_assd_mm"] == pytest.approx(4 / (56 + 52))
    assert by_faces == pytest.approx(100 * (1 - 4 / (56 + 52) / 4))
    assert by_edges == pytest.approx(100 * (1 - 6 / (56 + 54) / 4))


def test_empty_masks_are_counted_and_the_infinite_volume_left_out():
    cases = [case([0], [5]), case([2], [0]), case([0], [0]), case([5], [5])]
    state = run(OrganMetrics(["chaos2019"]), cases)
    diagonal_mm = math.sqrt(81 + 81 + 16)
    assert state.metric_details["val_assd_mm"][:, 0].tolist() == pytest.approx(
        [diagonal_mm, diagonal_mm, 0, 0]
    )
    assert state.metric_details["val_rvd"][:, 0].tolist() == [-100.0, math.inf, 0.0, 0.0]
    assert state.metrics["val_rvd"] == pytest.approx(-100 / 3)
    assert state.metric_details["val_score_chaos2019"][:, 0].tolist() == [0.0, 0.0, 100.0, 100.0]
    assert state.metrics["val_flagged_cases"] == 3


def test_a_second_run_starts_afresh():
    handler = OrganMetrics([])
    run(handler, [case([0], [5], "MR")])
    state = run(handler, [case([4], [5])])
    assert state.metric_details["val_vo"].tolist() == [[pytest.approx(80)]]
    assert state.metrics["val_flagged_cases"] == 0
    assert "val_vo_mr" not in state.metrics


def test_unusable_settings_are_refused():
    with pytest.raises(InputError, match="profiles: expected some of chaos2019, .*, found 'chaos'"):
        OrganMetrics(["chaos"])
    with pytest.raises(InputError, match="profiles: expected each name once"):
        OrganMetrics(["paper_reconstruction", paper_reconstruction(ravd=10.0)])
    with pytest.raises(InputError, match="num_classes: expected at least 2"):
        OrganMetrics(num_classes=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": located(strips(5) * 63)}, "reference: expected class indices 0 to 1, found .* to 63"),
        ({"prediction": located(strips(5) * 0.7)}, "prediction: expected class indices 0 to 1"),
        ({"prediction": located(strips(5) * math.nan)}, "prediction: expected class indices 0 to 1"),
        (
            {"prediction": located(strips(5, 0) > 0)},
            r"expected equal shapes, found \(1, 2, 8\) and \(1, 1, 8\)",
        ),
        (
            {"prediction": located(strips(5)[0])},
            r"prediction: expected shape \(1, X, Y, Z\), found \(1, 1, 8\)",
        ),
        ({"reference": strips(5)}, "reference: expected a MetaTensor with an affine"),
        ({"domain": None}, "group_key: expected an entry of every case, found no 'domain'"),
    ],
)
def test_unusable_cases_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        run(OrganMetrics(), [case([2], [5]) | change])


CASES = [([2], "CT"), ([1], "MR"), ([4], "ct"), ([0], "MR"), ([5], "CT")]


def judge_share(rank, folder):
    """Worker: five cases over two processes, 1 and 4; each writes what it ends with."""
    join(rank, folder / "rendezvous")
    share = CASES[[slice(0, 1), slice(1, None)][rank]]
    state = run(OrganMetrics(), [case(width, [5], domain) for width, domain in share])
    torch.save([state.metric_details["val_vo"], dict(state.metrics)], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_all_cases_and_domains(tmp_path):
    torch.multiprocessing.spawn(judge_share, (tmp_path,), nprocs=2)
    expected = run(OrganMetrics(), [case(width, [5], domain) for width, domain in CASES])
    for rank in range(2):
        details, metrics = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(details, expected.metric_details["val_vo"])
        assert metrics == pytest.approx(expected.metrics)
        assert metrics["val_flagged_cases"] == 1


def test_columns_of_the_table_name_metrics_that_exist():
    columns = domain_columns([{"domain": "MR"}, {"domain": "CT"}, {"domain": "MR"}], "chaos2019")
    assert list(columns)[:2] == ["VO [%] CT", "VO [%] MR"]
    assert columns["MSSD [mm] MR"] == "val_mssd_mm_mr"
    assert columns["score CT"] == "val_score_chaos2019_ct"
    assert columns["score"] == "val_score_chaos2019"
    assert len(columns) == 13
    with pytest.raises(InputError, match="expected cases with a domain"):
        domain_columns([{"id": "1"}], "chaos2019")
