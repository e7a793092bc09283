"""Labels of data sets with several domains: how they are stored, and what their values mean, may differ."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys, convert_to_dst_type, convert_to_numpy

from common.data.image_files import joined, read_image
from common.data.label_codes import SHARED, LabelCodes, classes_by_domain
from common.data.label_images import class_labels
from common.data.mask_stack import read_mask_stack, refuse_unknown_values
from common.errors import InputError
from common.transforms.label_codes import source_name

_UNKNOWN = 255  # no class has this index, see class_of_code


class LoadMaskStackd(MapTransform):
    """Read labels: a folder with one PNG mask per slice of a DICOM series, or any file ``LoadImage`` reads.

    Stands directly after ``LoadImaged`` of the image, whose grid the masks take.

    Args:
        keys: labels: path of the folder or file.
        image_key: the loaded image, (1, X, Y, Z); from the folder of a DICOM series if the label is a folder.
        allow_missing_keys: skip absent keys.

    Returns:
        On call, the data with labels (1, X, Y, Z): gray values as stored, uint8 (int32 if a mask has more
        than 8 bits), with the affine of the image, for a folder; float32 with its own affine for a file.

    Raises:
        InputError: on call: the label is unreadable or differs from the image in size, or is refused by
            :func:`~common.data.mask_stack.read_mask_stack`.
        ValueError: on call: the image is not loaded yet, or not on the grid of its file any more.
    """

    def __init__(
        self, keys: KeysCollection, image_key: str = "image", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read each label; see the class for what is raised."""
        loaded = dict(data)
        image = _as_in_file(loaded[self.image_key], self.image_key)
        for key in self.key_iterator(loaded):
            path = Path(loaded[key])
            label = _mask_volume(path, image) if path.is_dir() else read_image(path)
            shapes = tuple(image.shape), tuple(label.shape)
            if shapes[0] != shapes[1]:
                raise InputError(f"{path}: expected the shape {shapes[0]} of its image, found {shapes[1]}")
            loaded[key] = label
        return loaded


class DomainLabelCodesd(MapTransform):
    """Replace the values of a label by class indices 0 .. K - 1, where they depend on the domain of the case.

    Args:
        keys: labels, any dtype, (1, spatial...).
        codes: domain -> codes as for :class:`~common.transforms.label_codes.MapLabelCodesd`, e.g.
            :data:`common.data.chaos.CHAOS_LIVER_CODES`; or such codes alone, or None, for all domains.
        num_classes: K, background included.
        domain_key: entry with the domain; not needed if all domains share the codes.
        allow_missing_keys: skip absent keys.

    Returns:
        On call, the data with uint8 (1, spatial...) labels.

    Raises:
        InputError: ``codes`` do not fit ``num_classes``; on call: a domain without codes, or values outside
            the codes, with the files that hold them.
    """

    def __init__(
        self,
        keys: KeysCollection,
        codes: Mapping[str, LabelCodes | None] | LabelCodes | None,
        num_classes: int,
        domain_key: str = "domain",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.class_of = classes_by_domain(codes, num_classes)
        self.is_by_domain = SHARED not in self.class_of
        self.domain_key = domain_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map each label; see the class for what is raised."""
        mapped = dict(data)
        domain = mapped.get(self.domain_key) if self.is_by_domain else SHARED
        if domain not in self.class_of:
            raise InputError(
                f"{mapped.get('id', 'case')}: expected {self.domain_key} to be one of those with codes, "
                f"{joined(self.class_of)}, found {domain!r}"
            )
        for key in self.key_iterator(mapped):
            mapped[key] = _classes(mapped[key], self.class_of[domain], source_name(mapped[key], key))
        return mapped


def _as_in_file(image: object, key: str) -> MetaTensor:
    """The image, provided that it is loaded and neither turned nor resampled."""
    if not isinstance(image, MetaTensor):
        raise ValueError(
            f"{key}: expected an image that is loaded before its label, got {type(image).__name__}"
        )
    original = image.meta.get(MetaKeys.ORIGINAL_AFFINE)
    if original is not None and not np.allclose(original, image.affine):
        raise ValueError(f"{key}: expected the grid of the file, got an image that was turned or resampled")
    return image


def _mask_volume(folder: Path, image: MetaTensor) -> MetaTensor:
    image_folder = Path(source_name(image, "image"))
    if not image_folder.is_dir():
        raise InputError(
            f"{folder}: a folder of masks is expected to belong to a folder with a DICOM series, "
            f"found the image {image_folder}"
        )
    values = read_mask_stack(folder, image_folder, image.shape[1:3])
    meta = {ImageMetaKey.FILENAME_OR_OBJ: str(folder), MetaKeys.SPACE: SpaceKeys.RAS}
    return MetaTensor(torch.from_numpy(values)[None], affine=image.affine.clone(), meta=meta)


def _classes(label: torch.Tensor, class_of: Mapping[int, int], name: str) -> torch.Tensor:
    """Like ``class_labels``, in one pass for 8-bit stacks, and naming single masks of a stack."""
    values = convert_to_numpy(label)
    if values.dtype != np.uint8:
        return class_labels(label, class_of, name)
    table = np.array([class_of.get(code, _UNKNOWN) for code in range(256)], dtype=np.uint8)
    classes = np.empty_like(values)
    for index in range(values.shape[-1]):  # at once, numpy would copy the whole volume as 64-bit indices
        classes[..., index] = table[values[..., index]]
    if (classes == _UNKNOWN).any():
        if Path(name).is_dir():
            refuse_unknown_values(Path(name), class_of)
        return class_labels(label, class_of, name)  # raises
    return convert_to_dst_type(classes, label, dtype=torch.uint8)[0]
