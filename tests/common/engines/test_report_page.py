"""The page that an evaluation leaves: its numbers, its pictures, its configuration, who writes it."""

import json
import re

import numpy as np
import pytest
import torch
import torch.multiprocessing
from ignite.engine import Engine
from monai.bundle import ConfigWorkflow
from PIL import Image

from common.engines import report_page
from common.engines.distance_metrics import DistanceMetrics
from common.engines.extremes import ExtremePictures
from common.engines.pictures import CasePictures
from common.engines.report import EvaluationReport
from common.engines.report_page import ReportPage, versions
from common.errors import InputError
from tests.helpers.evaluation import evaluate, located
from tests.helpers.report_pages import PageReader, evaluate_share, row_case

DICE = {"Dice": "val_mean_dice"}
SETTINGS_EXPRESSION = "$bundle_config.running_workflow().parser.get()"


def report(folder, columns=None, names=("node",)):
    return EvaluationReport(folder, names, columns or DICE, "native")


def read(folder):
    return PageReader((folder / "report.html").read_text(encoding="utf-8"))


def fake_pictures(handler, monkeypatch):
    """The handler writes flat pictures; drawing takes longer than all the rest."""
    module = type(handler).__module__
    monkeypatch.setattr(f"{module}.save_picture", lambda rows, names, path: flat_picture(path))
    return handler


def flat_picture(path):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def captions(found):
    return [text.removeprefix("Image and masks of ") for text in found.attributes("alt")]


def test_numbers_are_those_of_the_report(tmp_path):
    # Two structures, in the second case one is nowhere and one is missed.
    first = torch.tensor([[[0, 1, 1, 2, 2, 0]]])
    second = torch.tensor([[[0, 1, 1, 0, 0, 0]]])
    cases = [
        {"image": located(first, name="a"), "label": located(torch.roll(first, 1, 2), name="a")},
        {"image": located(second * 0, name="b.1"), "label": located(second, name="b.1")},
    ]
    columns = {**DICE, "HD": "val_hausdorff_vox"}
    evaluate(
        cases, 3, [DistanceMetrics(["vox"]), report(tmp_path, columns, ["LV", "RV"]), ReportPage(tmp_path)]
    )
    content = json.loads((tmp_path / "report.json").read_text())["columns"]
    tables = read(tmp_path).tables
    shown = tables["Mean of each structure"]
    for index, (title, expected) in enumerate(content.items(), start=1):
        values = ["–" if value is None else value for value in [*expected["values"], expected["mean"]]]
        assert [row[index] for row in shown[1:]] == [*values, sum(expected["missing"])]
        assert [row[2] for row in tables[f"Spread of {title}"][1:]] == expected["missing"]
        means = [row[3] for row in tables[f"Spread of {title}"][1:]]
        assert [np.nan if v == "–" else v for v in means] == pytest.approx(
            [np.nan if v is None else v for v in expected["values"]], nan_ok=True
        )
    assert tables["HD of each case"] == [["case", "LV", "RV"], ["a", 1.0, 1.0], ["b.1", "∞", "–"]]


def test_worst_and_best_cases_of_this_run_are_in_the_page(tmp_path, monkeypatch):
    flat_picture(tmp_path / "pictures" / "left_from_yesterday.png")
    cases = [row_case(name, k) for name, k in {"a": 4, "b": 1, "c": 5, "left_from_yesterday": 2}.items()]
    drawn = fake_pictures(ExtremePictures(tmp_path / "pictures", 3), monkeypatch)
    evaluate(cases, 2, [report(tmp_path), drawn, ReportPage(tmp_path)])
    found = read(tmp_path)
    assert captions(found) == [
        "b: mean Dice 0.333",
        "left_from_yesterday: mean Dice 0.571",
        "c: mean Dice 1.000",
    ]
    assert all(uri.startswith("data:image/") for uri in found.attributes("src"))


def test_drawn_cases_are_ranked_by_the_first_metric(tmp_path, monkeypatch):
    # Dice 0.889, 0.333, 1 and, not drawn, 0; the second of one name has its number in the file.
    cases = [row_case(name, k) for name, k in (("a", 4), ("b", 1), ("a", 5), ("d", 0))]
    drawn = fake_pictures(CasePictures(tmp_path / "pictures", 3), monkeypatch)
    evaluate(cases, 2, [report(tmp_path), drawn, ReportPage(tmp_path)])
    found = read(tmp_path)
    assert captions(found) == ["b: Dice 0.333", "a: Dice 0.889", "a: Dice 1.000"]
    assert "Ranked among the 3 drawn cases of 4, by Dice." in found.text


@pytest.mark.parametrize(
    ("files", "extreme"), [("ab", ["CT 1", "CT 2"]), ("aa", ["a", "a"])], ids=["distinct", "same"]
)
def test_cases_have_their_own_names_where_the_file_tells_which(tmp_path, monkeypatch, files, extreme):
    cases = [row_case(files[0], 1, id="CT 1"), row_case(files[1], 5, id="CT 2")]
    for drawing, names in (CasePictures, ["CT 1", "CT 2"]), (ExtremePictures, extreme):
        drawn = fake_pictures(drawing(tmp_path / "pictures", 3), monkeypatch)
        evaluate(cases, 2, [report(tmp_path), drawn, ReportPage(tmp_path)])
        found = read(tmp_path)
        assert [row[0] for row in found.tables["Mean of each case"][1:]] == ["CT 1", "CT 2"]
        assert [caption.split(":")[0] for caption in captions(found)] == names


def test_pictures_beyond_the_limit_are_named_but_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "MAX_PICTURE_BYTES", 2.5 * len(flat_uri(tmp_path)))
    cases = [row_case(f"c{k}", k) for k in range(1, 5)]
    drawn = fake_pictures(ExtremePictures(tmp_path / "pictures"), monkeypatch)
    evaluate(cases, 2, [report(tmp_path), drawn, ReportPage(tmp_path)])
    found = read(tmp_path)
    assert captions(found) == ["c1: mean Dice 0.333", "c4: mean Dice 0.889"]
    assert "2 more are in the folder pictures." in found.text


def flat_uri(folder):
    flat_picture(folder / "flat.png")
    return report_page.picture_uri(folder / "flat.png")


def test_page_needs_a_report_of_the_same_run(tmp_path):
    case, too_early = row_case("a", 1), [ReportPage(tmp_path), report(tmp_path)]
    with pytest.raises(InputError, match=r"report.json: .* list ReportPage after EvaluationReport"):
        evaluate([case], 2, too_early)
    evaluate([case], 2, [report(tmp_path)])
    with pytest.raises(InputError, match="expected a report of this run"):
        evaluate([case], 2, too_early)
    assert not (tmp_path / "report.html").exists()


def named_cases_engine():
    return Engine(lambda engine, batch: [{"image": located(torch.zeros(1, 2, 2))} for _ in batch])


def run_scored(folder, handler, details, columns):
    """Run over two outputs whose scores are given, as metrics published by the end of the epoch."""
    engine = named_cases_engine()
    report(folder, columns, ["LV", "RV"]).attach(engine)
    handler.attach(engine)
    engine.state.metrics = dict.fromkeys(columns.values(), 0.5)
    engine.state.metric_details = {name: torch.tensor(values) for name, values in details.items()}
    engine.run([[{"id": "a"}], [{"id": "b"}]])


def test_pooled_and_curve_metrics_have_no_values_per_case(tmp_path):
    details = {"pooled": [[0.5, 0.6]], "iou": [[0.1, 0.2], [0.3, 0.4]], "counts": [[[1.0] * 4] * 2] * 2}
    columns = {name: name for name in ("pooled", "iou", "counts")}
    run_scored(tmp_path, ReportPage(tmp_path), details, columns)
    found = read(tmp_path)
    assert found.tables["Mean of each structure"][1][:2] == ["LV", pytest.approx(0.5)]
    assert found.tables["Mean of each case"][0] == ["case", "iou"]


def test_metrics_of_cases_can_be_others_than_those_of_the_report(tmp_path):
    details, columns = {"vo": [[80.0, 60.0], [70.0, 50.0]]}, {"VO CT": "vo_ct"}
    run_scored(tmp_path, ReportPage(tmp_path, case_columns={"VO [%]": "vo"}), details, columns)
    assert read(tmp_path).tables["Mean of each case"] == [["case", "VO [%]"], ["a", 70.0], ["b", 60.0]]
    for name, shape in ("vo_ct", "none"), ("pooled", r"\(1, 2\)"):
        page = ReportPage(tmp_path, case_columns={"VO": name})
        with pytest.raises(InputError, match=rf"case_columns: .* 2 case\(s\) .* '{name}' with {shape}"):
            run_scored(tmp_path, page, {"pooled": [[1.0, 2.0]]}, columns)


def test_only_the_date_differs_between_two_pages(tmp_path):
    pages = []
    for _ in range(2):
        evaluate([row_case("a", 2)], 2, [report(tmp_path), ReportPage(tmp_path)])
        pages.append((tmp_path / "report.html").read_text(encoding="utf-8"))
    date = re.compile(r"<dt>date</dt><dd>\d{4}-\d\d-\d\d \d\d:\d\d UTC</dd>")
    assert len(date.findall(pages[0])) == 1
    assert date.sub("", pages[0]) == date.sub("", pages[1])


def test_running_workflow_hands_over_its_configuration_and_name(tmp_path):
    config = {
        "imports": ["$import common.bundle_config as bundle_config"],
        "seed": 0,
        "doubled": "$2 * @seed",
        "page": {"_target_": "common.engines.report_page.ReportPage", "output_dir": str(tmp_path)}
        | {"settings": SETTINGS_EXPRESSION},
        "run": ["$@page.attach(@engine)", "$@engine.run([[{'id': 'a'}]])"],
    }
    (tmp_path / "evaluate.json").write_text(json.dumps(config))
    (tmp_path / "metadata.json").write_text(json.dumps({"name": "Net & Co", "version": "1.2.3"}))
    engine = named_cases_engine()
    report(tmp_path).attach(engine)
    engine.state.metrics, engine.state.metric_details = {"val_mean_dice": 0.5}, {}
    workflow = ConfigWorkflow(str(tmp_path / "evaluate.json"), seed=7, engine=engine, logging_file=False)
    workflow.initialize()
    workflow.run()
    text = read(tmp_path).text
    assert text.strip().startswith("Evaluation of Net & Co 1.2.3")
    settings = json.loads(text[text.index('{\n  "imports"') : text.rindex("}") + 1])
    assert settings.pop("engine").startswith("<ignite")
    assert settings == config | {"seed": 7}


def test_versions_are_those_of_this_process(tmp_path):
    evaluate([row_case("a", 2)], 2, [report(tmp_path), ReportPage(tmp_path)])
    text = read(tmp_path).text
    assert versions()["PyTorch"] == torch.__version__
    assert all(f"{name}{version}" in text for name, version in {**versions(), "device": "cpu"}.items())


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    evaluate([row_case("a", 1)], 2, [report(tmp_path), ReportPage(tmp_path)])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_make_one_page_of_all_cases(tmp_path):
    torch.multiprocessing.spawn(evaluate_share, (tmp_path,), nprocs=2)
    found = read(tmp_path)
    assert found.tables["Mean of each case"] == [
        ["case", "clip", "Dice"],
        ["case a", "x", pytest.approx(2 / 6)],
        ["case b", "y", pytest.approx(4 / 7)],
        ["case c", "x", pytest.approx(6 / 8)],
    ]
    assert "processes2" in found.text
