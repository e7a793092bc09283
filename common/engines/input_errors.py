"""Shows the user the one message that matters when an input is at fault."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from types import TracebackType

from ignite.engine import Engine, Events

from common.errors import InputError

# Loader workers and MONAI's SaveImage hand an exception over as the text of its traceback, in which one of
# these lines follows the message.
_IN_TRACEBACK = re.compile(
    rf"^{re.escape(f'{InputError.__module__}.{InputError.__qualname__}')}: (.*?)"
    r"(?=\n\n(?:The above exception was|During handling of)|\nTraceback \(most recent call last\)|\Z)",
    re.DOTALL | re.MULTILINE,
)


class ReportInputErrors:
    """Engine handler that unwraps an :class:`~common.errors.InputError` from the errors wrapped around it.

    MONAI turns whatever a transform raises into ``RuntimeError("applying transform ...")``, and a loader
    worker turns it into text. Other exceptions pass unchanged. Goes before the handlers of exceptions that
    are already attached, because MONAI's ``StatsHandler`` raises and ignite then skips the rest.
    """

    def attach(self, engine: Engine) -> None:
        """Hook into an engine.

        Args:
            engine: trainer or evaluator.
        """
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._report)
        # ignite has no public way to come first.
        handlers = engine._event_handlers[Events.EXCEPTION_RAISED]
        handlers.insert(0, handlers.pop())

    def _report(self, _: Engine, error: BaseException) -> None:
        found = find_input_error(error)
        if found is None:
            raise error
        raise found from None


def find_input_error(error: BaseException | None) -> InputError | None:
    """Search an exception and those it was raised from.

    Args:
        error: any exception.

    Returns:
        The outermost input error, rebuilt where only its text is left; None if there is none.
    """
    while error is not None:
        in_text = _IN_TRACEBACK.search(str(error))
        if in_text:
            return InputError(in_text[1].rstrip())
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def report_plainly() -> None:
    """Let a command end with the message of an input error instead of the stack trace around it.

    MONAI's configs wrap what an expression raises, too. Called in ``initialize``; concerns only exceptions
    that nobody catches, and leaves all but input errors as they are.
    """
    if getattr(sys.excepthook, "__name__", "") == _print_plainly.__name__:
        return
    hook = functools.partial(_print_plainly, sys.excepthook)
    sys.excepthook = functools.update_wrapper(hook, _print_plainly)


def _print_plainly(
    otherwise: Callable, kind: type, error: BaseException, trace: TracebackType | None
) -> None:
    found = find_input_error(error)
    if found is None:
        otherwise(kind, error, trace)
    else:
        print(f"error: {found}", file=sys.stderr)
