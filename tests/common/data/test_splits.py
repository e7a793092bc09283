import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.data.splits import of_datasets, seeded_split
from common.errors import InputError


def make_cases(count, **more):
    return [{"id": f"c{i:02d}", "image": f"/i/{i}", "label": f"/l/{i}", **more} for i in range(count)]


def ids(cases):
    return [case["id"] for case in cases]


def test_fold_zero_is_the_last_fifth_of_the_shuffled_ids(tmp_path):
    names = [f"c{i:02d}" for i in range(20)]
    random.Random(3).shuffle(names)
    split = seeded_split(make_cases(20)[::-1], tmp_path / "split.json", seed=3)
    assert sorted(names[-4:]) == ids(split["validation"])
    assert sorted(names[:16]) == ids(split["training"])
    assert split["training"][0]["image"].startswith("/i/")


@pytest.mark.parametrize(("count", "num_folds"), [(20, 5), (7, 3), (5, 5)])
def test_folds_cover_every_case_once(tmp_path, count, num_folds):
    cases = make_cases(count)
    held_out = []
    for fold in range(num_folds):
        split = seeded_split(cases, tmp_path / f"{fold}.json", num_folds=num_folds, fold=fold)
        assert not set(ids(split["training"])) & set(ids(split["validation"]))
        held_out += ids(split["validation"])
    assert sorted(held_out) == ids(cases)


def test_groups_stay_together(tmp_path):
    cases = [case | {"group": case["id"][-1]} for case in make_cases(40)]
    for fold in range(5):
        split = seeded_split(cases, tmp_path / f"{fold}.json", fold=fold)
        groups = [{case["group"] for case in split[name]} for name in ("training", "validation")]
        assert not groups[0] & groups[1]
        assert len(groups[1]) == 2


def test_each_stratum_is_drawn_by_itself(tmp_path):
    sources = {"a": make_cases(40)[:30], "b": make_cases(40)[30:]}
    cases = [case | {"stratum": name} for name, part in sources.items() for case in part]
    for fold in range(5):
        options = {"seed": 3, "num_folds": 5, "fold": fold}
        whole = seeded_split(cases, tmp_path / f"{fold}.json", **options)
        alone = [seeded_split(sources[n], tmp_path / f"{n}{fold}.json", **options) for n in "ab"]
        assert [len(split["validation"]) for split in alone] == [6, 2]
        for role in ("training", "validation"):
            assert ids(whole[role]) == sorted(ids(alone[0][role]) + ids(alone[1][role]))


def test_one_stratum_is_as_none_and_cases_without_are_one(tmp_path):
    plain = seeded_split(make_cases(10), tmp_path / "plain.json")
    one = seeded_split(make_cases(10, stratum="a"), tmp_path / "one.json")
    assert ids(one["validation"]) == ids(plain["validation"])
    mixed = [*make_cases(20)[:10], *make_cases(20, stratum="a")[10:]]
    validation = ids(seeded_split(mixed, tmp_path / "mixed.json")["validation"])
    assert validation[:2] == ids(plain["validation"])
    assert len(validation) == 4


def test_groups_of_a_stratum_stay_together(tmp_path):
    cases = [c | {"group": c["id"][:2], "stratum": "frames"} for c in make_cases(40)]
    cases += [{"id": f"x{i}", "stratum": "stills"} for i in range(8)]
    validation = ids(seeded_split(cases, tmp_path / "split.json", num_folds=4)["validation"])
    # One of the four groups of ten frames, two of the eight stills.
    assert len({name[:2] for name in validation[:10]}) == 1
    assert [name[0] for name in validation[10:]] == ["x", "x"]


def test_group_in_two_strata_is_refused(tmp_path):
    cases = [case | {"group": "p", "stratum": case["id"][-1]} for case in make_cases(2)]
    with pytest.raises(InputError, match=r"stratum: expected every group in one(.|\n)*group p: 0, 1"):
        seeded_split([*cases, *make_cases(9)[2:]], tmp_path / "split.json")


def test_folds_are_checked_in_every_stratum(tmp_path):
    cases = [*make_cases(9, stratum="a")[:6], *make_cases(9, stratum="b")[6:]]
    with pytest.raises(InputError, match=r"num_folds: expected 2 to 3 \(.*in stratum 'b'\), found 5"):
        seeded_split(cases, tmp_path / "split.json")
    with pytest.raises(InputError, match=r"expected 2 to 0 \(the number of cases or patients\), found 5"):
        seeded_split([], tmp_path / "split.json")
    assert not list(tmp_path.iterdir())


def test_cases_can_be_chosen_by_data_set():
    cases = [case | {"dataset": name} for case, name in zip(make_cases(5), ["B", "A", "B", "C", "A"])]
    cases.append({"id": "no data set"})
    assert ids(of_datasets(cases, ["A", "B"])) == ["c00", "c01", "c02", "c04"]
    assert of_datasets(cases, None) == cases


@pytest.mark.parametrize(
    ("cases", "names", "message"),
    [
        (make_cases(2, dataset="B"), ["B", "D"], "expected some of B, found D"),
        (make_cases(2, dataset="B"), [], "expected some of B, found none"),
        (make_cases(2), ["D"], "expected null, as the cases name no data set, found D"),
    ],
)
def test_unknown_data_sets_are_refused(cases, names, message):
    with pytest.raises(InputError, match=f"^datasets: {message}$"):
        of_datasets(cases, names)


def test_file_holds_ids_and_settings_only(tmp_path):
    seeded_split(make_cases(5), tmp_path / "new" / "split.json", seed=1, fold=2)
    content = json.loads((tmp_path / "new" / "split.json").read_text())
    assert {name: content[name] for name in ("seed", "num_folds", "fold")} == {
        "seed": 1,
        "num_folds": 5,
        "fold": 2,
    }
    assert sorted(content["training"] + content["validation"]) == ids(make_cases(5))
    assert "/i/" not in (tmp_path / "new" / "split.json").read_text()


def test_existing_file_decides(tmp_path):
    path = tmp_path / "split.json"
    seeded_split(make_cases(5), path)
    content = json.loads(path.read_text())
    content["training"], content["validation"] = ["c04", "c03", "c02"], ["c00", "c01"]
    path.write_text(json.dumps(content))
    assert ids(seeded_split(make_cases(5), path)["validation"]) == ["c00", "c01"]


def test_file_of_other_cases_or_settings_is_refused_with_the_differences(tmp_path):
    path = tmp_path / "split.json"
    seeded_split(make_cases(5), path)
    with pytest.raises(InputError, match=r"cases only in the data: c05.*") as error:
        seeded_split(make_cases(6)[1:], path, seed=1)
    assert "cases only in the split file: c00" in str(error.value)
    assert "'seed': 1" in str(error.value)
    assert "'seed': 0" in str(error.value)
    assert "delete it" in str(error.value)


def test_case_listed_twice_is_refused(tmp_path):
    path = tmp_path / "split.json"
    seeded_split(make_cases(5), path)
    content = json.loads(path.read_text())
    content["training"].append(content["validation"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="listed twice"):
        seeded_split(make_cases(5), path)


@pytest.mark.parametrize("text", ["{", "[]", '"a"', ""])
def test_malformed_file_is_refused(tmp_path, text):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(InputError, match=r"split\.json"):
        seeded_split(make_cases(5), tmp_path / "split.json")


def test_official_roles_are_obeyed(tmp_path):
    roles = ["training", "training", "validation", "test"]
    cases = [case | {"split": role} for case, role in zip(make_cases(4), roles)]
    split = seeded_split(cases, tmp_path / "split.json", seed=5)
    assert ids(split["training"]) == ["c00", "c01"]
    assert ids(split["validation"]) == ["c02"]
    # the same file serves the evaluation on the test part
    assert ids(seeded_split(cases, tmp_path / "split.json", held_out_role="test")["validation"]) == ["c03"]


def test_absent_or_partial_roles_are_refused(tmp_path):
    cases = [case | {"split": "training"} for case in make_cases(4)]
    with pytest.raises(InputError, match="'test', found only training"):
        seeded_split(cases, tmp_path / "a.json", held_out_role="test")
    with pytest.raises(InputError, match="c09: no role"):
        seeded_split([*cases, make_cases(10)[9]], tmp_path / "b.json")


@pytest.mark.parametrize(
    ("num_folds", "fold", "name"), [(1, 0, "num_folds"), (6, 0, "num_folds"), (5, 5, "fold")]
)
def test_impossible_folds_are_refused(tmp_path, num_folds, fold, name):
    with pytest.raises(InputError, match=f"^{name}: expected"):
        seeded_split(make_cases(5), tmp_path / "split.json", num_folds=num_folds, fold=fold)


def test_several_processes_get_one_split(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: seeded_split(make_cases(20), tmp_path / "split.json"), range(16)))
    assert all(split == found[0] for split in found)
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]


def test_a_number_of_cases_is_held_out_of_each_stratum(tmp_path):
    cases = [{"id": f"{d}{n:02d}", "stratum": d, "domain": d} for d in ("CT", "MR") for n in range(20)]
    parts = seeded_split(cases, tmp_path / "split.json", seed=1, num_held_out=8)
    for domain in ("CT", "MR"):
        assert sum(case["stratum"] == domain for case in parts["validation"]) == 8
        assert sum(case["stratum"] == domain for case in parts["training"]) == 12
    assert seeded_split(cases, tmp_path / "split.json", seed=1, num_held_out=8) == parts
    with pytest.raises(InputError, match="expected .*num_held_out.*: 7"):
        seeded_split(cases, tmp_path / "split.json", seed=1, num_held_out=7)
    uneven = seeded_split(cases, tmp_path / "uneven.json", num_held_out={"CT": 3, "MR": 2})["validation"]
    assert [case["domain"] for case in uneven] == ["CT"] * 3 + ["MR"] * 2
    with pytest.raises(InputError, match="num_held_out: expected 1 to 19 .*'CT'.*found 20"):
        seeded_split(cases, tmp_path / "other.json", num_held_out=20)
