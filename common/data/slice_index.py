"""How much of each class every slice of every volume shows, read once and kept in a file.

Axes: K classes, background included; slices as counted by :mod:`common.data.volume_slices`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import convert_to_numpy, ensure_tuple

from common import __version__
from common.data.checks import file_stamps, read_all
from common.data.image_files import joined, read_image
from common.data.label_codes import GRAY, LabelCodes, check_codes, class_of_code
from common.data.label_images import class_labels, gray_mask
from common.data.volume_slices import SliceGrid, slice_grid
from common.data.writers import atomic_path
from common.errors import InputError, raise_problems

# Entries of a slice with the intensities of its volume.
MEAN_KEY, STD_KEY = "intensity_mean", "intensity_std"


@dataclass(frozen=True)
class VolumeSlices:
    """What is known of the slices of one image.

    Attributes:
        num_slices: 1 for a picture.
        counts: int64 (K - 1, slices), voxels of each foreground class; None without label.
        mean: of the voxels other than 0 in the whole volume, per channel; None if not asked for.
        std: their standard deviation.
    """

    num_slices: int
    counts: np.ndarray | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def slice_index(
    cases: Sequence[Mapping[str, Any]],
    num_classes: int,
    label_codes: LabelCodes | str | None = None,
    index_file: PathLike | None = None,
    slice_axis: int | None = None,
    with_intensities: bool = False,
    image_reader: ImageReader | None = None,
    label_reader: ImageReader | None = None,
) -> dict[str, VolumeSlices]:
    """Read every label once, and count the voxels of every class in every slice.

    Args:
        cases: with ``id``, ``image`` and, unless unlabeled, ``label``: paths or lists of paths.
        num_classes: K, background included.
        label_codes: as for ``MapLabelCodesd``, or ``"gray"``, where more than half is foreground.
        index_file: JSON file that keeps the result by path, size and time of change; None reads everything.
        slice_axis: see :func:`common.data.volume_slices.slice_grid`.
        with_intensities: also read the images, for :class:`VolumeSlices` to have their mean and deviation.
        image_reader: of pictures, as for ``LoadImaged``.
        label_reader: likewise.

    Returns:
        Id -> slices, for the cases given.

    Raises:
        InputError: ``label_codes`` do not fit; or with one line for every problem: a file that is unreadable,
            label values without meaning, image and label with different slices.
    """
    check_codes(label_codes, num_classes)
    class_of = None if label_codes == GRAY else class_of_code(label_codes, num_classes)
    rules = _Rules(class_of, num_classes, slice_axis, with_intensities, image_reader, label_reader)
    known = {} if index_file is None else _read_records(Path(index_file), rules.settings)
    stamps = {case["id"]: [list(part) for part in file_stamps({"label": [], **case})] for case in cases}
    unread = [case for case in cases if known.get(case["id"], {}).get("stamp") != stamps[case["id"]]]
    problems = []
    for case, record in zip(unread, read_all(unread, lambda case: _record(case, rules), "slice index")):
        if isinstance(record, str):
            problems.append(record)
            known.pop(case["id"], None)
        else:
            known[case["id"]] = {"stamp": stamps[case["id"]], **record}
    if index_file is not None and unread:
        with atomic_path(index_file) as temporary:
            content = {"settings": rules.settings, "volumes": known}
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
    raise_problems("slice index", problems)
    return {case["id"]: _volume(known[case["id"]]) for case in cases}


@dataclass(frozen=True)
class _Rules:
    class_of: Mapping[int, int] | None  # None for gray masks
    num_classes: int
    slice_axis: int | None
    with_intensities: bool
    image_reader: ImageReader | None
    label_reader: ImageReader | None

    @property
    def settings(self) -> dict[str, Any]:
        """All that changes what is found."""
        return {
            "version": __version__,
            "codes": GRAY if self.class_of is None else sorted(map(list, self.class_of.items())),
            "classes": self.num_classes,
            "slice_axis": self.slice_axis,
            "with_intensities": self.with_intensities,
            "readers": [repr(self.image_reader), repr(self.label_reader)],
        }


def _record(case: Mapping[str, Any], rules: _Rules) -> dict[str, Any] | str:
    try:
        grid = slice_grid(case["image"], rules.slice_axis)
        record: dict[str, Any] = {"num_slices": grid.num_slices, "counts": None}
        if "label" in case:
            name = joined(ensure_tuple(case["label"]))
            label_grid = slice_grid(case["label"], rules.slice_axis)
            if label_grid != grid:
                raise InputError(f"{name}: expected slices as in the image, {grid}, found {label_grid}")
            label = read_image(case["label"], rules.label_reader)
            is_gray = rules.class_of is None
            classes = gray_mask(label, name) > 0.5 if is_gray else class_labels(label, rules.class_of, name)
            record["counts"] = _counts(convert_to_numpy(classes)[0], grid, rules.num_classes)
        if rules.with_intensities:
            record["mean"], record["std"] = _mean_and_std(read_image(case["image"], rules.image_reader))
        return record
    except InputError as error:
        return str(error)


def _counts(classes: np.ndarray, grid: SliceGrid, num_classes: int) -> list[list[int]]:
    """Voxels of every foreground class in every slice; of a picture, which has no slice axis, in all."""
    others = tuple(other for other in range(classes.ndim) if other != grid.axis)
    found = [np.atleast_1d(np.count_nonzero(classes == k, axis=others)) for k in range(1, num_classes)]
    return [count[:: -1 if grid.is_reversed else 1].tolist() for count in found]


def _mean_and_std(image: Any) -> tuple[list[float], list[float]]:
    """Of the voxels other than 0 of each channel, as MONAI's ``NormalizeIntensity`` takes them."""
    inside = [channel[channel != 0].astype(np.float64) for channel in convert_to_numpy(image)]
    pairs = [(float(v.mean()), float(v.std())) if v.size else (0.0, 0.0) for v in inside]
    return [mean for mean, _ in pairs], [std for _, std in pairs]


def _volume(record: Mapping[str, Any]) -> VolumeSlices:
    counts = None if record["counts"] is None else np.array(record["counts"], dtype=np.int64)
    mean, std = (None if record.get(key) is None else tuple(record[key]) for key in ("mean", "std"))
    return VolumeSlices(record["num_slices"], counts, mean, std)


def _read_records(path: Path, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Records made under the same settings; none if the file is absent or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["volumes"]) if content["settings"] == settings else {}
    except (OSError, ValueError, KeyError, TypeError):
        # Without them every file is read again, which is always right and only slower.
        return {}
