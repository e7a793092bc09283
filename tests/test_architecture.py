"""The shape of the house: who may import whom, how long things may be, what must be documented."""

import ast
from pathlib import Path

import pytest

import common

REPOSITORY = Path(__file__).resolve().parents[1]
MODULES = sorted((REPOSITORY / "common").rglob("*.py"))
TOOLS = sorted((REPOSITORY / "tools").glob("*.py"))
MAX_MODULE_LINES, MAX_BODY_LINES, MAX_INIT_LINES = 300, 40, 60
FORBIDDEN_NAMES = {"utils", "util", "misc", "helpers", "helper"}
# Drawers that a drawer of `common` may open besides itself. Modules at the root (predictor, ...) may use all.
MAY_IMPORT = {
    "networks": set(),
    "losses": {"errors", "public_weights"},
    "metrics": {"errors"},
    "data": {"errors"},
    "transforms": {"errors", "data"},
    "engines": {"errors", "data", "losses", "metrics"},
    "errors": set(),
    "public_weights": {"errors"},
}


def imported_drawers(source: str) -> set[str]:
    """Drawers of ``common`` that a module imports, in any form; the bare package is ``common``."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            names.add("common.relative_import")
        elif isinstance(node, ast.ImportFrom):
            is_package = node.module == "common"
            names |= {f"common.{alias.name}" for alias in node.names} if is_package else {node.module}
    own = [name.split(".") for name in names if name.split(".")[0] == "common"]
    return {parts[1] if len(parts) > 1 else "common" for parts in own} - {"__version__"}


def functions(source: str) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function after its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def undocumented(source: str) -> list[str]:
    """Public classes, functions and methods without docstring, and the module itself.

    Overridden framework methods are no exception: a ``forward`` states its shapes.
    """
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) else ["module"]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    queue = [("", node) for node in tree.body if isinstance(node, kinds)]
    while queue:
        prefix, node = queue.pop(0)
        if node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            missing.append(prefix + node.name)
        if isinstance(node, ast.ClassDef):
            queue += [(f"{node.name}.", child) for child in node.body if isinstance(child, kinds)]
    return missing


def relative_id(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=relative_id)
def test_imports_follow_the_arrows(path):
    drawer = path.relative_to(REPOSITORY / "common").with_suffix("").parts[0]
    if drawer in MAY_IMPORT:
        assert imported_drawers(path.read_text()) <= MAY_IMPORT[drawer] | {drawer}


def test_every_folder_of_the_package_has_its_arrows():
    drawers = {path.relative_to(REPOSITORY / "common").parts[0] for path in MODULES}
    assert {name for name in drawers if not name.endswith(".py")} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", [*MODULES, *TOOLS], ids=relative_id)
def test_module_and_functions_are_short(path):
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_MODULE_LINES
    long = {
        function.name: body_lines(function)
        for function in functions(source)
        if body_lines(function) > (MAX_INIT_LINES if function.name == "__init__" else MAX_BODY_LINES)
    }
    assert long == {}


@pytest.mark.parametrize("path", MODULES, ids=relative_id)
def test_public_names_are_documented(path):
    assert undocumented(path.read_text()) == []


def test_no_module_is_a_box_for_everything():
    assert [path for path in MODULES if FORBIDDEN_NAMES & set(path.with_suffix("").parts)] == []


def test_bundles_hold_no_code():
    assert list(REPOSITORY.glob("bundles/**/*.py")) == []


def test_package_is_the_one_of_this_repository():
    assert Path(common.__file__).resolve() == REPOSITORY / "common" / "__init__.py"


@pytest.mark.parametrize(
    ("source", "drawers"),
    [
        ("import common.data.layouts as l", {"data"}),
        ("from common.losses import x", {"losses"}),
        ("from common import engines, errors", {"engines", "errors"}),
        ("def f():\n    from common.metrics.surface import y", {"metrics"}),
        ("from . import x", {"relative_import"}),
        ("import commonplace, torch", set()),
    ],
)
def test_every_form_of_import_is_seen(source, drawers):
    assert imported_drawers(source) == drawers


def test_lengths_leave_out_signature_and_docstring():
    source = 'def f(\n    a,\n):\n    """One.\n\n    Two.\n    """\n    b = a\n    return b\n'
    assert body_lines(functions(source)[0]) == 2


def test_missing_docstrings_are_seen():
    source = '"""M."""\nclass A:\n    """A."""\n    def b(self): ...\n    def _c(self): ...\ndef d(): ...\n'
    assert undocumented(source) == ["d", "A.b"]
