"""The table of a verification: one row for each check, which ran by itself and cannot stop the others."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
MAX_REASON = 300


class CheckError(Exception):
    """What a check found wrong; the message becomes the row's reason."""


class NotCheckedError(Exception):
    """A check that does not apply or lacks what it needs; the message says which."""


@dataclass(frozen=True)
class Row:
    """Outcome of one check.

    Args:
        check: its name.
        status: ``ok``, ``failed`` or ``skipped``.
        reason: what was found.
    """

    check: str
    status: str
    reason: str


def run_check(name: str, check: Callable[[], str]) -> Row:
    """Run a check; whatever it raises becomes its row.

    Args:
        name: of the check.
        check: returns what it found if all is well, raises :class:`CheckError`, :class:`NotCheckedError` or
            whatever the checked bundle makes MONAI raise.
    """
    try:
        with quiet():
            return Row(name, OK, one_line(check()))
    except NotCheckedError as error:
        return Row(name, SKIPPED, one_line(str(error)))
    except CheckError as error:
        return Row(name, FAILED, one_line(str(error)))
    except Exception as error:  # the bundle's own code may raise anything
        return Row(name, FAILED, one_line(f"{type(error).__name__}: {_root(error)}"))


@contextmanager
def quiet() -> Iterator[None]:
    """Without what MONAI, PyTorch and the bundle announce meanwhile, which would bury the table."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def raise_problems(problems: Sequence[str]) -> None:
    """Raise one :class:`CheckError` that lists all; do nothing if there is none."""
    if problems:
        raise CheckError("; ".join(problems))


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned text, and a last line that counts them."""
    widths = [max([len(row.check) for row in rows], default=0), len(SKIPPED)]
    lines = [f"{row.check.ljust(widths[0])}  {row.status.ljust(widths[1])}  {row.reason}" for row in rows]
    counts = [f"{sum(row.status == status for row in rows)} {status}" for status in (OK, FAILED, SKIPPED)]
    return "\n".join([*(line.rstrip() for line in lines), ", ".join(counts)])


def one_line(text: str) -> str:
    """Text without line breaks, cut to a length that a table bears."""
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_REASON else f"{flat[: MAX_REASON - 4]} ..."


def _root(error: BaseException) -> BaseException:
    """What caused an error: MONAI's own message about an expression tells little."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
