"""Plain V-Net: an encoder of five levels and the decoder with two heads that goes with it.

Paper: Milletari et al., "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image
Segmentation", 3DV 2016, arXiv:1606.04797. It is the backbone of SKCDF: Zhang et al., "A Semantic Knowledge
Complementarity based Decoupling Framework for Semi-supervised Class-imbalanced Medical Image Segmentation",
CVPR 2025.
Implements: the backbone in the form of SKCDF's released code, whose decoder has a second, balanced head.
Differs from the paper: nothing that SKCDF's code does. Unlike the V-Net of 2016 (and MONAI's), convolutions
are 3x3x3, stages have no residual, skips are added instead of concatenated, and normalization is by batch.
Axes: B batch, C channels, K classes, D H W space.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

ENCODER_DEPTHS = (1, 2, 3, 3, 3)
DECODER_DEPTHS = (3, 3, 2, 1)


class VNetEncoder(nn.Module):
    """Feature pyramid of a V-Net: five levels at strides 1, 2, 4, 8 and 16, all non-negative.

    Args:
        in_channels: channels of the image.
        width: channels of the first level; each following level has twice as many (32: the paper's).
        dropout: probability with which a channel of the coarsest level is zeroed in training.

    Attributes:
        channels: channels of the five levels.

    Raises:
        ValueError: a number of channels below 1.

    Source: Zhang 2025, released code.
    """

    def __init__(self, in_channels: int = 1, width: int = 32, dropout: float = 0.5) -> None:
        super().__init__()
        _check_positive(in_channels=in_channels, width=width)
        self.channels = tuple(width * 2**level for level in range(5))
        # The first level is at the size of the image; a step without work keeps the two lists parallel.
        self.downs = nn.ModuleList([nn.Identity()])
        for fine, coarse in zip(self.channels, self.channels[1:]):
            down = nn.Conv3d(fine, coarse, 2, 2)
            self.downs.append(nn.Sequential(down, nn.BatchNorm3d(coarse), nn.ReLU(inplace=True)))
        self.stages = nn.ModuleList(
            _stage(given, channels, depth)
            for given, channels, depth in zip(
                (in_channels, *self.channels[1:]), self.channels, ENCODER_DEPTHS
            )
        )
        self.dropout = nn.Dropout3d(dropout)
        _initialize(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Five feature maps, fine to coarse.

        Args:
            image: float (B, in_channels, D, H, W), each size a multiple of 16.

        Returns:
            (B, ``channels[i]``, D / s, H / s, W / s) for s = 1, 2, 4, 8, 16.

        Raises:
            ValueError: a size that is no multiple of 16.
        """
        for size in image.shape[2:]:
            if size % 16 != 0:
                raise ValueError(f"image: expected sizes that are multiples of 16, got {image.shape[2:]}")
        features = image
        levels: list[Tensor] = []
        for down, stage in zip(self.downs, self.stages):
            features = stage(down(features))
            levels.append(features)
        levels[4] = self.dropout(features)
        return levels

    @torch.jit.unused
    def folding_pairs(self) -> list[tuple[str, str]]:
        """Names of each convolution and its normalization, for deployment."""
        return _folding_pairs(self)


class UpConv3d(nn.ConvTranspose3d):
    """Transposed convolution with kernel and stride 2, whose result is not yet put together.

    Each output voxel comes from a single input voxel. So this is a convolution with kernel 1 to eight times
    as many channels, which is faster on a CPU; what follows voxel by voxel, such as a normalization by batch,
    may take the eight parts for samples.

    Args:
        in_channels: channels of the features.
        out_channels: channels of each part.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 2, 2)

    def forward(self, features: Tensor) -> Tensor:
        """The eight parts of each sample, those at (0, 0, 0), (0, 0, 1), (0, 1, 0) ... of 2 x 2 x 2 voxels.

        Args:
            features: float (B, in_channels, D, H, W).

        Returns:
            (8 B, out_channels, D, H, W), a sample's parts after each other.
        """
        kernel = self.weight.permute(2, 3, 4, 1, 0).flatten(0, 3)[:, :, None, None, None]
        bias = self.bias
        parts = F.conv3d(features, kernel, None if bias is None else bias.repeat(8))
        return parts.unflatten(1, (8, -1)).flatten(0, 1)


class VNetDecoder(nn.Module):
    """Four steps from the coarsest level of the encoder to the image, then one or two linear heads.

    Args:
        num_classes: classes K, background included.
        width: channels of the encoder's first level.
        dropout: probability with which a channel is zeroed before the heads in training; both heads see the
            same channels.
        with_balanced_head: add the auxiliary head, which only training uses.

    Raises:
        ValueError: a number of channels or classes below 1.

    Source: Zhang 2025, released code.
    """

    def __init__(
        self, num_classes: int, width: int = 32, dropout: float = 0.5, with_balanced_head: bool = True
    ) -> None:
        super().__init__()
        _check_positive(num_classes=num_classes, width=width)
        channels = [width * 2**level for level in (4, 3, 2, 1, 0)]
        self.ups = nn.ModuleList(
            nn.Sequential(UpConv3d(coarse, fine), nn.BatchNorm3d(fine), nn.ReLU(inplace=True))
            for coarse, fine in zip(channels, channels[1:])
        )
        self.stages = nn.ModuleList(
            _stage(fine, fine, depth) for fine, depth in zip(channels[1:], DECODER_DEPTHS)
        )
        self.dropout = nn.Dropout3d(dropout)
        self.main_head = nn.Conv3d(width, num_classes, 1)
        self.balanced_head = nn.Conv3d(width, num_classes, 1) if with_balanced_head else None
        _initialize(self)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Logits of the main head and, in training, of the balanced head.

        Args:
            levels: five of float (B, C_i, D / s_i, H / s_i, W / s_i), fine to coarse, as from the encoder;
                the last may have been exchanged for another of its shape.

        Returns:
            One or two tensors (B, K, D, H, W): main logits; in training mode, with a balanced head, also its.
        """
        features = levels[4]
        for index, (up, stage) in enumerate(zip(self.ups, self.stages)):
            features = stage(_interleaved_sum(levels[3 - index], up(features)))
        features = self.dropout(features)
        logits = [self.main_head(features)]
        if self.balanced_head is not None and self.training:
            logits.append(self.balanced_head(features))
        return logits

    @torch.jit.unused
    def folding_pairs(self) -> list[tuple[str, str]]:
        """Names of each convolution, transposed or not, and its normalization, for deployment."""
        return _folding_pairs(self)


def _interleaved_sum(skip: Tensor, parts: Tensor) -> Tensor:
    """Skip (B, C, 2 D, 2 H, 2 W) plus the parts (8 B, C, D, H, W) of features of its size.

    They are never put together by themselves, which would take as long as the sum.
    """
    batch, channels, depth, height, width = skip.shape
    whole = skip.reshape(batch, channels, depth // 2, 2, height // 2, 2, width // 2, 2)
    shuffled = parts.unflatten(0, (batch, 2, 2, 2)).permute(0, 4, 5, 1, 6, 2, 7, 3)
    return (whole + shuffled).reshape(batch, channels, depth, height, width)


def _initialize(module: nn.Module) -> None:
    """Xavier-normal weights for convolutions; transposed ones and all biases keep PyTorch's defaults."""
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.xavier_normal_(part.weight)


def _stage(in_channels: int, out_channels: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        given = in_channels if index == 0 else out_channels
        layers += [nn.Conv3d(given, out_channels, 3, padding=1), nn.BatchNorm3d(out_channels)]
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _folding_pairs(network: nn.Module) -> list[tuple[str, str]]:
    """Each convolution inside a sequence and the layer after it."""
    return [
        (f"{name}.{index}", f"{name}.{index + 1}")
        for name, part in network.named_modules()
        if isinstance(part, nn.Sequential)
        for index, layer in enumerate(part)
        if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d))
    ]


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
