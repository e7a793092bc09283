"""The one exception for input that a user has to mend."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """A file, folder, checkpoint or setting given by the user cannot be used.

    The message names what was given, what was expected and what was found, and needs no stack trace to be
    understood: ``"/data/a.nii.gz: expected 1 channel, found 3"``.
    """


def raise_problems(headline: str, problems: Sequence[str]) -> None:
    """Raise one :class:`InputError` that lists every problem; do nothing if there is none.

    Args:
        headline: what was being checked, without a final colon.
        problems: one line each, beginning with the file concerned.

    Raises:
        InputError: ``problems`` is not empty.
    """
    if problems:
        raise InputError(
            f"{headline}: {len(problems)} problem(s)\n" + "\n".join(f"  - {line}" for line in problems)
        )
