"""Streams of whole scans: from published lists of ids, and drawn for own data."""

import json
import logging

import pytest

from common.data.case_streams import labeled_fraction_split, published_split
from common.data.semi_supervised import label_budget
from common.errors import InputError

ROLES = {"labeled": ["c002"], "unlabeled": ["c003", "c000"], "validation": ["c004"], "test": ["c001"]}


def make_cases(count, **more):
    names = [f"c{number:03d}" for number in range(count)]
    return [{"id": name, "image": f"/i/{name}", "label": f"/l/{name}", **more} for name in names]


def ids(streams):
    return {name: [case["id"] for case in cases] for name, cases in streams.items()}


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "published.json"
    path.write_text(json.dumps({"published": "somewhere"} | ROLES))
    return path


def test_published_split_gives_streams_and_is_kept(published, tmp_path):
    cases = make_cases(5, modality="CT")
    split_file = tmp_path / "run" / "split.json"
    for _ in range(2):
        streams = published_split(cases[::-1], published, split_file)
        assert ids(streams) == ROLES | {"unlabeled": ["c000", "c003"], "withheld": []}
        assert streams["labeled"] == [cases[2]]
        assert streams["unlabeled"][0] == {"id": "c000", "image": "/i/c000", "modality": "CT"}
        assert streams["test"] == [cases[1]]
    assert json.loads(split_file.read_text()) == json.loads(published.read_text())
    assert cases == make_cases(5, modality="CT")


@pytest.mark.parametrize(
    ("supervision", "labeled", "withheld"),
    [("labeled", ["c002"], ["c000", "c003"]), ("full", ["c000", "c002", "c003"], [])],
)
def test_supervised_training_has_no_unlabeled_cases(published, tmp_path, supervision, labeled, withheld):
    streams = published_split(make_cases(5), published, tmp_path / "split.json", supervision)
    assert ids(streams) == ROLES | {"labeled": labeled, "unlabeled": [], "withheld": withheld}
    assert all("label" in case for case in streams["labeled"])
    with pytest.raises(InputError, match="supervision: expected one of semi, labeled, full, found 'none'"):
        published_split(make_cases(5), published, tmp_path / "split.json", "none")


def test_published_split_wants_exactly_its_cases(published, tmp_path):
    cases = [*make_cases(4), {"id": "c009", "image": "/i/c009", "label": "/l/c009"}]
    del cases[3]["label"]
    with pytest.raises(
        InputError, match=r"expected exactly the cases of this split: 3 problem\(s\)"
    ) as caught:
        published_split(cases, published, tmp_path / "split.json")
    for line in (
        "c004: listed, but not in the data",
        "c009: in the data, but not listed",
        "c003: expected a label",
    ):
        assert line in str(caught.value)
    assert not (tmp_path / "split.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ROLES | {"test": ["c001", "c002"], "validation": ["c004", "c004"]}, "c002: labeled, test"),
        (ROLES | {"validation": ["c004", "c004"]}, "c004: validation, validation"),
        (
            ROLES | {"test": []},
            "expected a JSON object with the lists of ids labeled, unlabeled, validation, test",
        ),
        ([], "expected a JSON object with the lists of ids"),
        ({name: ROLES[name] for name in ("labeled", "test")}, "expected a JSON object with the lists of ids"),
    ],
)
def test_malformed_published_split(published, tmp_path, content, message):
    published.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        published_split(make_cases(5), published, tmp_path / "split.json")


def test_unreadable_published_split(published, tmp_path):
    published.write_text("{")
    for path in (published, tmp_path / "none.json"):
        with pytest.raises(InputError, match=f"{path.name}: expected a readable JSON file"):
            published_split(make_cases(5), path, tmp_path / "split.json")


def test_results_of_another_split_are_not_mixed(published, tmp_path):
    split_file = tmp_path / "split.json"
    published_split(make_cases(5), published, split_file)
    content = json.loads(published.read_text())
    published.write_text(json.dumps(content | {"labeled": ["c003"], "unlabeled": ["c002", "c000"]}))
    with pytest.raises(InputError, match="split.json was written for another split than .*published.json"):
        published_split(make_cases(5), published, split_file)
    published.write_text(json.dumps(content | {"published": "elsewhere"}))
    with pytest.raises(InputError, match="was written for other cases or settings"):
        published_split(make_cases(5), published, split_file)


def test_own_data_are_divided_by_role_and_then_by_label(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="common.data.case_streams"):
        streams = labeled_fraction_split(make_cases(20), tmp_path / "split.json", seed=3, budget=0.2)
    # 20 cases in 7 : 1 : 2 are 14, 2 and 4; a fifth of 14 is 2.8, rounded to 3.
    assert {name: len(cases) for name, cases in streams.items()} == {
        "labeled": 3,
        "unlabeled": 11,
        "validation": 2,
        "test": 4,
        "withheld": 0,
    }
    listed = [case_id for stream in ids(streams).values() for case_id in stream]
    assert sorted(listed) == [case["id"] for case in make_cases(20)]
    assert not any("label" in case for case in streams["unlabeled"])
    training = json.loads((tmp_path / "split.json").read_text())["training"]
    assert ids(streams)["labeled"] == label_budget(training, 0.2, 3)
    assert "labeled: 3 of 14 training cases: c0" in caplog.text
    more = labeled_fraction_split(make_cases(20), tmp_path / "split.json", seed=3, budget=0.5)
    assert set(ids(streams)["labeled"]) < set(ids(more)["labeled"])
    assert ids(more)["test"] == ids(streams)["test"]


def test_patients_stay_together_and_bare_images_are_unlabeled(tmp_path):
    cases = [case | {"group": case["id"][:3]} for case in make_cases(100)]  # 10 patients of 10 scans
    bare = [{"id": f"u{number}", "image": f"/i/u{number}"} for number in range(3)]
    streams = labeled_fraction_split(cases + bare, tmp_path / "split.json", budget=0.4)
    groups = {name: {case.get("group", "u") for case in stream} for name, stream in streams.items()}
    assert {name: len(found) for name, found in groups.items()} == {
        "labeled": 3,
        "unlabeled": 5,
        "validation": 1,
        "test": 2,
        "withheld": 0,
    }
    assert ids(streams)["unlabeled"][-3:] == ["u0", "u1", "u2"]
    assert not groups["labeled"] & groups["unlabeled"]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0.05, "at least 1 of 7 training patients, such as 0.14, found 0.05"),
        (0.95, "leaves at least 1 of 7 training patients unlabeled, found 0.95"),
        (0, "label_budget: expected above 0 and at most 1, found 0"),
    ],
)
def test_budget_that_leaves_a_stream_empty(tmp_path, budget, message):
    with pytest.raises(InputError, match=message):
        labeled_fraction_split(make_cases(10), tmp_path / "split.json", budget=budget)


def test_supervised_training_may_label_all(tmp_path):
    streams = labeled_fraction_split(make_cases(10), tmp_path / "split.json", budget=1, supervision="labeled")
    assert [len(cases) for cases in streams.values()] == [7, 0, 1, 2, 0]
    full = labeled_fraction_split(make_cases(10), tmp_path / "split.json", supervision="full")
    assert full == streams
