"""The labeled, unlabeled, validation and test slices of a split."""

import logging

import numpy as np
import pytest

from common.data.semi_supervised import label_budget, slice_streams
from common.data.slice_choice import SliceRule
from common.data.slice_index import VolumeSlices
from common.errors import InputError

BARE = {"id": "u0", "image": "/i/u0"}


def make_cases(count, start=0):
    names = [f"c{number:03d}" for number in range(start, start + count)]
    return [{"id": name, "image": f"/i/{name}", "label": f"/l/{name}"} for name in names]


def ids(cases):
    return [case["id"] for case in cases]


def where(items):
    return {(item["image"], item["slice"]) for item in items}


# Class 1 in slices 1 to 5, most in 3: quarter points 2 and 4. Class 2 is in slice 4 alone.
ORGAN = VolumeSlices(7, np.array([[0, 1, 2, 9, 3, 1, 0], [0, 0, 0, 0, 1, 0, 0]]))
TUMOR = VolumeSlices(3, np.array([[1, 9, 1], [0, 5, 0]]), (4.0,), (2.0,))


@pytest.fixture
def split():
    training = [case | {"group": f"p{n}"} for n, case in enumerate(make_cases(4))]
    return {"training": training, "validation": make_cases(1, 4), "test": make_cases(1, 5), "unlabeled": []}


@pytest.fixture
def index():
    return {f"c{number:03d}": TUMOR if number == 0 else ORGAN for number in range(6)}


def test_items_of_both_streams(split, index):
    streams = slice_streams(split, index)
    assert ids(streams["labeled"]) == ["c000_slice_0001", *(f"c00{n}_slice_0003" for n in (1, 2, 3))]
    labeled = {"image": "/i/c001", "label": "/l/c001", "slice": 3, "group": "p1"}
    assert streams["labeled"][1] == {"id": "c001_slice_0003", **labeled}
    assert streams["labeled"][0]["intensity_mean"] == [4.0]
    assert [(item["image"], item["slice"]) for item in streams["unlabeled"]] == [
        ("/i/c000", 0),
        ("/i/c000", 2),
        *((f"/i/c00{n}", k) for n in (1, 2, 3) for k in (2, 4)),
    ]
    assert set(streams["unlabeled"][-1]) == {"id", "image", "slice"}
    assert not any("label" in item or "group" in item for item in streams["unlabeled"])
    assert streams["unlabeled"][0]["intensity_std"] == [2.0]
    assert [ids(streams[role]) for role in ("validation", "test")] == [
        ["c004_slice_0003"],
        ["c005_slice_0003"],
    ]
    assert streams["test"][0] == {
        "id": "c005_slice_0003",
        "image": "/i/c005",
        "label": "/l/c005",
        "slice": 3,
        "group": "c005",
    }


def test_every_budget_keeps_all_unlabeled_slices(split, index):
    index = index | {"c000": ORGAN}
    one_class = {name: VolumeSlices(7, volume.counts[:1]) for name, volume in index.items()}
    whole, half = (slice_streams(split, one_class, budget) for budget in (1.0, 0.5))
    assert len(half["labeled"]) == 2
    assert half["unlabeled"] == whole["unlabeled"]
    assert {item["group"] for item in half["labeled"]} == set(label_budget(["p0", "p1", "p2", "p3"], 0.5))
    with_unused = slice_streams(split, one_class, 0.5, rule=SliceRule(unused_as_unlabeled=True))
    added = where(with_unused["unlabeled"]) - where(whole["unlabeled"])
    assert added == where(whole["labeled"]) - where(half["labeled"])
    assert len(with_unused["unlabeled"]) == 10
    assert all("label" not in item for item in with_unused["unlabeled"])


def test_pictures_and_images_without_label(split):
    picture = VolumeSlices(1, np.array([[5]]))
    pictures = {f"c{number:03d}": picture for number in range(6)} | {"u0": VolumeSlices(1, None)}
    with pytest.raises(InputError, match="unlabeled: expected slices to train on without label, found none"):
        slice_streams(split, pictures)
    assert slice_streams(split, pictures, with_unlabeled=False)["unlabeled"] == []
    rest = slice_streams(split, pictures, 0.5, rule=SliceRule(unused_as_unlabeled=True))
    assert sorted(ids(rest["labeled"] + rest["unlabeled"])) == ["c000", "c001", "c002", "c003"]
    streams = slice_streams(split | {"unlabeled": [BARE]}, pictures)
    assert streams["unlabeled"] == [{"id": "u0", "image": "/i/u0", "slice": 0}]


def test_patients_without_target_are_left_out(split, index, caplog):
    empty = VolumeSlices(7, np.zeros((2, 7), np.int64))
    with caplog.at_level(logging.WARNING):
        streams = slice_streams(split, index | {"c001": empty})
    assert "training cases without target are left out: c001" in caplog.text
    assert not any(item["image"] == "/i/c001" for item in streams["labeled"] + streams["unlabeled"])
    with pytest.raises(InputError, match="test: expected labels with the target, found none in c005"):
        slice_streams(split, index | {"c005": empty})


def test_labeled_slices_that_cannot_be_trained_on(split, index):
    with pytest.raises(
        InputError, match="labeled: expected at least 2 slices .*, found 1; raise label_budget"
    ):
        slice_streams(split, index, 0.25)
    without = index | {"c000": ORGAN}  # the largest slice of ORGAN does not show class 2
    with pytest.raises(InputError, match="in 4 slices, found none of class 2; raise label_budget"):
        slice_streams(split, without)
    with pytest.raises(InputError, match=r"found none of class 2 \(tumor\)"):
        slice_streams(split, without, class_names=["kidney", "tumor"])
    slice_streams(split, without, rule=SliceRule(labeled="target"))
