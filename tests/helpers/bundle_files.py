"""A bundle's config files as data, and the questions that the house rules ask about them."""

import inspect
import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from pydoc import locate

from monai.bundle import ComponentLocator

COMPLETE = ("train", "inference")
MISSING = object()


@dataclass(frozen=True)
class Bundle:
    """A bundle folder with its configs.

    Attributes:
        folder: the folder that contains ``configs``.
    """

    folder: Path

    @cached_property
    def texts(self) -> dict[str, str]:
        """Text of every JSON config by its name without ``.json``."""
        files = sorted((self.folder / "configs").glob("*.json"))
        return {file.stem: file.read_text(encoding="utf-8") for file in files}

    @cached_property
    def configs(self) -> dict[str, dict]:
        """Every JSON config except the metadata, in the same order."""
        return {name: json.loads(text) for name, text in self.texts.items() if name != "metadata"}

    @property
    def overlays(self) -> dict[str, dict]:
        """The configs that are differences."""
        return {name: config for name, config in self.configs.items() if name not in COMPLETE}

    @property
    def metadata(self) -> dict:
        """What ``metadata.json`` holds."""
        return json.loads(self.texts["metadata"])

    @property
    def readme(self) -> str:
        """The bundle's documentation."""
        return (self.folder / "docs" / "README.md").read_text(encoding="utf-8")


@cache
def resolve(target: str) -> object | None:
    """What a ``_target_`` stands for: a dotted path, or a class name that MONAI finds in its own modules."""
    if "." in target:
        return locate(target)
    module = _locator().get_component_module_name(target)
    module = module[0] if isinstance(module, list) else module
    return locate(f"{module}.{target}") if module else None


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()


def rejected(callable_: object, given: set[str]) -> set[str]:
    """Names among ``given`` that a class or function has no parameter for."""
    parameters = inspect.signature(callable_).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return set()
    return given - set(parameters)


def components(node: object) -> list[dict]:
    """All dicts with a ``_target_`` inside a config, however deep."""
    children = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    own = [node] if isinstance(node, dict) and "_target_" in node else []
    return own + [component for child in children for component in components(child)]


def strings(bundle: Bundle) -> list[tuple[str, str]]:
    """All texts of the configs, keys included, each with the name of its config."""
    parsed = {**bundle.configs, "metadata": bundle.metadata} if "metadata" in bundle.texts else bundle.configs
    return [(name, text) for name, config in parsed.items() for text in texts(config)]


def texts(node: object) -> list[str]:
    """All strings inside a config, keys included."""
    if isinstance(node, str):
        return [node]
    if isinstance(node, dict):
        return [*node, *(text for value in node.values() for text in texts(value))]
    return [text for value in node for text in texts(value)] if isinstance(node, list) else []


def has_key(config: dict, key: str) -> bool:
    """Whether a config has the item that a key of an overlay (``train::trainer::max_epochs``) replaces."""
    node = config.get(key, MISSING)
    if node is MISSING:
        node = config
        for part in key.removeprefix("+").split("::"):
            node = node.get(part, MISSING) if isinstance(node, dict) else MISSING
    return node is not MISSING
