"""Pictures of the worst and best cases: which cases, which names, what is kept in memory, old pictures."""

import re

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.metrics import compute_dice
from monai.networks import one_hot

from common.engines import extremes
from common.engines.extremes import ExtremePictures, mean_dice
from common.errors import InputError
from tests.helpers.evaluation import evaluate, located


def row_case(name, num_right):
    """A row of 12 pixels, 5 of them object: Dice is 2 k / (k + 5) for k of them predicted."""
    pixels = torch.arange(12)[None, None]
    return {
        "image": located((pixels < num_right).float(), name=name),
        "label": located((pixels < 5).float(), name=name),
    }


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def run(handler, cases):
    """Run over ready outputs, two per iteration, of which ``image`` is the predicted label map."""
    engine = Engine(lambda engine, batch: [{"pred": case["image"], **case} for case in batch])
    handler.attach(engine)
    engine.run([cases[index : index + 2] for index in range(0, len(cases), 2)])


@pytest.fixture
def saved(monkeypatch):
    """Names of the pictures, which are not drawn."""
    found = []
    monkeypatch.setattr(extremes, "save_picture", lambda rows, names, path: found.append(path.name))
    return found


def test_worst_and_best_cases_of_an_evaluation_are_drawn(tmp_path):
    # Dice 2k / (k + 5): 0.889, 0.333, 1, 0.571, 0.75
    cases = [row_case(name, k) for name, k in {"a": 4, "b": 1, "c": 5, "d.x": 2, "e": 3}.items()]
    evaluate(cases, 2, [ExtremePictures(tmp_path, 3, class_names=["polyp"])], batch_size=2)
    assert names(tmp_path) == [
        "best_1_dice_1.000_c.png",
        "worst_1_dice_0.333_b.png",
        "worst_2_dice_0.571_d.x.png",
    ]


@pytest.mark.parametrize(
    ("max_cases", "num_cases", "worst", "best"), [(8, 3, 2, 1), (8, 8, 4, 4), (2, 1, 1, 0), (1, 4, 1, 0)]
)
def test_a_case_is_drawn_once_however_few_there_are(tmp_path, saved, max_cases, num_cases, worst, best):
    run(ExtremePictures(tmp_path, max_cases), [row_case(f"c{i}", i % 5) for i in range(num_cases)])
    assert [name.split("_")[0] for name in saved] == ["worst"] * worst + ["best"] * best
    assert len({name.split("_")[-1] for name in saved}) == worst + best


@pytest.mark.parametrize("max_cases", [1, 2, 3, 6, 7])
def test_ranking_equals_sorting_all_cases(tmp_path, saved, max_cases):
    generator = np.random.default_rng(max_cases)
    hits = generator.integers(0, 6, 30)
    run(ExtremePictures(tmp_path, max_cases), [row_case(f"c{i}", k) for i, k in enumerate(hits)])
    ranked = sorted(2 * k / (k + 5) for k in hits)
    num_worst = (max_cases + 1) // 2
    expected = ranked[:num_worst] + ranked[::-1][: max_cases - num_worst]
    found = [re.fullmatch(r"(?:worst|best)_\d_dice_(.{5})_c(\d+)\.png", name).groups() for name in saved]
    assert [dice for dice, _ in found] == [f"{dice:.3f}" for dice in expected]
    assert [dice for dice, _ in found] == [f"{2 * hits[int(i)] / (hits[int(i)] + 5):.3f}" for _, i in found]


@pytest.mark.parametrize("hits", [[3] * 9, [1, 1, 5, 5, 3, 3, 1, 5]])
def test_cases_that_drop_out_at_once_are_not_cut_into_slices(tmp_path, saved, monkeypatch, hits):
    cut, mask_views = [], extremes.mask_views
    monkeypatch.setattr(extremes, "mask_views", lambda *masks: cut.append(1) or mask_views(*masks))
    run(ExtremePictures(tmp_path, 4), [row_case(f"c{i}", k) for i, k in enumerate(hits)])
    assert len(cut) == 4


def test_only_small_copies_of_the_kept_cases_stay_in_memory(tmp_path, saved):
    handler, shapes = ExtremePictures(tmp_path, 2), []
    volume = torch.zeros(1, 8, 6, 4)
    volume[:, 2:5, 2:4, 1:3] = 1
    cases = [{"image": located(volume * (i % 3 > 0)), "label": located(volume)} for i in range(7)]
    engine = Engine(lambda engine, case: [{"pred": case["image"], **case}])
    handler.attach(engine)

    @engine.on(Events.ITERATION_COMPLETED)
    def look():
        arrays = [
            a for kept in handler._kept for view in kept.views for a in (view.image, *view.masks.values())
        ]
        assert all(array.dtype == np.uint8 and array.base is None for array in arrays)
        shapes.append(len(arrays))

    engine.run(cases)
    assert shapes == [9, *[18] * 6]  # three slices, each with image, reference and prediction
    assert not handler._kept


def test_views_are_those_of_the_case_pictures(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        extremes, "save_picture", lambda rows, names, path: drawn.update({path.name: (rows, names)})
    )
    image = torch.rand(3, 6, 5)
    prediction, reference = torch.randint(0, 3, (2, 1, 6, 5))
    case = {"image": image, "binary": one_hot(prediction, 3, dim=0), "truth": reference}
    handler = ExtremePictures(tmp_path, 2, ["a", "b"], prediction_key="binary", reference_key="truth")
    run(handler, [case])
    dice = mean_dice(prediction.numpy(), reference.numpy())
    ((view,), legend) = drawn[f"worst_1_dice_{dice:.3f}_case_1.png"]
    (expected,) = extremes.mask_views(image, prediction, reference)
    np.testing.assert_allclose(view.image, expected.image, atol=0.5 / 255 + 1e-6)
    assert all(np.array_equal(view.masks[title], expected.masks[title]) for title in expected.masks)
    assert legend == ["a", "b"]


OLD = ["worst_1_dice_0.100_old.png", "best_2_dice_1.000_old.png"]
OTHERS = ["a.png", "best_of_all.png", "worst_1.png", "worst_1_dice_0.100_old.txt"]


def test_earlier_pictures_are_replaced_and_other_files_left(tmp_path):
    for name in [*OLD, *OTHERS]:
        (tmp_path / name).touch()
    run(ExtremePictures(tmp_path, 1), [row_case("new", 1)])
    assert names(tmp_path) == sorted([*OTHERS, "worst_1_dice_0.333_new.png"])


def test_earlier_pictures_stay_if_the_new_ones_cannot_be_written(tmp_path, monkeypatch):
    for name in OLD:
        (tmp_path / name).touch()

    def fail(*_):
        raise InputError("disk full")

    monkeypatch.setattr(extremes, "save_picture", fail)
    with pytest.raises(InputError, match="disk full"):
        run(ExtremePictures(tmp_path), [row_case("new", 1)])
    assert names(tmp_path) == sorted(OLD)


def test_zero_cases_and_other_processes_change_nothing(tmp_path, monkeypatch):
    (tmp_path / OLD[0]).touch()
    run(ExtremePictures(tmp_path, 0), [row_case("a", 1)])
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    run(ExtremePictures(tmp_path), [row_case("a", 1)])
    assert names(tmp_path) == [OLD[0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, r"reference_key: expected an entry of the output \(pred, image\), found 'label'"),
        ({"pred": None}, r"prediction_key: expected an entry of the output \(image, label\), found 'pred'"),
        ({"pred": torch.zeros(1, 1, 4)}, r"pred and label: .* found \(1, 4\) and \(1, 12\)"),
        ({"label": torch.full((1, 1, 12), 0.5)}, "label: expected class indices or a one-hot mask"),
    ],
)
def test_outputs_that_cannot_be_ranked_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run(ExtremePictures(tmp_path), [row_case("a", 1) | changes])


def test_negative_number_of_cases_is_refused(tmp_path):
    with pytest.raises(InputError, match="max_cases: expected at least 0, found -1"):
        ExtremePictures(tmp_path, -1)


def test_mean_dice_by_hand():
    # Class 1: 2 * 1 / (2 + 1); class 2: 2 * 1 / (1 + 2); class 3 is predicted only: 0.
    prediction = np.array([1, 1, 2, 0, 3], dtype=np.uint8)
    reference = np.array([1, 0, 2, 2, 0], dtype=np.uint8)
    assert mean_dice(prediction, reference) == pytest.approx(4 / 9)
    empty = np.zeros(5, dtype=np.uint8)
    assert mean_dice(empty, empty) == 1
    assert mean_dice(empty, reference) == mean_dice(reference, empty) == 0


def test_mean_dice_equals_monai_over_the_classes_that_occur():
    for seed in range(5):
        masks = np.random.default_rng(seed).integers(0, 2 + seed, (2, 1, 7, 9)).astype(np.uint8)
        onehot = [one_hot(torch.tensor(mask).float(), 8, dim=0)[None] for mask in masks]
        per_class = compute_dice(*onehot, include_background=False, ignore_empty=False)[0]
        occurs = np.union1d(*masks)
        expected = per_class[[int(index) - 1 for index in occurs if index > 0]].mean()
        assert mean_dice(*masks) == pytest.approx(float(expected))
