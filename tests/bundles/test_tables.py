"""Tables of the papers as data: their overlays and metrics exist, their numbers agree with themselves."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from common.data.kits_phantom import write_kits19
from common.engines.activity_report import activity_content
from common.engines.organ_metrics import OrganMetrics, domain_columns
from common.metrics.activity import LayerResponses
from tests.helpers.readme_numbers import README_LINES, SPREAD
from tests.helpers.workflows import REPOSITORY, TINY_DMNET, run
from tools.bundle_command import bundle_command
from tools.format_configs import format_text
from tools.reproduce import main
from tools.reproduce_runs import config_files
from tools.reproduce_tables import MEAN, REPORT, read_table

# A bundle whose configs are not there yet has tables all the same.
FILES = [
    file
    for file in sorted(REPOSITORY.glob("bundles/*/tables/*.json"))
    if (file.parents[1] / "configs" / "evaluate.json").is_file()
]
BUNDLES = sorted({file.parents[1] for file in FILES})
ACTIVITY = "activity/activity.json"


def relative_id(path: Path) -> str:
    return path.relative_to(REPOSITORY / "bundles").as_posix()


def tables(bundle: Path):
    return [read_table(file) for file in FILES if file.parents[1] == bundle]


def number(table, row_id: str, title: str):
    (row,) = [row for row in table.rows if row.id == row_id]
    (figure,) = [figure for figure in table.figures if figure.title == title.removesuffix(SPREAD)]
    return figure.spread_of_paper(row) if title.endswith(SPREAD) else figure.of_paper(row)


def evaluation_config(table, name: str, overlays=()) -> ConfigParser:
    """The merged configuration of an evaluation, nothing of it built."""
    evaluation = table.evaluations[name]
    words = [*table.overlays, *overlays, *evaluation.overlays]
    parser = ConfigParser()
    files = config_files(bundle_command("evaluate", table.bundle, words))
    parser.read_config([str(REPOSITORY / file) for file in files])
    parser.update(dict(evaluation.settings))
    return parser


def reported_metrics(parser: ConfigParser) -> set[str]:
    """Names of the metrics in ``report.json``."""
    columns = parser["report_columns"]
    if isinstance(columns, str):  # one column per domain of the cases
        columns = domain_columns([{"domain": "CT"}, {"domain": "MR"}], parser["profile"])
    return set(columns.values())


@pytest.mark.parametrize("file", FILES, ids=relative_id)
def test_table_is_in_form_and_every_overlay_exists(file):
    assert format_text(file.read_text()) == file.read_text()
    table = read_table(file)
    for row in table.rows:
        overlays = [*table.overlays, *(row.overlays or ())]
        bundle_command("train", table.bundle, overlays)
        for evaluation in table.evaluations.values():
            bundle_command("evaluate", table.bundle, [*overlays, *evaluation.overlays])


@pytest.mark.parametrize("file", FILES, ids=relative_id)
def test_evaluation_writes_every_metric(file):
    table = read_table(file)
    configs = {name: evaluation_config(table, name) for name in table.evaluations}
    for column in table.columns:
        if column.file != REPORT or not column.is_measured:
            continue
        parser = configs[column.evaluation]
        assert column.metric in reported_metrics(parser)
        names = parser.get_parsed_content("class_names") if column.structures != (MEAN,) else []
        assert set(column.structures) <= {*names, MEAN}


def test_scores_of_organs_are_published_under_their_names():
    metrics = OrganMetrics(["paper_reconstruction"]).names
    published = {f"val_{name}{domain}" for name in metrics for domain in ("", "_ct", "_mr")}
    found = [
        evaluation_config(table, name)
        for table in tables(REPOSITORY / "bundles/crossdomain_liver")
        for name in table.evaluations
    ]
    assert set().union(*map(reported_metrics, found)) <= published


def test_activity_is_written_where_the_table_looks():
    responses = LayerResponses.measure(torch.randn(1, 2, 4, 4))
    content = activity_content({d: {"layer": responses} for d in ("CT", "MR")}, {"CT": 1, "MR": 1}, 0.1)
    table = read_table(REPOSITORY / "bundles/crossdomain_liver/tables/3.json")
    for column in table.columns:
        assert column.file == ACTIVITY
        found = content
        for key in column.path:
            found = found[key]
        assert 0 < found < 1


@pytest.mark.parametrize("bundle", BUNDLES, ids=relative_id)
def test_tables_of_one_data_set_share_a_folder_only_for_the_same_run(bundle):
    by_run, by_evaluation = {}, {}
    for table in tables(bundle):
        for row in table.rows:
            if row.is_runnable:
                overlays = (*table.overlays, *row.overlays)
                assert by_run.setdefault((table.data, row.id), overlays) == overlays
        for name, evaluation in table.evaluations.items():
            assert by_evaluation.setdefault((table.data, name), evaluation) == evaluation
    assert len({(data, overlays) for (data, _), overlays in by_run.items()}) == len(by_run)


@pytest.mark.parametrize("bundle", BUNDLES, ids=relative_id)
def test_every_variant_that_the_readme_calls_a_row_is_one(bundle):
    readme = bundle / "docs" / "README.md"
    text = readme.read_text() if readme.is_file() else ""
    section = text.partition("## Variants")[2].partition("\n## ")[0]
    used = {
        word
        for table in tables(bundle)
        for row in table.rows
        for word in [*table.overlays, *(row.overlays or ()), *_words_of_evaluations(table)]
    }
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and cells[2]:
            rows = {name for name in re.findall(r"`(\w+)`", cells[0]) if not name.startswith("infer_")}
            assert rows <= used | NO_ROWS


# Named beside its counterpart; the paper's V-Net has all labels.
NO_ROWS = {"ablate_vnet"}


def _words_of_evaluations(table):
    return [word for evaluation in table.evaluations.values() for word in evaluation.overlays]


@pytest.mark.parametrize(("bundle", "start", "expected"), README_LINES, ids=lambda value: str(value)[:30])
def test_numbers_of_the_readme_are_those_of_the_tables(bundle, start, expected):
    folder = REPOSITORY / "bundles" / bundle
    (line,) = [
        line for line in (folder / "docs" / "README.md").read_text().splitlines() if line.startswith(start)
    ]
    shown = [float(text) for text in re.findall(r"\b\d+\.\d+\b", line.removeprefix(start[:5]))]
    known = [number(read_table(folder / "tables" / f"{t}.json"), row, title) for t, row, title in expected]
    assert shown[: len(known)] == known


def test_means_of_the_heart_are_means_of_its_structures():
    for row in read_table(REPOSITORY / "bundles/kcbac_mmwhs/tables/3.json").rows:
        for name, values in row.paper.items():
            if None not in values:
                assert values[-1] == pytest.approx(sum(values[:-1]) / 7, abs=0.0015), (row.id, name)


def test_overall_scores_of_the_liver_are_means_of_five():
    for table in tables(REPOSITORY / "bundles/crossdomain_liver"):
        for row in table.rows:
            if "VO CT" not in row.paper:
                continue
            for domain in ("CT", "MR"):
                parts = [row.paper[f"{name} {domain}"][0] for name in ("VO", "RVD", "ASSD", "RMSD", "MSSD")]
                assert row.paper[f"overall {domain}"][0] == pytest.approx(sum(parts) / 5, abs=0.08)
            both = row.paper["overall CT"][0] + row.paper["overall MR"][0]
            assert row.paper["overall"][0] == pytest.approx(both / 2, abs=0.08)


def test_means_of_organs_are_means_of_their_structures():
    skc = REPOSITORY / "bundles/skc_synapse/tables"
    for file in sorted(skc.glob("*.json")):
        for row in read_table(file).rows:
            *structures, mean = row.paper.get("Dice", [0.0, 0.0])
            if structures:
                assert mean == pytest.approx(sum(structures) / len(structures), abs=0.12), (file.name, row.id)


class InProcess:
    """Runs jobs in this process, as fast as a test wants them."""

    def __call__(self, job, poll):
        words = dict(word[2:].split("=", 1) for word in job.command if word.startswith("--") and "=" in word)
        settings = {key: _literal(text) for key, text in words.items()}
        files = [str(REPOSITORY / file) for file in config_files(job.command)]
        run("dmnet_kits", files, **settings)
        return 0


def _literal(text: str):
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


@pytest.mark.bundle
@pytest.mark.parametrize("start", [InProcess(), pytest.param(None, marks=pytest.mark.slow)])
def test_two_rows_of_a_table_from_images_to_page(tmp_path, start):
    write_kits19(tmp_path / "data", num_cases=10, num_unlabeled=0)
    settings = {key: value for key, value in TINY_DMNET.items() if key != "label_budget"}
    words = ["--bundle_dir", str(REPOSITORY / "bundles/dmnet_kits"), "--table", "1", "--rows", "dmnet_50"]
    words += ["dmnet_100", "--dataset_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out")]
    words += ["--set", *(f"{key}={value}" for key, value in settings.items())]
    assert main(words, start) == 0
    found = json.loads((tmp_path / "out/table_1/results.json").read_text())
    rows = {row["id"]: row["figures"].get("mIoU [%]") for row in found["rows"]}
    for name in ("dmnet_50", "dmnet_100"):
        item = rows[name]
        assert item["n"] == 1
        assert 0 < item["mean"] < 100
        assert item["difference"] == pytest.approx(item["mean"] - item["paper"])
    assert "OTHER TEST CASES (test): 2, in the paper 42" in found["departures"][0]["text"]
    assert (tmp_path / "out/table_1/table.html").is_file()
