"""Distance between prediction and mask in the features of a frozen VGG-16 ("LossNet"), and the total loss.

Paper: Zhao et al., "M2SNet: Multi-scale in Multi-scale Subtraction Network for Medical Image Segmentation",
arXiv 2303.10894.
Implements: equations 4-6.
Differs from the paper, each point as the released code does it:
- mean squared difference per level instead of its square root (equation 6).
- the term has weight 0.1 in the total instead of 1 (equation 4); an argument.
- several classes: not shown anywhere. One gray picture per class is our choice, ``as_rgb`` the alternative.
Axes: B batch, K channels, H W space.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from common.errors import InputError
from common.losses.structure import StructureLoss, check_mode, class_masks, full_precision
from common.public_weights import read_public_weights

# torchvision's VGG-16, IMAGENET1K_V1; the name ends with the start of the file's SHA-256.
VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
# Channels of the convolutions of each level; every level but the first starts by pooling.
LEVELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WITHOUT = "or train without this term (feature_weight 0)"


def vgg16_weights(path: str | os.PathLike[str] | None = None) -> dict[str, Tensor]:
    """Weights of the convolutions that LossNet uses; nothing in the file is executed.

    Args:
        path: file with a torchvision VGG-16 state dict; ``None``: downloaded once (528 MB), checked by hash
            and kept in torch's hub folder (``TORCH_HOME``).

    Returns:
        Tensors by torchvision's names, ``features.0.weight`` to ``features.21.bias``.

    Raises:
        InputError: no such file, unreadable, not a VGG-16, or it cannot be downloaded.
    """
    what = "the VGG-16 weights of the feature loss"
    state = read_public_weights(VGG16_URL, path, what, "vgg16_weights_path", WITHOUT)
    source = VGG16_URL if path is None else str(path)
    expected = _state_of(_feature_layers("meta"))
    found = state if isinstance(state, Mapping) else {}
    wrong = [name for name, value in expected.items() if _shape(found.get(name)) != value.shape]
    if wrong:
        raise InputError(
            f"{source}: expected the weights of torchvision's VGG-16, found {len(wrong)} of {len(expected)}"
            f" tensors missing or of another shape, e.g. {wrong[0]}"
        )
    return {name: found[name] for name in expected}


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None


def _feature_layers(device: str = "cpu") -> nn.ModuleList:
    """The four levels, each a chain of layers.

    Every chain ends behind a ReLU and the next starts by pooling, so the ReLUs may work in place.
    """
    levels, channels = nn.ModuleList(), 3
    for index, widths in enumerate(LEVELS):
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if index else []
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1, device=device), nn.ReLU(inplace=True)]
            channels = width
        levels.append(nn.Sequential(*layers))
    return levels


def _state_of(levels: nn.ModuleList) -> dict[str, Tensor]:
    """Parameters of the levels by torchvision's names, which count all layers in one row."""
    layers = [layer for level in levels for layer in level]
    return {
        f"features.{index}.{name}": value
        for index, layer in enumerate(layers)
        for name, value in layer.named_parameters()
    }


class FeatureDistance(nn.Module):
    """Sum over four VGG-16 levels of the mean squared difference between prediction and mask.

    The VGG-16 is frozen and follows the logits to their device and type.

    Args:
        vgg16_weights_path: see :func:`vgg16_weights`; ``None`` downloads them.
        mode: ``sigmoid``: every channel is a structure. ``softmax``: the first channel is background and is
            left out.
        as_rgb: show three structures to the network as the colors of one picture, not as three gray ones.
        size_px: edge length to which maps are resized; the paper's 224.

    Raises:
        InputError: the weights cannot be had.
        ValueError: unknown mode; in ``forward``, ``as_rgb`` with another number of structures than three.

    Source: Zhao 2023, equations 5 and 6, released code.
    """

    def __init__(
        self,
        vgg16_weights_path: str | os.PathLike[str] | None = None,
        mode: str = "sigmoid",
        as_rgb: bool = False,
        size_px: int = 224,
    ) -> None:
        super().__init__()
        check_mode(mode)
        self.mode = mode
        self.as_rgb = as_rgb
        self.size_px = size_px
        weights = vgg16_weights(vgg16_weights_path)
        self.levels = _feature_layers("meta")
        own_names = {id(value): name for name, value in self.levels.named_parameters()}
        state = {own_names[id(value)]: weights[name] for name, value in _state_of(self.levels).items()}
        self.levels.load_state_dict(state, assign=True)
        self.levels.requires_grad_(False)

    def terms(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean squared difference at each level.

        Args:
            logits: float (B, K, H, W).
            labels: (B, K, H, W) maps in [0, 1]; see also :func:`common.losses.structure.class_masks`.

        Returns:
            (4,), the level of full size first; only ``logits`` receive a gradient.

        Raises:
            ValueError: the shapes do not fit, or ``as_rgb`` without three structures.
        """
        logits = full_precision(logits)
        masks = class_masks(labels, logits, self.mode)
        probabilities = logits.sigmoid() if self.mode == "sigmoid" else logits.softmax(dim=1)
        if self.mode == "softmax":
            probabilities, masks = probabilities[:, 1:], masks[:, 1:]
        self.levels.to(device=logits.device, dtype=logits.dtype)
        with torch.no_grad():
            reference = self._features(self._pictures(masks))
        predicted = self._features(self._pictures(probabilities))
        return torch.stack([F.mse_loss(*pair) for pair in zip(predicted, reference)])

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, K, H, W) and labels as for :meth:`terms` to a scalar, the sum over the levels."""
        return self.terms(logits, labels).sum()

    def _pictures(self, maps: Tensor) -> Tensor:
        """Maps (B, K, H, W) to normalized pictures (B * K, 3, size, size), or (B, 3, size, size) as RGB."""
        if self.as_rgb and maps.shape[1] != 3:
            raise ValueError(f"as_rgb: expected 3 structures, got {maps.shape[1]}")
        pictures = maps if self.as_rgb else maps.flatten(0, 1).unsqueeze(1).expand(-1, 3, -1, -1)
        mean, std = (maps.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        normalized = (pictures - mean) / std
        return F.interpolate(normalized, size=(self.size_px, self.size_px), mode="bilinear")

    def _features(self, pictures: Tensor) -> list[Tensor]:
        features = []
        for level in self.levels:
            pictures = level(pictures)
            features.append(pictures)
        return features


class M2SNetLoss(nn.Module):
    """Structure loss plus weighted feature distance.

    Args:
        mode: ``sigmoid`` or ``softmax``, see :class:`common.losses.structure.StructureLoss`.
        bce: ``weighted`` or ``released``, see there.
        feature_weight: weight of the feature distance, 0.1 in the released code; 0 leaves it out and needs no
            VGG-16 weights.
        vgg16_weights_path: see :func:`vgg16_weights`; ``None`` downloads them.
        as_rgb: see :class:`FeatureDistance`.

    Raises:
        InputError: the feature distance is wanted and its weights cannot be had.
        ValueError: unknown mode or form.

    Source: Zhao 2023, equation 4; weight of the feature term from the released code.
    """

    def __init__(
        self,
        mode: str = "sigmoid",
        bce: str = "weighted",
        feature_weight: float = 0.1,
        vgg16_weights_path: str | os.PathLike[str] | None = None,
        as_rgb: bool = False,
    ) -> None:
        super().__init__()
        self.structure = StructureLoss(mode, bce)
        self.feature_weight = feature_weight
        self.features = FeatureDistance(vgg16_weights_path, mode, as_rgb) if feature_weight else None

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            logits: float (B, K, H, W).
            labels: (B, K, H, W) maps in [0, 1]; see also :func:`common.losses.structure.class_masks`.

        Returns:
            Scalar.
        """
        loss = self.structure(logits, labels)
        if self.features is not None:
            loss = loss + self.feature_weight * self.features(logits, labels)
        return loss
