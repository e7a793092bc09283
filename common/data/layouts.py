"""From a downloaded data folder to a list of cases, one function per data set.

A case is a dict of strings: ``id``, ``image`` and ``label`` (absolute paths), and where the data set says so
``group`` (the patient: cases of one group must stay together) or ``split`` (the official role).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from common.data.image_files import existing_folder, image_id, list_images
from common.data.pairing import Case, by_id, paired, refuse_repeats
from common.errors import InputError, raise_problems

_ISIC2017_FOLDERS = {"training": "Training", "validation": "Validation", "test": "Test_v2"}


def mmwhs_ct(dataset_dir: str) -> list[Case]:
    """The labeled CT volumes of MM-WHS 2017: ``ct_train/ct_train_1001_image.nii.gz``, ``..._label.nii.gz``.

    Args:
        dataset_dir: the folder that contains ``ct_train``, or ``ct_train`` itself.

    Returns:
        Cases sorted by id (``ct_train_1001``, ...).

    Raises:
        InputError: no such folder, no such files, an image without label or the reverse.
    """
    folder = existing_folder(dataset_dir)
    if (folder / "ct_train").is_dir():
        folder = folder / "ct_train"
    files = list_images(folder)
    images = by_id([path for path in files if image_id(path).endswith("_image")], ["_image"])
    labels = by_id([path for path in files if image_id(path).endswith("_label")], ["_label"])
    return paired(folder, images, labels)


def isic2017(dataset_dir: str) -> list[Case]:
    """ISIC 2017, part 1 (lesion segmentation), with the official roles in ``split``.

    Superpixel images and tables are left out. The validation and test parts may be absent.

    Args:
        dataset_dir: the folder with ``ISIC-2017_Training_Data``, ``ISIC-2017_Training_Part1_GroundTruth``,
            and the same for ``Validation`` and ``Test_v2``.

    Returns:
        Cases with ``split`` training, validation or test, in this order, each sorted by id.

    Raises:
        InputError: no training part, one of the two folders of a part is absent, no such files, an image
            without mask or the reverse, an id in two roles.
    """
    root = existing_folder(dataset_dir)
    cases: list[Case] = []
    for role, name in _ISIC2017_FOLDERS.items():
        image_dir, mask_dir = root / f"ISIC-2017_{name}_Data", root / f"ISIC-2017_{name}_Part1_GroundTruth"
        if role != "training" and not (image_dir.is_dir() or mask_dir.is_dir()):
            continue
        images = list_images(existing_folder(image_dir))
        images = by_id([path for path in images if not path.stem.endswith("_superpixels")], [])
        masks = by_id(list_images(existing_folder(mask_dir)), ["_segmentation"])
        cases += [{**case, "split": role} for case in paired(image_dir, images, masks)]
    refuse_repeats(root, [case["id"] for case in cases])
    return cases


def image_mask_folder(dataset_dir: str, group_pattern: str | None = None) -> list[Case]:
    r"""Images in ``images/`` and masks of the same names in ``masks/`` or ``labels/``.

    A mask may carry ``_mask``, ``_segmentation`` or ``_label`` after the name of its image, and another file
    suffix.

    Args:
        dataset_dir: the folder that contains both.
        group_pattern: regular expression searched in each id; its first group, or the whole match, is the
            patient. ``"^(\d+)_"`` keeps the slices ``103_1036`` and ``103_1049`` together. None: each image
            for itself.

    Returns:
        Cases sorted by id, with ``group`` if there is a pattern.

    Raises:
        InputError: no such folder, both mask folders, no images, an image without mask or the reverse, two
            images of one name, no regular expression, or an id that it does not match.
    """
    root = existing_folder(dataset_dir)
    image_folder = existing_folder(root / "images")
    mask_folders = [root / name for name in ("masks", "labels") if (root / name).is_dir()]
    if len(mask_folders) != 1:
        found = " and ".join(path.name for path in mask_folders) or "neither"
        raise InputError(f"{root}: expected one of the folders masks and labels, found {found}")
    images = by_id(list_images(image_folder), [])
    masks = by_id(list_images(mask_folders[0]), ["_mask", "_segmentation", "_label"], wanted=images)
    cases = paired(image_folder, images, masks)
    return cases if group_pattern is None else _grouped(cases, group_pattern)


def msd(dataset_dir: str) -> list[Case]:
    """A data set in the layout of the Medical Segmentation Decathlon: ``training`` in ``dataset.json``.

    Args:
        dataset_dir: the folder with ``dataset.json``; the paths in it are relative to this folder.

    Returns:
        Cases sorted by id (the file name without suffix). Images under ``test`` are left out.

    Raises:
        InputError: no readable ``dataset.json``, an empty list, or listed files that do not exist.
    """
    root, description = _msd_description(dataset_dir)
    entries = description.get("training")
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and {"image", "label"} <= e.keys() for e in entries
    ):
        raise InputError(
            f'{root / "dataset.json"}: expected "training": [{{"image": ..., "label": ...}}, ...]'
        )
    pairs = [(root / entry["image"], root / entry["label"]) for entry in entries]
    pairs = [pair for pair in pairs if not pair[0].name.startswith("._")]
    missing = [path for pair in pairs for path in pair if not path.is_file()]
    raise_problems(f"{root / 'dataset.json'} lists files that do not exist", [str(path) for path in missing])
    images = by_id([image for image, _ in pairs], [])
    labels = {image_id(image): label for image, label in pairs}
    return paired(root, images, labels)


def msd_class_names(dataset_dir: str) -> list[str]:
    """Foreground names of an MSD data set, in class order, background left out.

    Raises:
        InputError: ``labels`` in ``dataset.json`` is not ``{"0": "background", "1": ..., "2": ...}``.
    """
    root, description = _msd_description(dataset_dir)
    names = description.get("labels")
    expected = [str(index) for index in range(len(names))] if isinstance(names, dict) else []
    if len(expected) < 2 or sorted(names) != sorted(expected):
        raise InputError(
            f'{root / "dataset.json"}: expected "labels": {{"0": "background", "1": ...}}, found {names}'
        )
    return [names[key] for key in expected[1:]]


def _msd_description(dataset_dir: str) -> tuple[Path, dict]:
    """The folder and the content of its ``dataset.json``."""
    root = existing_folder(dataset_dir)
    try:
        description = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{root / 'dataset.json'}: expected a readable JSON file, found: {error}") from error
    if not isinstance(description, dict):
        raise InputError(
            f"{root / 'dataset.json'}: expected a JSON object, found {type(description).__name__}"
        )
    return root, description


def _grouped(cases: list[Case], pattern: str) -> list[Case]:
    """The cases with ``group`` taken from their ids."""
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"group_pattern: expected a regular expression, found {pattern!r} ({error})"
        ) from error
    matches = [regex.search(case["id"]) for case in cases]
    unmatched = [f"{case['id']}: no match" for case, match in zip(cases, matches) if match is None]
    raise_problems(f'group_pattern "{pattern}" must match every id', unmatched)
    return [{**case, "group": match[1 if regex.groups else 0]} for case, match in zip(cases, matches)]
