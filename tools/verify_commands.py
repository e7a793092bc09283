"""The commands of a README, read out of its code blocks and checked without running them.

A command is sound if its files exist, the item that it runs exists in the merged configuration, every setting
is one that the configuration knows (MONAI would add a mistyped one silently), and no reference is lost.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import monai.bundle
from monai.bundle import ConfigParser

from tools.bundle_command import BASES, REPOSITORY, bundle_command
from tools.verify_configs import lost_references
from tools.verify_rows import CheckError, NotCheckedError, raise_problems

SHELLS = ("", "bash", "shell", "sh", "console", "commandline")
MADE_BY_RUNS = ("models", "eval")
VERBS = tuple(name for name in dir(monai.bundle) if inspect.isfunction(getattr(monai.bundle, name)))
FILE_OPTIONS = ("config_file", "meta_file")
# Options of `run` that are neither in its signature nor items of the configuration.
FURTHER_OPTIONS = {"bundle_root", "workflow_type", "workflow_name", "tracking_uri", "experiment_name"}
PLACEHOLDER = re.compile(r"<[^>]*>|\.\.\.")


@dataclass(frozen=True)
class MonaiCommand:
    """A call of ``monai.bundle`` on a command line.

    Args:
        launcher: words before ``-m monai.bundle``.
        verb: such as ``run``.
        positional: words before the first option.
        options: in their order, without the dashes.
    """

    launcher: tuple[str, ...]
    verb: str
    positional: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def config_files(self) -> list[str]:
        """Paths in ``--config_file`` as written."""
        return _as_list(self.options.get("config_file", ""))


def readme_commands(text: str) -> list[str]:
    """Commands in code blocks of a shell, one line each, without prompts and comments."""
    commands = []
    for language, block in re.findall(r"^```[ \t]*(\w*)[^\n]*$(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language.lower() not in SHELLS:
            continue
        pending = ""
        for line in block.replace("\\\n", " ").splitlines():
            pending = f"{pending}\n{line}" if pending else re.sub(r"^\s*\$\s+", "", line)
            words = _words(pending)
            if words is not None:
                commands += [pending.strip()] if words else []
                pending = ""
        commands += [pending.strip()] if pending.strip() else []
    return commands


def parse_monai(command: str) -> MonaiCommand | None:
    """The call of ``monai.bundle`` in a command, None if it is none.

    Raises:
        CheckError: a quotation mark without its partner.
    """
    words = _words(command)
    if words is None:
        raise CheckError("a quotation mark has no partner")
    if "monai.bundle" not in words or words[words.index("monai.bundle") - 1] != "-m":
        return None
    start = words.index("monai.bundle")
    rest = words[start + 1 :]
    first = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
    options: dict[str, str] = {}
    name = ""
    for word in rest[first:]:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            options[name] = value
        else:
            options[name] = f"{options[name]} {word}".strip()
    return MonaiCommand(tuple(words[: start - 1]), rest[0] if rest else "", tuple(rest[1:first]), options)


def check_command(command: str, folder: Path) -> str:
    """Check one command of a README.

    Args:
        command: as in the README.
        folder: the bundle's folder.

    Returns:
        What was checked.

    Raises:
        CheckError: the command cannot run.
        NotCheckedError: it is neither a command of MONAI, nor of make or Python.
    """
    call = parse_monai(command)
    if call is not None:
        return check_monai(call, folder)
    words = [word for word in _words(command) or [] if not re.fullmatch(r"\w+=.*", word, re.DOTALL)]
    if words and words[0] == "make":
        return _check_make(command, folder)
    if len(words) > 2 and words[0].startswith("python") and words[1] == "-m":
        if importlib.util.find_spec(words[2].split(".")[0]) is None:
            raise CheckError(f"module {words[2]} does not exist")
        return f"module {words[2].split('.')[0]} exists"
    raise NotCheckedError("no command of MONAI, make or Python")


def check_monai(call: MonaiCommand, folder: Path) -> str:
    """Check a call of ``monai.bundle``, see :func:`check_command`."""
    if call.verb not in VERBS:
        raise CheckError(f"monai.bundle has no {call.verb!r}")
    function = inspect.signature(getattr(monai.bundle, call.verb))
    files = [path for option in FILE_OPTIONS for path in _as_list(call.options.get(option, ""))]
    files = [path for path in files if not PLACEHOLDER.search(path)]
    raise_problems([f"{path} does not exist" for path in files if not exists(path, folder)])
    configs = [resolved(path, folder) for path in call.config_files if not PLACEHOLDER.search(path)]
    parser = ConfigParser()
    parser.read_config([str(path) for path in configs if path is not None])
    if len(configs) == 0:
        return "no config file"
    needed = list(call.positional)
    if call.verb == "run" and not needed:
        needed = [call.options.get("run_id", "run")]
    known = {*function.parameters, *FURTHER_OPTIONS}
    problems = [f"nothing in {_names(configs)} is called {name!r}" for name in needed if name not in parser]
    problems += [
        f"--{name}: the configuration knows no such setting"
        for name in call.options
        if name not in known and name not in parser
    ]
    problems += [f"reference {reference} leads nowhere" for reference in lost_references(parser)]
    raise_problems(problems)
    return f"{call.verb} {' '.join(needed)} of {_names(configs)}"


def resolved(path: str, folder: Path) -> Path | None:
    """Where a path of a command lies, seen from the bundle's folder or one above; None if nowhere."""
    candidates = [parent / path for parent in (folder, *folder.parents[:3])]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def exists(path: str, folder: Path) -> bool:
    """Whether a file is there, or will be when a training has run."""
    return resolved(path, folder) is not None or any(part in MADE_BY_RUNS for part in Path(path).parts[:-1])


def _check_make(command: str, folder: Path) -> str:
    if REPOSITORY not in folder.parents:
        raise NotCheckedError("make in another repository than this one")
    words = _words(command) or []
    settings = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    verbs = [verb for word in words[1:] if "=" not in word for verb in word.split("|")]
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    raise_problems([f"make has no verb {verb!r}" for verb in verbs if verb not in targets])
    checked = []
    for verb in verbs:
        if verb not in BASES:
            checked.append(verb)
            continue
        bundle, overlays = settings.get("BUNDLE", folder.name), settings.get("WITH", "").split()
        overlays = [word for word in overlays if word != "as_trained"]  # training writes this one
        try:
            line = ["python", *bundle_command(verb, bundle, overlays)]
        except ValueError as error:
            raise CheckError(str(error)) from None
        arguments = PLACEHOLDER.sub("", settings.get("ARGS", ""))
        call = parse_monai(f"{shlex.join(line)} {arguments}")
        checked.append(check_monai(call, REPOSITORY / "bundles" / bundle) if call else verb)
    return "; ".join(checked)


def _as_list(text: str) -> list[str]:
    """Paths of an option: a single one, or a list in the notation of Python."""
    if not text.startswith("["):
        return [text] if text else []
    try:
        return [str(item) for item in ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        raise CheckError(f"expected a list of files, found {text}") from None


def _words(command: str) -> list[str] | None:
    """Words of a command without its comment; None if a quotation mark has no partner."""
    for mark in re.finditer(r"(?:^|(?<=\s))#(?=\s|$)", command):
        before = command[: mark.start()]
        if before.count('"') % 2 == 0 and before.count("'") % 2 == 0:
            command = before
            break
    try:
        return shlex.split(command)
    except ValueError:
        return None


def _names(files: list[Any]) -> str:
    return ", ".join(file.stem for file in files if file is not None)
