"""Images and labels of one folder or several, paired by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.data.image_files import image_id
from common.errors import InputError, raise_problems

Case = dict[str, str]


def by_id(
    files: Sequence[Path], endings: Sequence[str], wanted: dict[str, Path] | None = None
) -> dict[str, Path]:
    """Files by case id: the stem, less one of ``endings`` unless the whole stem is an image id.

    Args:
        files: images or labels.
        endings: what a label's name may carry after that of its image, such as ``_mask``.
        wanted: images by id.

    Raises:
        InputError: two files of one id.
    """
    found: dict[str, Path] = {}
    repeats = []
    for path in files:
        stem = image_id(path)
        ending = next((e for e in endings if stem.endswith(e)), "")
        case_id = stem if wanted is not None and stem in wanted else stem.removesuffix(ending)
        if case_id in found:
            repeats.append(f"{path}: same id as {found[case_id].name}")
        found[case_id] = path
    raise_problems("expected one file per case id", repeats)
    return found


def paired(folder: Path, images: dict[str, Path], labels: dict[str, Path]) -> list[Case]:
    """Cases from images and labels of the same ids, sorted by id.

    Args:
        folder: where they lie, for the message.
        images: by id.
        labels: by id.

    Raises:
        InputError: no images; every file without partner is named.
    """
    problems = [f"{images[i]}: no label found for this image" for i in sorted(images.keys() - labels.keys())]
    problems += [f"{labels[i]}: no image found for this label" for i in sorted(labels.keys() - images.keys())]
    raise_problems(f"{folder}: every image needs a label", problems)
    if not images:
        raise InputError(f"{folder}: expected images with labels, found none")
    return [{"id": i, "image": str(images[i]), "label": str(labels[i])} for i in sorted(images)]


def refuse_repeats(root: Path, ids: Sequence[str]) -> None:
    """Refuse ids that occur twice.

    Raises:
        InputError: names them.
    """
    repeats = (
        sorted({case_id for case_id in ids if ids.count(case_id) > 1}) if len(set(ids)) < len(ids) else []
    )
    raise_problems(f"{root}: expected every id in one role only", repeats)
