"""The page as text: numbers, spread, groups, escaping, nothing from outside, structure."""

import base64
import hashlib
import json
import math
import re
import statistics
from collections import Counter

import numpy as np
import pytest

from common.engines.report_html import SPREAD, Picture, Report, page, spread
from tests.helpers.report_pages import PageReader

NAN, INF = float("nan"), float("inf")
EVIL = "<script>alert('1')</script> & \"$x_1$\""


def column(values, mean=0.5, missing=None):
    return {"metric": "m", "values": values, "mean": mean, "missing": missing or [0] * len(values)}


def make(names=("a", "b"), classes=("LV", "RV"), cases=None, **changes):
    """Report of two cases with the Dice of two structures, unless told otherwise."""
    cases = {"Dice": [[0.9, 0.5], [0.7, NAN]]} if cases is None else cases
    scores = {
        "grid": "native",
        "cases": len(names),
        "classes": list(classes),
        "columns": {title: column([0.25] * len(classes)) for title in cases},
    }
    values = {title: np.array(value, dtype=np.float64) for title, value in cases.items()}
    report = Report("Evaluation", {"date": "today"}, scores, list(names), values)
    for name, value in changes.items():
        setattr(report, name, value)
    return report


def read(report):
    return PageReader(page(report))


def test_scores_are_those_of_the_report_with_all_digits():
    report = make()
    report.scores["columns"] = {"Dice": column([0.1 + 0.2, None], 1 / 3, [0, 1]), "HD": column([None, 2.0])}
    text = page(report)
    assert PageReader(text).tables["Mean of each structure"] == [
        ["structure", "Dice", "HD"],
        ["LV", 0.1 + 0.2, "–"],
        ["RV", "–", 2.0],
        ["mean", 1 / 3, 0.5],
        ["missing", 1.0, 0.0],
    ]
    assert ">0.333</td>" in text


def test_spread_by_hand():
    # 1, 2, 4, 9: mean 4, squares 9 + 4 + 0 + 25 over 3; quartiles at 3/4 of 1..2 and 1/4 of 4..9.
    numbers = dict(zip(SPREAD, spread(np.array([4, NAN, 1, 9, INF, 2.0]))))
    assert numbers == pytest.approx(
        {"values": 4, "missing": 2, "mean": 4, "SD": math.sqrt(38 / 3), "median": 3}
        | {"25 %": 1.75, "75 %": 5.25, "lowest": 1, "highest": 9}
    )


def test_spread_equals_the_standard_library():
    values = np.random.default_rng(0).normal(size=17)
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    expected = [17, 0, statistics.fmean(values), statistics.stdev(values), median, lower, upper]
    assert spread(values) == pytest.approx([*expected, min(values), max(values)])


def test_spread_of_one_value_and_of_none():
    assert spread(np.array([0.5])) == pytest.approx([1, 0, 0.5, NAN, *[0.5] * 5], nan_ok=True)
    assert spread(np.array([NAN, INF])) == pytest.approx([0, 2, *[NAN] * 7], nan_ok=True)


def test_missing_values_are_shown_as_such_and_left_out_of_means():
    tables = read(make(cases={"HD": [[1.0, INF], [NAN, NAN]], "RVD": [[-INF, 3.0], [2.0, 4.0]]})).tables
    assert tables["HD of each case"] == [["case", "LV", "RV"], ["a", 1.0, "∞"], ["b", "–", "–"]]
    assert tables["RVD of each case"][1] == ["a", "−∞", 3.0]
    assert tables["Mean of each case"] == [["case", "HD", "RVD"], ["a", 1.0, 3.0], ["b", "–", 3.0]]
    assert tables["Spread of HD"][1:] == [
        ["LV", 1.0, 1.0, 1.0, "–", 1.0, 1.0, 1.0, 1.0, 1.0],
        ["RV", 0.0, 2.0, *["–"] * 7],
    ]


def test_few_groups_have_rows_and_boxes_of_their_own():
    found = read(make(("a", "b", "c"), ["liver"], {"VO": [[1.0], [5.0], [3.0]]}, groups=["CT", "MR", "CT"]))
    assert [row[:4] for row in found.tables["Spread of VO"][1:]] == [
        ["liver, CT", 2.0, 0.0, 2.0],
        ["liver, MR", 1.0, 0.0, 5.0],
    ]
    assert found.text.count("liver, MR") == 2


def test_many_groups_are_a_column_and_weigh_the_same():
    # Clip p has two frames: ((1 + 5) / 2 + 4 + 4 + 4 + 9) / 5 = 4.8.
    names, groups = list("abcdef"), list("ppqrst")
    values = {"F": [[1.0], [5.0], [4.0], [4.0], [4.0], [9.0]]}
    report = make(names, ["polyp"], values, groups=groups, group_key="clip")
    report.scores |= {"groups": 5, "group_key": "clip"}
    found = read(report)
    assert found.tables["Spread of F"][1][:4] == ["polyp", 6.0, 0.0, pytest.approx(4.8)]
    assert found.tables["Mean of each case"][:2] == [["case", "clip", "F"], ["a", "p", 1.0]]
    assert "Mean over 5 groups of equal weight (clip)" in found.text


def evil_report():
    report = make([EVIL, "b"], [EVIL, "RV"], {EVIL: [[0.9, 0.5], [0.7, NAN]]}, groups=[EVIL, "x"])
    report.title = report.picture_note = report.group_key = report.settings = EVIL
    report.facts = report.versions = {EVIL: EVIL}
    report.pictures = [Picture("worst", EVIL, "data:image/png;base64,AA==")]
    return report


def test_text_from_outside_stays_text():
    found = read(evil_report())
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert found.tables[f"{EVIL} of each case"][1][:3] == [EVIL, EVIL, 0.9]
    assert f"Image and masks of {EVIL}" in found.attributes("alt")
    assert not [name for _, attrs in found.tags for name in attrs if name.startswith("on")]


def test_nothing_comes_from_outside():
    text = page(evil_report())
    found = PageReader(text)
    assert "http" not in text.replace("http-equiv", "")
    assert "@import" not in text
    assert all(link.startswith("#") for name in ("href", "xlink:href") for link in found.attributes(name))
    assert all(source.startswith("data:image/") for source in found.attributes("src"))
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert not {"link", "iframe", "object", "base", "form"} & {tag for tag, _ in found.tags}


def test_only_the_own_script_may_run():
    text = page(make())
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = PageReader(text).attributes("content")[0]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in policy


def test_same_data_give_the_same_page():
    assert page(make()) == page(make())


def test_page_can_be_walked_through_without_a_mouse():
    report = make(settings="{}", versions={"torch": "2"})
    report.pictures = [Picture("best", "b: Dice 0.7", "data:,")]
    found = read(report)
    ids = Counter(found.attributes("id"))
    assert set(ids.values()) == {1}
    assert {link[1:] for link in found.attributes("href")} <= set(ids)
    assert set(found.attributes("aria-labelledby")) <= set(ids)
    assert all(attrs["scope"] in ("col", "row") for tag, attrs in found.tags if tag == "th")
    num_tables = [tag for tag, _ in found.tags].count("table")
    assert num_tables == len(found.tables) == [tag for tag, _ in found.tags].count("caption") == 4
    assert found.attributes("class").count("scroll") == num_tables
    assert found.attributes("lang") == ["en"]


def test_one_case_of_one_structure_needs_no_second_table():
    tables = read(make(["a"], ["node"], {"Dice": [[0.5]]})).tables
    assert list(tables) == ["Mean of each structure", "Spread of Dice", "Mean of each case"]
    assert tables["Mean of each case"][1] == ["a", 0.5]


def test_many_structures_and_cases_fold():
    names, classes = [f"c{i}" for i in range(40)], [f"class {i}" for i in range(30)]
    values = np.random.default_rng(0).random((40, 30))
    found = read(make(names, classes, {"Dice": values}))
    assert [row[1:] for row in found.tables["Dice of each case"][1:]] == values.tolist()
    assert len(found.tables["Spread of Dice"]) == 31
    assert [attrs for tag, attrs in found.tags if tag == "details"] == [{}]


def test_without_values_per_case_there_is_no_spread():
    found = read(make(cases={}))
    assert list(found.tables) == ["Mean of each structure"]
    assert "No metric of this evaluation has values per case." in found.text


def test_configuration_can_be_copied_from_the_page():
    settings = {"a": "$1 < 2 and '&amp;'", "ü": ["<b>"]}
    text = page(make(settings=json.dumps(settings)))
    assert json.dumps(settings) in PageReader(text).text
