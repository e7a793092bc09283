"""The page about a table: numbers in the paper's unit, what differs from the paper, nothing but itself."""

import json
import re

import pytest

from tests.helpers.toy_table import FakeRuns, ToyTable, figures, results
from tools.reproduce_document import Document
from tools.reproduce_results import summary


@pytest.fixture
def toy(tmp_path):
    return ToyTable(tmp_path)


def test_mean_spread_and_difference_are_in_the_papers_unit(toy):
    toy("--rows full --seeds 0", FakeRuns(dice=0.8))
    toy("--rows full --seeds 0 1", FakeRuns(dice=0.4))
    found = figures(toy, "full")
    # LV: runs 0.8 and 0.4, mean 0.6, deviations of 0.2, paper 0.9.
    assert found["Dice LV"] == pytest.approx(
        {"paper": 0.9, "paper_spread": None, "mean": 0.6, "spread": 0.2, "n": 2, "difference": -0.3}
    )
    assert found["Dice"]["mean"] == pytest.approx(0.3)
    assert found["IoU [%]"]["difference"] == pytest.approx(60 - 70)


def test_runs_without_a_number_do_not_count():
    assert summary([1.0, None, 3.0, float("nan")], 2.5) == (2.0, 1.0, 2, -0.5)
    assert summary([None], 2.5) == (None, None, 0, None)
    assert summary([1.0], None) == (1.0, 0.0, 1, None)


def test_a_report_without_the_number_is_told(toy, capsys):
    file = toy.bundle / "tables" / "1.json"
    file.write_text(file.read_text().replace("val_iou", "val_jaccard"))
    assert toy("--rows full", FakeRuns()) == 1
    assert "no number for IoU [%]" in capsys.readouterr().err


def test_other_structures_take_the_place_of_the_tables(toy, capsys):
    assert toy("--rows full", FakeRuns(dice=0.6, classes=("head", "tail"))) == 0
    found = figures(toy, "full")
    # The fake report has 0.6 and 0.1 for its two structures.
    assert (found["Dice head"]["mean"], found["Dice tail"]["mean"]) == (0.6, 0.1)
    assert found["Dice head"]["paper"] is None
    assert found["Dice LV"]["n"] == 0
    data = results(toy)["departures"][0]["text"]
    assert "OTHER STRUCTURES (test): head, tail; the paper's LV are not in these data" in data
    page = (toy.pages / "table.md").read_text()
    assert "| Full | Dice tail | - | 0.100 | 1 | - |" in page
    assert "| Full | Dice LV" not in page
    assert "Problem in" not in page


def test_data_with_the_tables_structures_and_more_keep_its_figures(toy):
    toy("--rows full", FakeRuns())
    assert "Dice RV" not in figures(toy, "full")
    assert "OTHER STRUCTURES" not in results(toy)["departures"][0]["text"]


def test_the_box_tells_what_differs(toy):
    toy(
        "--rows full --seeds 4 --with preset_tiny --set pretrained=False network_def={'k':2}",
        FakeRuns(cases=3),
    )
    found = {item["topic"]: [] for item in results(toy)["departures"]}
    for item in results(toy)["departures"]:
        found[item["topic"]].append(item["text"])
    assert "OTHER TEST CASES (test): 3, in the paper 4" in found["Data"][0]
    assert found["Other settings"][0] == "preset_tiny: max_epochs 9 -> 1."
    assert found["Pretraining"] == ["The paper: none. Here pretrained true -> false."]
    assert found["Repeats"] == ["The paper: one run. Here 1 seed(s): 4."]
    assert found["Incomplete"] == ["Rows not asked for: Small | <b>."]
    assert found["In any case"] == ["The split is ours."]


def test_another_data_set_takes_the_place_of_the_tables(toy):
    for name, config in {"data_mr": {"in_channels": 3, "cases": "mr"}, "data_ct": {"cases": "ct"}}.items():
        (toy.bundle / "configs" / f"{name}.json").write_text(json.dumps(config))
    train = toy.bundle / "configs" / "train.json"
    train.write_text(json.dumps({**json.loads(train.read_text()), "in_channels": 1, "cases": None}))
    table = toy.bundle / "tables" / "1.json"
    table.write_text(json.dumps({**json.loads(table.read_text()), "overlays": ["data_mr"]}))
    toy("--rows full --with data_ct", FakeRuns())
    told = [item["text"] for item in results(toy)["departures"] if item["topic"] == "Other settings"]
    assert told == ["without data_mr: in_channels 3 -> 1.", "data_ct: cases mr -> ct."]
    (command, *_) = re.findall(r"monai.bundle run training .*", (toy.pages / "table.md").read_text())
    assert "data_ct.json" in command
    assert "data_mr.json" not in command


def test_pages_stand_alone_and_escape_what_they_show(toy):
    toy("", FakeRuns())
    html = (toy.pages / "table.html").read_text()
    assert "Small | &lt;b&gt;" in html
    assert "data:image/png;base64,iVBOR" in html
    assert re.findall(r"(?:src|href)=\"(?!data:)|https?://", html) == []
    markdown = (toy.pages / "table.md").read_text()
    assert "Small \\| \\<b\\>" in markdown
    assert (toy.pages / "table.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in toy.pages.iterdir()) == [
        "results.json",
        "table.html",
        "table.md",
        "table.png",
    ]


def test_markdown_shows_text_as_it_is():
    document = Document("a_b")
    document.table(["x"], [["one\ntwo | *three*"]])
    assert document.markdown == "# a\\_b\n\n| x |\n| --- |\n| one<br>two \\| \\*three\\* |\n"
