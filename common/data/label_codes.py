"""The values a data set stores in its label files, and the class each one stands for."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import InputError

LabelCodes = Sequence[int | Sequence[int]]


def class_of_code(codes: LabelCodes | None, num_classes: int) -> dict[int, int]:
    """Class index of every allowed label value.

    Args:
        codes: for class 1, 2, ... the value in the files, or a list of values that all mean this class;
            None if the files already hold 0 .. ``num_classes`` - 1. Background is always 0.
        num_classes: number of classes K, background included; at most 255.

    Returns:
        value -> class; ``class_of_code([500, [420, 421]], 3)`` is ``{0: 0, 500: 1, 420: 2, 421: 2}``.

    Raises:
        InputError: not one entry per foreground class, a negative value, or a value with two meanings.
    """
    if not 2 <= num_classes <= 255:
        raise InputError(f"num_classes: expected 2 to 255 (background included), found {num_classes}")
    if codes is None:
        return {code: code for code in range(num_classes)}
    if len(codes) != num_classes - 1:
        raise InputError(
            f"label_codes: expected {num_classes - 1} entries (one per foreground class), "
            f"found {len(codes)}: {list(codes)}"
        )
    table = {0: 0}
    for index, entry in enumerate(codes, start=1):
        for code in [entry] if isinstance(entry, int) else entry:
            if code < 0 or code in table:
                raise InputError(
                    f"label_codes: expected distinct values above 0, found {code} in {list(codes)}"
                )
            table[code] = index
    return table


def code_of_class(codes: LabelCodes | None, num_classes: int) -> list[int]:
    """Label value to write for each class 0 .. K - 1: the first of each entry of ``codes``."""
    value_of: dict[int, int] = {}
    for code, index in class_of_code(codes, num_classes).items():
        value_of.setdefault(index, code)
    return [value_of[index] for index in range(num_classes)]


def shown(values: Sequence[float], limit: int = 12) -> str:
    """Values as a short text for messages: ``"0, 205, 420, ... (31 values)"``."""
    text = ", ".join(f"{value:.7g}" for value in values[:limit])
    return text if len(values) <= limit else f"{text}, ... ({len(values)} values)"
