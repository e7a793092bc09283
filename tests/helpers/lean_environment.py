"""A virtual environment that holds declared packages and what they need, and nothing else."""

import sysconfig
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement


def distributions(lines: Iterable[str]) -> dict[str, Distribution]:
    """Installed packages that requirements ask for, and all that these ask for in turn, by name.

    Raises:
        PackageNotFoundError: one of them is not installed here.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(Requirement(line), "") for line in lines]
    while queue:
        wanted, extra = queue.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        for own_extra in ("", *wanted.extras):
            if (wanted.name, own_extra) not in seen:
                seen.add((wanted.name, own_extra))
                found[wanted.name] = distribution(wanted.name)
                queue += [(Requirement(text), own_extra) for text in found[wanted.name].requires or []]
    return found


def lean_environment(folder: Path, lines: Iterable[str]) -> Path:
    """Make an environment whose packages are links to those installed here; nothing is fetched.

    Unlike a hook that refuses imports this changes no behavior: what is not linked is simply not there.

    Args:
        folder: to make.
        lines: requirements in the form that pip reads.

    Returns:
        Its Python.
    """
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    for package in distributions(lines).values():
        tops = {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}
        for top in tops:
            if not (packages / top).exists():
                (packages / top).symlink_to(package.locate_file(top))
    return folder / "bin" / "python"
