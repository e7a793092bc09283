"""What the documents name exists: headings, links, files, commands."""

import importlib.util
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE_READMES = sorted(REPOSITORY.glob("bundles/*/docs/README.md"))
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *BUNDLE_READMES])
HEADINGS = (
    "What it does",
    "Paper",
    "Differs from the paper",
    "Data",
    "Results",
    "Use",
    "Variants",
    "Limits",
    "Licence",
)
MAX_BUNDLE_README_LINES = 200
# Commands of others that the documents quote.
FOREIGN_MODULES = {"venv", "pip", "pytest"}
# Written by a training run, so absent from a fresh clone.
MADE_BY_RUNS = ("models/", "demo/", "dist/", "eval/")


def relative_id(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def headings(text: str) -> list[str]:
    """Second-level headings outside of code blocks."""
    return re.findall(r"^## (.+?)\s*$", without_code_blocks(text), re.MULTILINE)


def without_code_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def links(text: str) -> list[str]:
    """Targets of links that point into the repository, without the part after the hash sign."""
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", without_code_blocks(text))
    own = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:", target)]
    return [target for target in own if target]


def commands(text: str) -> str:
    """Everything set as code: blocks with continued lines joined, and words in backticks."""
    blocks = re.findall(r"^```.*?$(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return "\n".join([*(block.replace("\\\n", " ") for block in blocks), *re.findall(r"`([^`\n]+)`", text)])


def make_verbs(text: str) -> set[str]:
    """Verbs that a document tells the reader to give to make; ``make train|infer`` names two."""
    found = re.findall(r"^[ \t]*make[ \t]+([a-z][a-z|-]*)", commands(text), re.MULTILINE)
    return {verb for verbs in found for verb in verbs.split("|")}


def make_overlays(text: str) -> set[tuple[str, str]]:
    """Pairs of bundle and overlay in make commands that name both."""
    pairs = re.findall(r'BUNDLE=(\w+).*?WITH="?([\w ]+)"?', commands(text))
    return {(bundle, word) for bundle, words in pairs for word in words.split()}


def python_modules(text: str) -> set[str]:
    """Modules that a document tells the reader to run."""
    return set(re.findall(r"\bpython3? -m ([\w.]+)", commands(text)))


def config_paths(text: str) -> set[str]:
    """Paths of JSON files in commands, as written."""
    code = commands(text).replace("'", " ").replace(",", " ").replace('"', " ")
    words = {word.strip("[]()") for word in code.split()}
    return {word for word in words if "/" in word and word.endswith(".json") and "<" not in word}


def targets_of_makefile() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


def exists(path: str, document: Path) -> bool:
    if any(path.startswith(start) or f"/{start}" in path for start in MADE_BY_RUNS):
        return True
    return any((folder / path).exists() for folder in (REPOSITORY, document.parent, document.parents[1]))


@pytest.mark.parametrize("path", BUNDLE_READMES, ids=relative_id)
def test_bundle_readme_has_the_headings_of_the_house(path):
    assert headings(path.read_text()) == list(HEADINGS)


@pytest.mark.parametrize("path", BUNDLE_READMES, ids=relative_id)
def test_bundle_readme_is_short_and_says_what_it_is_not_for(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_BUNDLE_README_LINES
    assert "not for clinical use" in text.lower()


def test_every_bundle_has_a_readme():
    folders = [file.parents[1] for file in REPOSITORY.glob("bundles/*/configs/metadata.json")]
    assert sorted(folder / "docs" / "README.md" for folder in folders) == BUNDLE_READMES


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative_id)
def test_links_lead_somewhere(path):
    broken = [target for target in links(path.read_text()) if not (path.parent / target).exists()]
    assert broken == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative_id)
def test_make_verbs_exist(path):
    assert make_verbs(path.read_text()) <= targets_of_makefile()


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative_id)
def test_overlays_in_make_commands_exist(path):
    missing = [
        (bundle, word)
        for bundle, word in make_overlays(path.read_text())
        if word != "as_trained"  # written by training
        and not (REPOSITORY / "bundles" / bundle / "configs" / f"{word}.json").is_file()
        and not (REPOSITORY / "common" / "configs" / f"{word}.json").is_file()
    ]
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative_id)
def test_modules_in_commands_exist(path):
    modules = python_modules(path.read_text()) - FOREIGN_MODULES
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative_id)
def test_config_paths_in_commands_exist(path):
    assert [name for name in config_paths(path.read_text()) if not exists(name, path)] == []


def test_makefile_lists_every_verb_with_a_description():
    text = (REPOSITORY / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY:(.*)$", text, re.MULTILINE)[1].split())
    described = set(re.findall(r"^([a-z-]+):.* ## \S", text, re.MULTILINE))
    assert phony == described == targets_of_makefile()


def test_citation_and_package_have_the_same_version():
    import common

    citation = (REPOSITORY / "CITATION.cff").read_text()
    newest = re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert f"\nversion: {common.__version__}\n" in citation
    assert newest == common.__version__


def test_faults_in_a_document_are_seen():
    text = (
        "## Real\n[a](gone.md#part) [b](https://x.y) `make nothing`\n```\n## not a heading\n"
        "python -m common.nowhere \\\n  --config_file \"['configs/a.json','b/gone.json']\"\n"
        'make train BUNDLE=toy WITH="data_x smoke"\n```\n'
    )
    assert headings(text) == ["Real"]
    assert links(text) == ["gone.md"]
    assert make_verbs(text) == {"nothing", "train"}
    assert make_overlays(text) == {("toy", "data_x"), ("toy", "smoke")}
    assert python_modules(text) == {"common.nowhere"}
    assert config_paths(text) == {"configs/a.json", "b/gone.json"}
