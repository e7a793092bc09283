"""Maps of structures that may be soft or overlap: from labels, from logits, and back to class indices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import Activations, AsDiscrete, MapTransform

from common.data.label_codes import LabelCodes, check_codes
from common.data.label_images import foreground_maps
from common.errors import InputError
from common.transforms.label_codes import source_name

_MODES = ("sigmoid", "softmax")


class ForegroundMapsd(MapTransform):
    """Turn a label image into one map per foreground class, which may be interpolated like an image.

    Args:
        keys: labels, any dtype, (C, spatial...): one file, or several gray masks of one structure.
        codes: as for :class:`~common.transforms.label_codes.MapLabelCodesd`; or ``"gray"`` for gray masks,
            whose values / 255 are taken as they are, so that soft edges stay.
        num_classes: K, background included; 2 for gray masks.
        allow_missing_keys: skip absent keys.

    Returns:
        On call, the data with float32 (K - 1, spatial...) maps, 0 to 1.

    Raises:
        InputError: ``codes`` do not fit ``num_classes``; on call: values without meaning, or channels that
            differ where they may not.
    """

    def __init__(
        self,
        keys: KeysCollection,
        codes: LabelCodes | str | None,
        num_classes: int,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        check_codes(codes, num_classes)
        self.codes = codes
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Map each label; see the class for what is raised."""
        mapped = dict(data)
        for key in self.key_iterator(mapped):
            name = source_name(mapped[key], key)
            mapped[key] = foreground_maps(mapped[key], self.codes, self.num_classes, name)
        return mapped


class ClassProbabilitiesd(MapTransform):
    """Turn logits into the probabilities of the foreground classes.

    Args:
        keys: logits, (K - 1, spatial...) for ``"sigmoid"``, (K, spatial...) for ``"softmax"``.
        mode: ``"sigmoid"``: every channel is a structure of its own; ``"softmax"``: the channels exclude one
            another, and the first is background.
        allow_missing_keys: skip absent keys.

    Returns:
        On call, the data with float32 (K - 1, spatial...) probabilities.

    Raises:
        InputError: ``mode`` is neither.
        ValueError: on call: a single channel for ``"softmax"``, which would leave no structure.
    """

    def __init__(self, keys: KeysCollection, mode: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.is_softmax = _is_softmax(mode)
        self.activation = Activations(softmax=True, dim=0) if self.is_softmax else Activations(sigmoid=True)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Map each prediction; see the class for what is raised."""
        mapped = dict(data)
        for key in self.key_iterator(mapped):
            if self.is_softmax and len(mapped[key]) < 2:
                raise ValueError(f"{key}: expected at least 2 channels of logits for softmax, found 1")
            probabilities = self.activation(mapped[key].float())
            mapped[key] = probabilities[1:] if self.is_softmax else probabilities
        return mapped


class LabelsFromProbabilitiesd(MapTransform):
    """Turn probabilities of the foreground classes into class indices, 0 for background.

    Args:
        keys: probabilities or maps, float (K - 1, spatial...), such as those of :class:`ClassProbabilitiesd`
            and :class:`ForegroundMapsd`.
        mode: ``"sigmoid"``: the most probable structure where it exceeds ``threshold``; ``"softmax"``: the
            most probable class, where background has what the others leave of 1. Among equals background
            comes first, then the lower index.
        threshold: probability that a structure has to exceed; of no effect for ``"softmax"``.
        allow_missing_keys: skip absent keys.

    Returns:
        On call, the data with uint8 (1, spatial...) class indices.

    Raises:
        InputError: ``mode`` is neither.
    """

    def __init__(
        self, keys: KeysCollection, mode: str, threshold: float = 0.5, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.is_softmax = _is_softmax(mode)
        self.threshold = threshold
        self.most_probable = AsDiscrete(argmax=True, dtype=torch.uint8)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Map each prediction."""
        mapped = dict(data)
        for key in self.key_iterator(mapped):
            foreground = mapped[key].float()
            # A background of constant probability is the threshold: argmax takes the first among equals.
            background = (
                1 - foreground.sum(dim=0, keepdim=True)
                if self.is_softmax
                else torch.full_like(foreground[:1], self.threshold)
            )
            mapped[key] = self.most_probable(torch.cat([background, foreground]))
        return mapped


def _is_softmax(mode: str) -> bool:
    if mode not in _MODES:
        raise InputError(f"mode: expected {' or '.join(_MODES)}, found {mode!r}")
    return mode == "softmax"
