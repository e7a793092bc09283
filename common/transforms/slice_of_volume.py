"""Single slices for networks that see one at a time, and intensities by the whole volume.

Paper: Fang and Li, "DMNet: Difference Minimization Network for Semi-supervised Segmentation in Medical
Images", MICCAI 2020, 10.1007/978-3-030-59710-8_52.
Implements: the 2D images that its networks are trained and tested on.
Differs from the paper: nothing; it is silent about orientation and intensities. Slices are turned to RAS.
Axes: C channels, X Y in the plane.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.data import ImageReader
from monai.transforms import MapTransform, NormalizeIntensity

from common.data.slice_index import MEAN_KEY, STD_KEY
from common.data.volume_slices import read_slice
from common.errors import InputError


class LoadSliced(MapTransform):
    """Read one slice of a volume, without the rest of it, or a picture; in place of ``LoadImaged``.

    Slices are counted and turned as after ``Orientationd`` to RAS, see :mod:`common.data.volume_slices`. A
    picture stays as its reader gives it.

    Args:
        keys: paths of NIfTI volumes or pictures, or lists of them that become channels.
        slice_axis: array axis of the files; None: the affine tells. The same as for
            :func:`common.data.slice_index.slice_index`.
        reader: of pictures, as for ``LoadImaged``; None lets MONAI decide.
        slice_key: entry with the index of the slice; may be absent where there is only one.
        allow_missing_keys: skip absent keys.

    Returns:
        On call, the data with float32 slices (C, X, Y) that know their affine.

    Raises:
        InputError: on call: an unreadable file, no such slice, or files of one case that do not belong
            together.
    """

    def __init__(
        self,
        keys: KeysCollection,
        slice_axis: int | None = None,
        reader: ImageReader | None = None,
        slice_key: str = "slice",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.slice_axis = slice_axis
        self.reader = reader
        self.slice_key = slice_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read each slice; see the class for what is raised."""
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            loaded[key] = read_slice(loaded[key], loaded.get(self.slice_key), self.slice_axis, self.reader)
        return loaded


class NormalizeByVolumed(MapTransform):
    """Standardize slices by the mean and deviation of their volumes: z-scores inside the brain.

    Voxels of 0, the surroundings of a skull-stripped brain, stay 0. A slice becomes what it is in a volume
    that went through MONAI's ``NormalizeIntensity(nonzero=True, channel_wise=True)``, which does the same
    where whole volumes are segmented.

    Args:
        keys: slices, float (C, X, Y).
        mean_key: entry with C numbers, from an index made with ``with_intensities``.
        std_key: the same for the deviations; 0 counts as 1.
        allow_missing_keys: skip absent keys.

    Returns:
        On call, the data with float32 slices.

    Raises:
        InputError: on call: the entries are absent, or not one per channel.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mean_key: str = MEAN_KEY,
        std_key: str = STD_KEY,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.entries = mean_key, std_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Standardize each slice; see the class for what is raised."""
        normalized = dict(data)
        mean, std = (normalized.get(entry) for entry in self.entries)
        for key in self.key_iterator(normalized):
            image = normalized[key]
            if mean is None or std is None or not len(mean) == len(std) == len(image):
                raise InputError(
                    f"{normalized.get('id', 'case')}: expected {len(image)} values in each of "
                    f"{' and '.join(self.entries)} (of an index with_intensities), found {mean} and {std}"
                )
            normalize = NormalizeIntensity(mean, std, nonzero=True, channel_wise=True)
            normalized[key] = normalize(image.clone())  # it would write into its argument
        return normalized
