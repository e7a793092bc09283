"""Every image and label is read once before training, and everything wrong is reported at once."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader, MetaTensor
from monai.utils import ensure_tuple
from tqdm import tqdm

from common import __version__
from common.data.image_files import image_problems, is_nifti, joined, read_image
from common.data.label_codes import GRAY, LabelCodes, check_codes, class_of_code
from common.data.label_images import class_labels, gray_mask
from common.data.writers import atomic_path
from common.errors import InputError, raise_problems

# Two readers keep both the disk and gzip busy; more would multiply the memory that whole CT volumes take.
_NUM_READERS = 2
# Headers written by different programs differ by rounding; a tenth of a voxel moves no label to a neighbor.
_AFFINE_TOLERANCE_VOX = 0.1

# Each of "image" and "label" is a path, or several that become channels; "id" is text.
_Case = Mapping[str, str | Sequence[str]]
Found = TypeVar("Found")


@dataclass(frozen=True)
class _Rules:
    class_of: Mapping[int, int] | None  # None for gray masks
    in_channels: int
    spatial_dims: int
    readers: Mapping[str, ImageReader | None]  # of "image" and "label"


def check_cases(
    cases: Sequence[_Case],
    num_classes: int,
    in_channels: int = 1,
    spatial_dims: int = 3,
    label_codes: LabelCodes | str | None = None,
    receipt_file: PathLike | None = None,
    image_reader: ImageReader | None = None,
    label_reader: ImageReader | None = None,
) -> None:
    """Refuse cases that cannot be trained on, after having read all of them.

    Checked are: readable files, finite voxels, channels, spatial axes, equal shape of image and label, equal
    geometry (NIfTI), and label values.

    Args:
        cases: with ``id``, ``image`` and ``label``: a path each, or a list of paths (several masks).
        num_classes: K, background included.
        in_channels: channels of every image.
        spatial_dims: spatial axes of every image, 2 or 3.
        label_codes: values allowed in labels, as for ``MapLabelCodesd``; None allows 0 .. K - 1; ``"gray"``
            asks for gray masks, 0 to 255, of one structure.
        receipt_file: JSON file that remembers what was found good, by path, size and time of change; such
            cases are not read again. None reads everything.
        image_reader: reads the images, as for ``LoadImaged``; None lets the file's name decide. A receipt
            counts for a reader of the same ``repr`` only.
        label_reader: reads the labels.

    Raises:
        InputError: with one line for every problem in every file.
    """
    check_codes(label_codes, num_classes)
    class_of = None if label_codes == GRAY else class_of_code(label_codes, num_classes)
    readers = {"image": image_reader, "label": label_reader}
    rules = _Rules(class_of, in_channels, spatial_dims, readers)
    settings = {
        "version": __version__,
        "codes": GRAY if class_of is None else sorted(class_of),
        "channels": in_channels,
        "axes": spatial_dims,
        "readers": [repr(reader) for reader in readers.values()],
    }
    known = set() if receipt_file is None else _read_receipt(Path(receipt_file), settings)
    stamps = [file_stamps(case) for case in cases]
    unread = [case for case, stamp in zip(cases, stamps) if stamp not in known]
    listed = read_all(unread, lambda case: _problems(case, rules), "data check")
    problems = {case["id"]: found for case, found in zip(unread, listed) if found}
    if receipt_file is not None and unread:
        good = [stamp for case, stamp in zip(cases, stamps) if case["id"] not in problems]
        with atomic_path(receipt_file) as temporary:
            temporary.write_text(json.dumps({"settings": settings, "good": good}) + "\n", encoding="utf-8")
    raise_problems("data check", [line for found in problems.values() for line in found])


def read_all(
    cases: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], Found], title: str
) -> list[Found]:
    """What is found in each case, in order, by two threads, with a progress bar in the first process.

    Args:
        cases: to be read.
        read: reads one case.
        title: of the progress bar.
    """
    is_quiet = os.environ.get("RANK", "0") != "0" or not cases
    pool = ThreadPoolExecutor(_NUM_READERS)
    try:
        found = pool.map(read, cases)
        return list(tqdm(found, total=len(cases), desc=title, unit="case", disable=is_quiet))
    finally:
        # An interrupt must not wait for thousands of files still in the queue.
        pool.shutdown(cancel_futures=True)


def _problems(case: _Case, rules: _Rules) -> list[str]:
    problems: list[str] = []
    found: dict[str, MetaTensor] = {}
    for key in ("image", "label"):
        try:
            found[key] = read_image(case[key], rules.readers[key])
        except InputError as error:
            problems.append(str(error))
    if "image" in found:
        problems += image_problems(
            found["image"], _name(case, "image"), rules.in_channels, rules.spatial_dims
        )
    if "label" in found:
        try:
            if rules.class_of is None:
                gray_mask(found["label"], _name(case, "label"))
            else:
                class_labels(found["label"], rules.class_of, _name(case, "label"))
        except InputError as error:
            problems.append(str(error))
    if len(found) == 2:
        problems += _geometry_problems(case, found["image"], found["label"])
    return problems


def _geometry_problems(case: _Case, image: MetaTensor, label: MetaTensor) -> list[str]:
    """Differences in shape and, for NIfTI, in where the corners of the grid lie."""
    shapes = tuple(image.shape[1:]), tuple(label.shape[1:])
    if shapes[0] != shapes[1]:
        return [f"{_name(case, 'label')}: expected the shape {shapes[0]} of its image, found {shapes[1]}"]
    if not all(is_nifti(path) for path in _files(case)):
        return []
    affines = [np.asarray(volume.affine, dtype=np.float64) for volume in (image, label)]
    if not all(np.isfinite(affine).all() and np.linalg.det(affine) for affine in affines):
        return [f"{_name(case, 'image')}: expected an invertible affine in image and label, found {affines}"]
    offset_mm = _largest_offset_mm(affines[0], affines[1], shapes[0])
    tolerance_mm = _AFFINE_TOLERANCE_VOX * np.linalg.norm(affines[0][:3, : len(shapes[0])], axis=0).min()
    if offset_mm <= tolerance_mm:
        return []
    difference = np.abs(affines[0] - affines[1]).max()
    return [
        f"{_name(case, 'label')}: expected the affine of its image, found a largest difference of "
        f"{difference:.4g}, which moves a corner by {offset_mm:.4g} mm (allowed: {tolerance_mm:.4g} mm)"
    ]


def _largest_offset_mm(first: np.ndarray, second: np.ndarray, shape: Sequence[int]) -> float:
    """Largest distance between the positions that two affines (4, 4) give to a corner of the grid."""
    sizes = [*shape, 1, 1][:3]
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, size - 1) for size in sizes))])
    return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())


def _files(case: _Case) -> list[str]:
    return [*ensure_tuple(case["image"]), *ensure_tuple(case["label"])]


def _name(case: _Case, key: str) -> str:
    """The file or files of a case's image or label, for messages."""
    return joined(ensure_tuple(case[key]))


def file_stamps(case: _Case) -> tuple[tuple[str, int, int], ...]:
    """Path, size and time of change of every file of a case; -1 for a file that is not there."""
    stamps = []
    for path in _files(case):
        status = os.stat(path) if os.path.exists(path) else None
        stamps.append((path, status.st_size, status.st_mtime_ns) if status else (path, -1, -1))
    return tuple(stamps)


def _read_receipt(path: Path, settings: Mapping[str, object]) -> set[tuple[tuple[str, int, int], ...]]:
    """What was found good under the same settings; nothing if the file is absent or damaged."""
    try:
        receipt = json.loads(path.read_text(encoding="utf-8"))
        is_current = receipt["settings"] == settings
        return {tuple(map(tuple, stamp)) for stamp in receipt["good"]} if is_current else set()
    except (OSError, ValueError, KeyError, TypeError):
        # Without a receipt every file is read again, which is always right and only slower.
        return set()
