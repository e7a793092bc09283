"""Cases of several domains are checked before training: headers and masks of DICOM series, files as usual."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from common.data.checks import check_cases
from common.data.dicom import single_series
from common.data.label_codes import SHARED, LabelCodes, classes_by_domain
from common.data.mask_stack import mask_of_slice, refuse_unknown_values
from common.data.pairing import Case
from common.errors import InputError, raise_problems


def check_domain_cases(
    cases: Sequence[Case], label_codes: Mapping[str, LabelCodes | None] | LabelCodes | None, num_classes: int
) -> None:
    """Refuse cases that cannot be trained on.

    Of a DICOM series all headers are read (one series, no gap, equal grids, a readable compression) and all
    masks (their number, their values), but no pixels, so that it takes a second per case. Files are read
    whole, by :func:`common.data.checks.check_cases`.

    Args:
        cases: with ``id``, ``image``, ``label`` and, if the codes differ by domain, ``domain``.
        label_codes: as for :func:`common.data.label_codes.classes_by_domain`.
        num_classes: K, background included.

    Raises:
        InputError: with every problem of every case.
    """
    tables = classes_by_domain(label_codes, num_classes)
    problems: list[str] = []
    series = [case for case in cases if Path(case["image"]).is_dir()]
    is_quiet = os.environ.get("RANK", "0") != "0" or not series
    for case in tqdm(series, desc="data check", unit="case", disable=is_quiet):
        problems += _series_problems(case, _table(tables, case))
    domains = sorted({case.get("domain", SHARED) for case in cases})
    for domain in domains:
        files = [case for case in cases if case not in series and case.get("domain", SHARED) == domain]
        if files:
            problems += _file_problems(files, num_classes, _table(tables, files[0]))
    raise_problems("data check", problems)


def _table(tables: Mapping[str, dict[int, int]], case: Case) -> dict[int, int]:
    domain = SHARED if SHARED in tables else case.get("domain", SHARED)
    if domain not in tables:
        raise InputError(f"label_codes: expected codes of the domain {domain!r}, found {', '.join(tables)}")
    return tables[domain]


def _series_problems(case: Case, class_of: Mapping[int, int]) -> list[str]:
    problems = []
    checks = (
        lambda: single_series(case["image"]),
        lambda: mask_of_slice(case["image"], case["label"]),
        lambda: refuse_unknown_values(case["label"], class_of),
    )
    for check in checks:
        try:
            check()
        except InputError as error:
            problems.append(str(error))
    return problems


def _file_problems(cases: Sequence[Case], num_classes: int, class_of: dict[int, int]) -> list[str]:
    try:
        check_cases(cases, num_classes, label_codes=class_of)
    except InputError as error:
        headline, *lines = str(error).splitlines()
        return [line.removeprefix("  - ") for line in lines] or [headline]
    return []
