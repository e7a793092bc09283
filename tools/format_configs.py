"""Writes JSON configs in compact form: whatever fits into 110 columns stays on one line.

A component of a config then reads like a sentence and a chain of transforms like a list of sentences. A
component that is too long and contains no other one is wrapped like a sentence; everything else gets one
entry per line. The order of keys is kept and numbers stay exactly as they were typed (``0.00001`` does not
become ``1e-05``).

    python tools/format_configs.py                  # all configs of the repository
    python tools/format_configs.py --check          # change nothing, exit code 1 if a file would change
    python tools/format_configs.py a.json b.json    # these files only
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PATTERNS = ("bundles/*/configs/**/*.json", "common/configs/*.json")
WIDTH = 110
INDENT = 2


class Number(str):
    """The text of a JSON number, kept as it was typed."""


def format_text(text: str) -> str:
    """Return a JSON text in compact form, ending with a line feed.

    Raises:
        ValueError: the text is not JSON, or an object has the same key twice.
    """
    return _layout(_parse(text), indent=0, used=0) + "\n"


def format_file(path: Path, check: bool) -> bool:
    """Bring one file into compact form unless ``check`` is set; tell whether it was not already.

    Raises:
        ValueError: as :func:`format_text`.
    """
    text = path.read_text(encoding="utf-8")
    formatted = format_text(text)
    if formatted != text and not check:
        path.write_text(formatted, encoding="utf-8")
    return formatted != text


def main(arguments: list[str] | None = None) -> int:
    """Format or check the given files, by default all configs; return the exit code."""
    parser = argparse.ArgumentParser(description="Compact form of JSON configs.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail if a file would change")
    parser.add_argument("files", nargs="*", type=Path, help="default: all configs of the repository")
    options = parser.parse_args(arguments)
    files = options.files or sorted(file for pattern in PATTERNS for file in REPOSITORY.glob(pattern))
    is_clean = True
    for file in files:
        try:
            is_changed = format_file(file, options.check)
        except ValueError as error:
            print(f"{file}: {error}", file=sys.stderr)
            is_clean = False
            continue
        if is_changed:
            print(f"{file}: {'not in compact form, run make fmt' if options.check else 'reformatted'}")
            is_clean = is_clean and not options.check
    return 0 if is_clean else 1


def _parse(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique_keys, parse_float=Number, parse_int=Number)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)!r}")
    return result


def _layout(value: Any, indent: int, used: int) -> str:
    """Text of a value whose first line already holds ``used`` characters, trailing comma included."""
    flat = _flat(value)
    if used + len(flat) <= WIDTH or not isinstance(value, (dict, list)) or not value:
        return flat
    inner = indent + INDENT
    if _is_plain_component(value):
        return _wrapped(value, inner, used)
    if isinstance(value, dict):
        entries = [(json.dumps(key, ensure_ascii=False) + ": ", item) for key, item in value.items()]
    else:
        entries = [("", item) for item in value]
    lines = []
    for position, (key, item) in enumerate(entries, start=1):
        comma = "," if position < len(entries) else ""
        lines.append(" " * inner + key + _layout(item, inner, inner + len(key) + len(comma)) + comma)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return "\n".join([opening, *lines, " " * indent + closing])


def _is_plain_component(value: dict[str, Any] | list[Any]) -> bool:
    return isinstance(value, dict) and "_target_" in value and not any(map(_contains_dict, value.values()))


def _contains_dict(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_contains_dict, value)))


def _wrapped(component: dict[str, Any], indent: int, used: int) -> str:
    """Entries of a component filled into lines; those after the first begin at ``indent``."""
    first, *others = [entry + "," for entry in _flat_entries(component)[:-1]] + [
        _flat_entries(component)[-1] + "}"
    ]
    lines, free = ["{" + first], WIDTH - used - len(first) - 1
    for entry in others:
        if len(entry) + 1 <= free:
            lines[-1] += " " + entry
            free -= len(entry) + 1
        else:
            lines.append(" " * indent + entry)
            # One column stays free for the comma that may follow the component.
            free = WIDTH - 1 - len(lines[-1])
    return "\n".join(lines)


def _flat_entries(value: dict[str, Any]) -> list[str]:
    return [f"{json.dumps(key, ensure_ascii=False)}: {_flat(item)}" for key, item in value.items()]


def _flat(value: Any) -> str:
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(_flat_entries(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flat, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
