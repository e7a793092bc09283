"""Between the values that a data set stores in its label files and the class indices of a network."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey, convert_to_dst_type

from common.data.label_codes import LabelCodes, class_count, class_of_code, code_of_class
from common.data.label_images import class_labels


class MapLabelCodesd(MapTransform):
    """Replace the values of a label file by class indices 0 .. K - 1.

    Args:
        keys: labels, any dtype, (1, spatial...) or (C, spatial...) with equal channels.
        codes: for class 1, 2, ... the value in the files or a list of values that all mean this class, as in
            ``[500, 600, [420, 421]]`` with background 0; or a table value -> class in which 0 may be any, as
            in ``{255: 0, 0: 1}``; None if the files already hold 0 .. K - 1.
        num_classes: K, background included.
        allow_missing_keys: skip absent keys.

    Returns:
        On call, the data with uint8 (1, spatial...) labels.

    Raises:
        InputError: ``codes`` do not fit ``num_classes``; on call: values outside the codes, or channels that
            differ.
    """

    def __init__(
        self,
        keys: KeysCollection,
        codes: LabelCodes | None,
        num_classes: int,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.class_of = class_of_code(codes, num_classes)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Map each label; see the class for what is raised."""
        mapped = dict(data)
        for key in self.key_iterator(mapped):
            mapped[key] = class_labels(mapped[key], self.class_of, source_name(mapped[key], key))
        return mapped


class RestoreLabelCodesd(MapTransform):
    """Replace class indices by the values of the data set, the reverse of :class:`MapLabelCodesd`.

    Args:
        keys: class indices, any dtype, any shape.
        codes: as for :class:`MapLabelCodesd`; of several values for a class the first is written.
            K comes from them.
        allow_missing_keys: skip absent keys.

    Returns:
        On call, the data with int32 label values of the same shape.

    Raises:
        InputError: ``codes`` contradict themselves.
    """

    def __init__(self, keys: KeysCollection, codes: LabelCodes, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.code_of = torch.tensor(code_of_class(codes, class_count(codes)), dtype=torch.int32)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Map each prediction back."""
        restored = dict(data)
        for key in self.key_iterator(restored):
            classes = torch.as_tensor(restored[key]).long()
            values = self.code_of.to(classes.device)[classes]
            restored[key] = convert_to_dst_type(values, restored[key], dtype=torch.int32)[0]
        return restored


def source_name(image: torch.Tensor, key: Hashable) -> str:
    """Path of the file that an image was read from, or its key if nothing is known."""
    return str(getattr(image, "meta", {}).get(ImageMetaKey.FILENAME_OR_OBJ, key))
