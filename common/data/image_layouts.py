"""From a downloaded data folder to a list of cases, for data sets of 2D images; one function per data set.

Cases are as in :mod:`common.data.layouts`, with more entries where they apply: ``dataset`` (which of several
test sets), ``stratum`` (the source of a training image, see ``seeded_split``) and a list of files as
``label`` (several masks of one image, whose union is the label; ``LoadImaged`` stacks such a list as
channels, so the largest value over the channels is the union).

Official roles, ``split``, are given as soon as there are test images. A training part alone has none, so that
it can be divided by a seed; a folder of test images alone has only the role ``test``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.data.image_files import existing_folder, image_id, joined, list_images
from common.data.pairing import by_id, paired, refuse_repeats
from common.errors import InputError

ImageCase = dict[str, Any]

# Values in the masks of GOALS and their classes: background, RNFL, GCIPL, choroid. They do not fit the form
# of ``label_codes``, in which 0 is background.
GOALS_CLASS_OF_CODE = {255: 0, 0: 1, 80: 2, 160: 3}

_IMAGE_FOLDERS, _MASK_FOLDERS = ("images", "image"), ("masks", "mask")
_CLINICDB_FRAME = r"^(?:clinicdb_)?(\d+)$"


def polyp_pranet(
    dataset_dir: str, frame_pattern: str | None = _CLINICDB_FRAME, frames_per_block: int = 25
) -> list[ImageCase]:
    """Polyp images in the packaging of PraNet: a training set and, in folders of their own, five test sets.

    ``TrainDataset/images``, ``TrainDataset/masks``, ``TestDataset/<name>/images``, ``.../masks``; ``image``
    and ``mask`` serve as well. Images and masks have equal stems.

    The CVC-ClinicDB images are frames of 29 videos, and the packaging does not say where one ends. So every
    block of consecutive frame numbers is one ``group``; every other image is a group of its own. The source
    of a training image is its ``stratum``, so that a fold holds the same share of both.

    Args:
        dataset_dir: the folder that contains ``TrainDataset``, ``TestDataset`` or both, or ``TrainDataset``
            itself.
        frame_pattern: regular expression searched in the ids of training images; its first group is the
            number of a frame. The default fits names that are a number, and ``clinicdb_`` with a number.
            ``None``: no groups of frames.
        frames_per_block: frame numbers per group. Our choice: somewhat more than the mean of 612 frames in 29
            videos. Larger blocks leave fewer neighbors on different sides of a split.

    Returns:
        Training images by id (the stem), then the test sets by name (ids ``<name>_<stem>``), with ``dataset``
        (``TrainDataset`` or the test set's name), ``group`` and, if there are test sets, ``split``. Training
        images also have ``stratum``: ``CVC-ClinicDB`` where ``frame_pattern`` fits, else ``other``, which is
        Kvasir-SEG in this packaging.

    Raises:
        InputError: no such folders, two folders for one purpose, no images, an image without mask or the
            reverse, an id that occurs twice, or a pattern without one group of digits.
    """
    root = existing_folder(dataset_dir)
    if frames_per_block < 1:
        raise InputError(f"frames_per_block: expected at least 1, found {frames_per_block}")
    train_dir, test_dir = root / "TrainDataset", root / "TestDataset"
    if not train_dir.is_dir() and _named(root, _IMAGE_FOLDERS):
        train_dir = root
    training, test = [], []
    if train_dir.is_dir():
        for case in _images_and_masks(train_dir):
            block = _frame_block(case["id"], frame_pattern, frames_per_block)
            source = {"group": block or case["id"], "stratum": "CVC-ClinicDB" if block else "other"}
            training.append({**case, "dataset": "TrainDataset", **source})
    for folder in _subfolders(test_dir):
        for case in _images_and_masks(folder):
            case_id = f"{folder.name}_{case['id']}"
            test.append({**case, "id": case_id, "dataset": folder.name, "group": case_id})
    return _with_roles(root, training, test, ("TrainDataset", "TestDataset"))


def polyp_video_pnsnet(dataset_dir: str, drop_clip_ends: bool = False) -> list[ImageCase]:
    """Frames of polyp videos in the packaging of PNS-Net; a clip is a ``group``.

    ``VPS-TrainSet/<set>/Train/<clip>/Frame/*.jpg`` with masks in ``.../GT/*.png``;
    ``VPS-TestSet/<set>/Frame/<clip>/*.jpg`` with masks in ``VPS-TestSet/<set>/GT/<clip>/*.png``. A frame and
    its mask have equal stems.

    Args:
        dataset_dir: the folder that contains ``VPS-TrainSet``, ``VPS-TestSet`` or both.
        drop_clip_ends: leave out the first and the last frame of each test clip, as PNS-Net's evaluation
            does.

    Returns:
        Training frames, then test frames, by set, clip and frame number, with ids ``<set>_<clip>_<stem>``,
        ``dataset`` (the set), ``group`` (``<set>_<clip>``) and, if there are test sets, ``split``.

    Raises:
        InputError: no such folders, no frames, a frame without mask or the reverse, a clip on one side only,
            or a test clip with no frame but its ends.
    """
    root = existing_folder(dataset_dir)
    training, test = [], []
    for folder in _subfolders(root / "VPS-TrainSet"):
        for clip in _subfolders(existing_folder(folder / "Train")):
            training += _clip(folder.name, clip.name, clip / "Frame", clip / "GT")
    for folder in _subfolders(root / "VPS-TestSet"):
        frames, masks = existing_folder(folder / "Frame"), existing_folder(folder / "GT")
        names = {clip.name for parent in (frames, masks) for clip in _subfolders(parent)}
        for name in sorted(names, key=_numbers_first):
            cases = _clip(folder.name, name, frames / name, masks / name)
            if drop_clip_ends and len(cases) < 3:
                raise InputError(f"{frames / name}: expected at least 3 frames, found {len(cases)}")
            test += cases[1:-1] if drop_clip_ends else cases
    return _with_roles(root, training, test, ("VPS-TrainSet", "VPS-TestSet"))


def covid19_ct(
    dataset_dir: str, training_dir: str = "TrainingSet", test_dir: str = "TestingSet"
) -> list[ImageCase]:
    """COVID-19 CT slices in the layout of Inf-Net and BCS-Net: ``TrainingSet/.../Imgs`` and ``.../GT``.

    The folders between may have any names. Slices of one patient cannot be told by their names: a split of
    the training slices by chance would put neighbors on both sides.

    Args:
        dataset_dir: the folder that contains both parts, or one level above, where it is called ``Dataset``.
        training_dir: where to look for the only ``Imgs`` of the training part, below ``dataset_dir``. A
            longer path (``TrainingSet/a/b``) chooses one of several.
        test_dir: the same for the test part.

    Returns:
        Training, then test slices, by id (``training_<stem>``, ``test_<stem>``), with ``split`` if there is a
        test part.

    Raises:
        InputError: neither part, not exactly one ``Imgs`` in a part, no slices, a slice without mask or the
            reverse.
    """
    root = existing_folder(dataset_dir)
    if (root / "Dataset").is_dir():
        root = root / "Dataset"
    parts: dict[str, list[ImageCase]] = {"training": [], "test": []}
    for role, part in (("training", training_dir), ("test", test_dir)):
        if not (root / part).is_dir():
            continue
        found = sorted(path for path in (root / part).rglob("Imgs") if path.is_dir())
        if len(found) != 1:
            listed = joined(path.relative_to(root).as_posix() for path in found) or "none"
            raise InputError(f"{root / part}: expected one folder Imgs below it, found {listed}")
        masks = existing_folder(found[0].parent / "GT")
        parts[role] = [{**case, "id": f"{role}_{case['id']}"} for case in _pairs(found[0], masks)]
    return _with_roles(root, parts["training"], parts["test"], (training_dir, test_dir))


def busi(dataset_dir: str, include_normal: bool = False) -> list[ImageCase]:
    """Breast ultrasound (BUSI): ``benign/benign (1).png``, ``benign (1)_mask.png``, ``..._mask_1.png``, ...

    An image with several lesions has several masks; their union is the label.

    Args:
        dataset_dir: the folder that contains ``benign``, ``malignant`` and ``normal``, or one level above,
            where it is called ``Dataset_BUSI_with_GT``.
        include_normal: with the images without lesion, whose masks are empty. The four folds that are
            published for this data set leave them out.

    Returns:
        Cases by class and number (ids ``benign (1)``, ...), with ``dataset`` (the class). ``label`` is the
        path of the mask, or a list of paths if there are several.

    Raises:
        InputError: no such folders, no images, an image without mask, a mask without image.
    """
    root = existing_folder(dataset_dir)
    if (root / "Dataset_BUSI_with_GT").is_dir():
        root = root / "Dataset_BUSI_with_GT"
    cases: list[ImageCase] = []
    for name in ("benign", "malignant", "normal")[: 3 if include_normal else 2]:
        cases += [{**case, "dataset": name} for case in _with_all_masks(existing_folder(root / name))]
    return cases


def goals(dataset_dir: str) -> list[ImageCase]:
    """Retinal layers in OCT (GOALS 2022): ``Train/Image/0001.png`` and ``Train/Layer_Masks/0001.png``.

    The images of the two other phases have no public labels and are left out. For the values in the masks see
    :data:`GOALS_CLASS_OF_CODE`.

    Args:
        dataset_dir: the folder that contains ``Train``, or ``Train`` itself.

    Returns:
        Cases sorted by id (``0001``, ...).

    Raises:
        InputError: no such folder, no images, an image without mask or the reverse.
    """
    root = existing_folder(dataset_dir)
    if (root / "Train").is_dir():
        root = root / "Train"
    return _pairs(existing_folder(root / "Image"), existing_folder(root / "Layer_Masks"))


def _with_roles(
    root: Path, training: list[ImageCase], test: list[ImageCase], expected: Sequence[str]
) -> list[ImageCase]:
    """All cases, with their roles if there are test images."""
    if not training and not test:
        raise InputError(f"{root}: expected images under {' or '.join(expected)}, found none")
    cases = training
    if test:
        roles = {"training": training, "test": test}
        cases = [{**case, "split": role} for role, part in roles.items() for case in part]
    refuse_repeats(root, [case["id"] for case in cases])
    return cases


def _named(folder: Path, names: Sequence[str]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_dir()]


def _images_and_masks(folder: Path) -> list[ImageCase]:
    """Cases of a folder with one folder of images and one of masks."""
    found = []
    for names in (_IMAGE_FOLDERS, _MASK_FOLDERS):
        folders = _named(folder, names)
        if len(folders) != 1:
            listed = " and ".join(path.name for path in folders) or "neither"
            raise InputError(f"{folder}: expected one of the folders {' and '.join(names)}, found {listed}")
        found += folders
    return _pairs(*found)


def _pairs(image_folder: Path, mask_folder: Path) -> list[ImageCase]:
    """Cases from images and masks of equal stems, sorted by id."""
    images = by_id(list_images(image_folder), [])
    return paired(image_folder, images, by_id(list_images(mask_folder), []))


def _clip(set_name: str, clip_name: str, frames: Path, masks: Path) -> list[ImageCase]:
    """The frames of one clip, in the order of their numbers."""
    cases = _pairs(existing_folder(frames), existing_folder(masks))
    group = f"{set_name}_{clip_name}"
    cases.sort(key=lambda case: _numbers_first(case["id"]))
    return [{**case, "id": f"{group}_{case['id']}", "dataset": set_name, "group": group} for case in cases]


def _with_all_masks(folder: Path) -> list[ImageCase]:
    """Cases of a folder with images and, beside them, one or more masks of each."""
    masks: dict[str, list[str]] = {}
    others = []
    for path in sorted(list_images(folder), key=lambda path: _numbers_first(image_id(path))):
        match = re.fullmatch(r"(.+)_mask(?:_\d+)?", image_id(path))
        if match is None:
            others.append(path)
        else:
            masks.setdefault(match[1], []).append(str(path))
    cases: list[ImageCase] = paired(folder, by_id(others, []), {i: Path(masks[i][0]) for i in masks})
    for case in cases:
        paths = masks[case["id"]]
        case["label"] = paths if len(paths) > 1 else paths[0]
    return sorted(cases, key=lambda case: _numbers_first(case["id"]))


def _frame_block(case_id: str, pattern: str | None, frames_per_block: int) -> str | None:
    """The block of frame numbers an id falls into; None if it is not that of a frame."""
    if pattern is None:
        return None
    try:
        match = re.search(pattern, case_id)
        number = None if match is None else int(match[1])
    except (re.error, IndexError, ValueError, TypeError) as error:
        raise InputError(
            f"frame_pattern: expected a regular expression with a group of digits, found {pattern!r}"
            f" ({error})"
        ) from error
    if number is None:
        return None
    first = (number - 1) // frames_per_block * frames_per_block + 1
    return f"frames {first}-{first + frames_per_block - 1}"


def _subfolders(folder: Path) -> list[Path]:
    """Folders in a folder, by number and name; none if there is no such folder."""
    found = (path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ()
    visible = (path for path in found if not path.name.startswith("."))
    return sorted(visible, key=lambda path: _numbers_first(path.name))


def _numbers_first(name: str) -> list[tuple[int, str]]:
    """Key that sorts ``frame 9`` before ``frame 10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
