"""The values a data set stores in its label files, and the class each one stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.errors import InputError

LabelCodes = Sequence[int | Sequence[int]] | Mapping[int | str, int]
# In place of codes: gray masks of one structure, 0 (background) to 255, in between where its edge is soft.
GRAY = "gray"
# In place of a domain where all share the codes.
SHARED = ""


def class_of_code(codes: LabelCodes | None, num_classes: int) -> dict[int, int]:
    """Class index of every allowed label value.

    Args:
        codes: for class 1, 2, ... the value in the files, or a list of values that all mean this class, where
            background is always 0; or a table value -> class that also says what 0 means, with values as
            numbers or, as JSON has them, as text; None if the files already hold 0 .. ``num_classes`` - 1.
        num_classes: number of classes K, background included; at most 255.

    Returns:
        value -> class; ``class_of_code([500, [420, 421]], 3)`` is ``{0: 0, 500: 1, 420: 2, 421: 2}``.

    Raises:
        InputError: not one entry per foreground class, a negative value, a value with two meanings, or a
            table whose classes are not exactly 0 .. K - 1.
    """
    if not 2 <= num_classes <= 255:
        raise InputError(f"num_classes: expected 2 to 255 (background included), found {num_classes}")
    if codes is None:
        return {code: code for code in range(num_classes)}
    if isinstance(codes, Mapping):
        return _class_in_table(codes, num_classes)
    if isinstance(codes, str):
        raise InputError(f"label_codes: expected a list or a table of values, found {codes!r}")
    return _class_in_list(codes, num_classes)


def check_codes(codes: LabelCodes | str | None, num_classes: int) -> None:
    """Refuse codes that do not fit the number of classes.

    Args:
        codes: as for :func:`class_of_code`, or :data:`GRAY`.
        num_classes: K, background included; 2 for gray masks.

    Raises:
        InputError: they do not fit.
    """
    if codes != GRAY:
        class_of_code(codes, num_classes)
    elif num_classes != 2:
        raise InputError(f"label_codes: expected 2 classes for {GRAY!r} (one structure), found {num_classes}")


def class_count(codes: LabelCodes) -> int:
    """Number of classes K, background included, that codes speak of."""
    return len(set(codes.values())) if isinstance(codes, Mapping) else len(codes) + 1


def classes_by_domain(
    codes: Mapping[str, LabelCodes | None] | LabelCodes | None, num_classes: int
) -> dict[str, dict[int, int]]:
    """Tables of :func:`class_of_code` where data sets of several domains store different values.

    Args:
        codes: domain -> codes, e.g. :data:`common.data.chaos.CHAOS_LIVER_CODES`; or codes alone, or None, for
            all domains.
        num_classes: K, background included.

    Returns:
        Domain -> value -> class; the only key is :data:`SHARED` if all domains share the codes.

    Raises:
        InputError: as :func:`class_of_code`.
    """
    # A table value -> class holds numbers, a table domain -> codes never does.
    is_by_domain = isinstance(codes, Mapping) and not any(isinstance(c, int) for c in codes.values())
    by_domain = codes if is_by_domain else {SHARED: codes}
    return {domain: class_of_code(entry, num_classes) for domain, entry in by_domain.items()}


def code_of_class(codes: LabelCodes | None, num_classes: int) -> list[int]:
    """Label value to write for each class 0 .. K - 1: the first of each class in ``codes``."""
    value_of: dict[int, int] = {}
    for code, index in class_of_code(codes, num_classes).items():
        value_of.setdefault(index, code)
    return [value_of[index] for index in range(num_classes)]


def shown(values: Sequence[float], limit: int = 12) -> str:
    """Values as a short text for messages: ``"0, 205, 420, ... (31 values)"``."""
    text = ", ".join(f"{value:.7g}" for value in values[:limit])
    return text if len(values) <= limit else f"{text}, ... ({len(values)} values)"


def _class_in_list(codes: Sequence[int | Sequence[int]], num_classes: int) -> dict[int, int]:
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


def _class_in_table(codes: Mapping[int | str, int], num_classes: int) -> dict[int, int]:
    table: dict[int, int] = {}
    for code, index in codes.items():
        # What JSON and Python write for a whole number; 1.5, True and -1 are none.
        if not str(code).isdecimal() or int(code) in table:
            raise InputError(
                f"label_codes: expected distinct values of 0 and above, found {code!r} in {dict(codes)}"
            )
        table[int(code)] = index
    classes, found = range(num_classes), list(table.values())
    if any(index not in classes for index in found) or any(index not in found for index in classes):
        raise InputError(
            f"label_codes: expected the classes 0 to {num_classes - 1}, each at least once, "
            f"found {dict(codes)}"
        )
    return table
