"""Patients by role, and the ones whose labels are used."""

import json
import logging
import random

import pytest

from common.data.semi_supervised import label_budget, patient_split
from common.errors import InputError


def make_cases(count, start=0, **more):
    names = [f"c{number:03d}" for number in range(start, start + count)]
    return [{"id": name, "image": f"/i/{name}", "label": f"/l/{name}", **more} for name in names]


def bare_cases(count, **more):
    return [{"id": f"u{number}", "image": f"/i/u{number}", **more} for number in range(count)]


def ids(cases):
    return [case["id"] for case in cases]


def sizes(split):
    return [len(split[role]) for role in ("training", "validation", "test")]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(210, [147, 21, 42]), (285, [200, 28, 57]), (10, [7, 1, 2]), (6, [4, 1, 1]), (3, [1, 1, 1])],
)
def test_split_sizes_of_the_paper_and_of_few_patients(tmp_path, count, expected):
    split = patient_split(make_cases(count), tmp_path / "split.json")
    assert sizes(split) == expected
    assert sorted(ids(split["training"] + split["validation"] + split["test"])) == ids(make_cases(count))


def test_roles_are_taken_from_the_end_of_the_shuffled_patients(tmp_path):
    names = ids(make_cases(20))
    random.Random(3).shuffle(names)
    split = patient_split(make_cases(20)[::-1], tmp_path / "split.json", seed=3)
    assert ids(split["test"]) == sorted(names[16:])
    assert ids(split["validation"]) == sorted(names[14:16])
    assert ids(split["training"]) == sorted(names[:14])
    assert split["unlabeled"] == []
    content = json.loads((tmp_path / "split.json").read_text())
    assert content == {"seed": 3, "parts": "7:1:2"} | {role: ids(split[role]) for role in list(split)[:3]}


def test_the_file_decides_and_is_refused_for_other_cases_or_settings(tmp_path):
    file = tmp_path / "split.json"
    first = patient_split(make_cases(20), file)
    content = json.loads(file.read_text())
    content["training"], content["test"] = content["training"][4:] + content["test"], content["training"][:4]
    file.write_text(json.dumps(content))
    moved = patient_split(make_cases(20), file)
    assert ids(moved["test"]) == ids(first["training"])[:4]
    file.write_text(
        json.dumps(content | {"training": content["training"] + content["validation"], "validation": []})
    )
    with pytest.raises(InputError, match="expected cases with role validation, found only training, test"):
        patient_split(make_cases(20), file)
    for cases, options in (
        (make_cases(21), {}),
        (make_cases(20), {"seed": 1}),
        (make_cases(20), {"parts": (3, 1, 1)}),
    ):
        with pytest.raises(InputError, match="was written for other cases or settings"):
            patient_split(cases, file, **options)


def test_patients_with_several_scans_stay_together(tmp_path):
    cases = [case | {"group": case["id"][:3]} for case in make_cases(100)]  # 10 patients of 10 scans
    split = patient_split(cases, tmp_path / "split.json")
    assert sizes(split) == [70, 10, 20]
    groups = [{case["group"] for case in split[role]} for role in ("training", "validation", "test")]
    assert [len(found) for found in groups] == [7, 1, 2]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]


def test_a_patient_in_two_roles_is_refused_by_name(tmp_path):
    file = tmp_path / "split.json"
    cases = [case | {"group": f"p{int(case['id'][1:]) // 2}"} for case in make_cases(20)]
    split = patient_split(cases, file)
    content = json.loads(file.read_text())
    content["training"].remove(moved := ids(split["training"])[0])
    content["test"].append(moved)
    file.write_text(json.dumps(content))
    patient = split["training"][0]["group"]
    with pytest.raises(InputError, match=f"every patient in one role.*\n.*{patient}: training, test"):
        patient_split(cases, file)


def test_strata_are_divided_each_for_itself(tmp_path):
    cases = make_cases(20, stratum="a") + make_cases(10, 20, stratum="b")
    split = patient_split(cases, tmp_path / "split.json")
    assert sizes(split) == [21, 3, 6]
    assert [case["stratum"] for case in split["test"]] == ["a"] * 4 + ["b"] * 2
    with pytest.raises(InputError, match="at least 3 labeled patients in stratum 'b', found 2"):
        patient_split(cases[:22], tmp_path / "other.json")


def test_official_roles_take_the_place_of_the_seed(tmp_path):
    cases = [
        *make_cases(3, split="training"),
        *make_cases(1, 3, split="validation"),
        *make_cases(2, 4, split="test"),
    ]
    split = patient_split(cases, tmp_path / "split.json")
    assert sizes(split) == [3, 1, 2]
    with pytest.raises(InputError, match="expected cases with role validation, found only training, test"):
        patient_split(cases[:3] + cases[4:], tmp_path / "other.json")


def test_a_share_of_zero_leaves_a_role_out(tmp_path):
    assert sizes(patient_split(make_cases(10), tmp_path / "split.json", parts=(4, 1, 0))) == [8, 2, 0]
    for parts in ((7, 3), (0, 1, 1), (7, -1, 2)):
        with pytest.raises(InputError, match="parts: expected three shares"):
            patient_split(make_cases(10), tmp_path / "other.json", parts=parts)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_patients(tmp_path, count):
    with pytest.raises(InputError, match=f"expected at least 3 labeled patients, found {count}"):
        patient_split(make_cases(count) + bare_cases(5), tmp_path / "split.json")
    assert not (tmp_path / "split.json").exists()


def test_unlabeled_cases_are_for_training_and_never_of_held_out_patients(tmp_path, caplog):
    cases = make_cases(10)
    split = patient_split(cases, tmp_path / "a.json")
    held_out, trained = split["test"][0]["id"], split["training"][0]["id"]
    extra = bare_cases(3)
    extra[0]["group"], extra[1]["group"] = held_out, trained
    with caplog.at_level(logging.WARNING):
        split = patient_split(cases + extra, tmp_path / "a.json")
    assert ids(split["unlabeled"]) == ["u1", "u2"]
    assert "unlabeled cases of validation and test patients are left out: u0" in caplog.text


def test_budgets_of_the_paper_are_nested():
    patients = [f"p{number}" for number in range(147)]
    drawn = [label_budget(patients, budget) for budget in (0.1, 0.3, 0.5, 1.0)]
    assert [len(part) for part in drawn] == [15, 44, 74, 147]
    assert all(set(small) < set(large) for small, large in zip(drawn, drawn[1:]))
    assert label_budget(patients[::-1], 0.3) == drawn[1]
    assert label_budget(patients, 0.3, seed=1) != drawn[1]
    assert [len(label_budget(patients * 2, 1)), len(label_budget(range(200), 0.1))] == [147, 20]


def test_budgets_round_as_written():
    # 0.7 * 45 is 31.499999999999996 in binary and 31.5 as it is written.
    assert len(label_budget(range(45), 0.7)) == 32


@pytest.mark.parametrize("budget", [0, -0.1, 1.01, float("nan"), "0.5", True, None])
def test_budgets_that_are_none(budget):
    with pytest.raises(InputError, match="label_budget: expected above 0 and at most 1"):
        label_budget(["a"], budget)
