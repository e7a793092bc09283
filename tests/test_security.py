"""No file that holds weights or data can execute anything: nothing loads a pickle."""

import ast
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import load
from monai.handlers import CheckpointLoader

from common.engines.weights import load_weights, read_checkpoint
from common.import_weights import import_weights
from common.public_weights import read_public_weights

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    file for name in ("common", "tools", "benchmarks", "tests") for file in (REPOSITORY / name).rglob("*.py")
)
CONFIGS = sorted([*REPOSITORY.glob("bundles/*/configs/*.json"), *REPOSITORY.glob("common/configs/*.json")])
# Modules that read pickles, and readers that do it for them.
PICKLERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "jsonpickle",
}
READERS = {"read_pickle", "unsafe_load", "full_load", "hub.load", "torch.package"}
# The weights-only reader of torch; everything that passes its arguments on to it.
TORCH_READERS = {"torch.load", "torch.hub.load_state_dict_from_url", "load_state_dict_from_url"}
SAFE_VALUES = {"weights_only": "True", "allow_pickle": "False"}
# A module without any of these words needs no closer look.
SUSPICIOUS = re.compile("load|pickle|weights_only|dill|joblib|marshal|shelve|torch.package")
FORBIDDEN_IN_CONFIGS = (
    "torch.load",
    "pickle",
    "weights_only=False",
    "PersistentDataset",
    "os.system",
    "subprocess",
)
# One copies a reader as loader workers do; this one sets the traps.
MAY_PICKLE = {"tests/common/data/test_picture_reader.py", "tests/test_security.py"}
NETWORK = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}


def full_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: ``{"np": "numpy", "load": "torch.load"}``."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """``torch.hub.load`` for an attribute of attributes of a name, with what the name was imported as."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts, node = [node.attr, *parts], node.value
    return ".".join([names.get(node.id, node.id), *parts]) if isinstance(node, ast.Name) else ".".join(parts)


def dangers(source: str) -> list[str]:
    """Lines of a module that could execute what a file holds."""
    if not SUSPICIOUS.search(source):
        return []
    tree = ast.parse(source)
    names, found = full_names(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [
                f"{node.lineno}: imports {a.name}" for a in node.names if a.name.split(".")[0] in PICKLERS
            ]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLERS:
            found.append(f"{node.lineno}: imports {node.module}")
        elif isinstance(node, (ast.Attribute, ast.Name)):
            name = dotted(node, names)
            if any(name == reader or name.endswith(f".{reader}") for reader in READERS):
                found.append(f"{node.lineno}: {name}")
        elif isinstance(node, ast.Call):
            found += [f"{node.lineno}: {what}" for what in dangers_of_call(node, names)]
    return found


def dangers_of_call(node: ast.Call, names: dict[str, str]) -> list[str]:
    """What is wrong with the arguments of a call."""
    name = dotted(node.func, names)
    given = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg in SAFE_VALUES}
    found = [f"{key}={value}" for key, value in given.items() if value != SAFE_VALUES[key]]
    if name in TORCH_READERS and given.get("weights_only") != "True":
        found.append(f"{name} without weights_only=True")
    return found


def texts(content) -> list[str]:
    """All texts of a config, keys with their values as ``key=value``."""
    if isinstance(content, dict):
        pairs = [f"{key}={value}" for key, value in content.items() if not isinstance(value, (dict, list))]
        return pairs + [text for value in content.values() for text in texts(value)]
    if isinstance(content, list):
        return [text for value in content for text in texts(value)]
    return [content] if isinstance(content, str) else []


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.fixture
def trap(tmp_path):
    """A checkpoint that executes something in any reader that lets it, and the proof that it did."""
    file, proof = tmp_path / "bundle" / "models" / "model.pt", tmp_path / "executed"
    file.parent.mkdir(parents=True)
    torch.save({"weight": Trap(proof), "bias": torch.zeros(2)}, file)
    return file, proof


def by_bundle_load(file):
    configs = file.parents[1] / "configs"
    configs.mkdir()
    (configs / "train.json").write_text(json.dumps({"network_def": NETWORK}))
    (configs / "metadata.json").write_text("{}")
    load(file.parents[1].name, bundle_dir=str(file.parents[2]))


def by_checkpoint_loader(file):
    network = torch.nn.Conv2d(1, 2, 1)
    CheckpointLoader(str(file), {"model": network})(None)


def test_no_module_reads_a_pickle():
    found = {path.relative_to(REPOSITORY).as_posix(): dangers(path.read_text("utf-8")) for path in SOURCES}
    assert len(found) > 100
    assert {name: lines for name, lines in found.items() if lines and name not in MAY_PICKLE} == {}


def test_no_config_reads_a_pickle():
    found = {
        f"{path.parents[1].name}/{path.name}": text
        for path in CONFIGS
        for text in texts(json.loads(path.read_text("utf-8")))
        if any(word in text for word in FORBIDDEN_IN_CONFIGS)
    }
    assert CONFIGS
    assert found == {}


@pytest.mark.parametrize(
    "read",
    [
        lambda file: load_weights(torch.nn.Conv2d(1, 2, 1), file),
        lambda file: read_checkpoint(file, "cpu"),
        lambda file: read_public_weights(
            "https://example.org/a-0.pth", file, "weights", "path", "or without"
        ),
        lambda file: import_weights(file, file.with_name("imported.pt"), kind="res2net50_v1b"),
        by_bundle_load,
        by_checkpoint_loader,
    ],
    ids=[
        "load_weights",
        "read_checkpoint",
        "read_public_weights",
        "import_weights",
        "load",
        "CheckpointLoader",
    ],
)
def test_checkpoint_that_would_execute_something_is_refused(read, trap):
    file, proof = trap
    with pytest.raises(Exception, match=r"(?i)weights.only|pickled objects"):
        read(file)
    assert not proof.exists()


def test_the_trap_works_where_it_is_let(trap):
    file, proof = trap
    torch.load(file, weights_only=False)
    assert proof.is_dir()


def test_array_that_holds_objects_is_refused(tmp_path):
    proof = tmp_path / "executed"
    np.save(tmp_path / "a.npy", np.array([Trap(proof)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(tmp_path / "a.npy")
    assert not proof.exists()


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("import torch\ntorch.load(f)", "2: torch.load without weights_only=True"),
        ("import torch as t\nt.load(f, weights_only=flag)", "2: torch.load without weights_only=True"),
        ("from torch import load as l\nl(f)", "2: torch.load without weights_only=True"),
        (
            "import torch\ntorch.hub.load_state_dict_from_url(u)",
            "2: torch.hub.load_state_dict_from_url without weights_only",
        ),
        ("import torch\ntorch.hub.load('a/b', 'c')", "2: torch.hub.load"),
        ("def f():\n    from pickle import loads", "2: imports pickle"),
        ("import joblib.numpy_pickle as n", "1: imports joblib.numpy_pickle"),
        ("import numpy as np\nnp.load(f, allow_pickle=True)", "2: allow_pickle=True"),
        ("import pandas\npandas.read_pickle(f)", "2: pandas.read_pickle"),
        ("PersistentDataset(d, weights_only=False)", "1: weights_only=False"),
    ],
)
def test_every_way_to_read_a_pickle_is_seen(source, line):
    assert any(found.startswith(line) for found in dangers(source)), dangers(source)


def test_harmless_readers_pass():
    source = (
        "import torch, json\nimport numpy as np\ntorch.load(f, weights_only=True)\nnp.load(f)\njson.load(f)"
    )
    assert dangers(source) == []
