"""The last gate before preprocessing: an image that a network cannot use is refused by name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from common.data.image_files import image_problems
from common.errors import InputError
from common.transforms.label_codes import source_name


class CheckImaged(MapTransform):
    """Refuse images with NaN or Inf voxels, or with the wrong number of channels or spatial axes.

    Args:
        keys: images, any dtype, (C, spatial...).
        in_channels: expected C.
        spatial_dims: expected number of spatial axes.
        allow_missing_keys: skip absent keys.

    Returns:
        On call, the data unchanged.

    Raises:
        InputError: on call, naming the file and everything wrong with it.
    """

    def __init__(
        self, keys: KeysCollection, in_channels: int, spatial_dims: int, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Check each image; see the class for what is raised."""
        checked = dict(data)
        for key in self.key_iterator(checked):
            name = source_name(checked[key], key)
            problems = image_problems(checked[key], name, self.in_channels, self.spatial_dims)
            if problems:
                raise InputError("\n".join(problems))
        return checked
