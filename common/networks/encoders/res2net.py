"""Res2Net-50 v1b (26w x 4s) as a pyramid of five feature maps.

Paper: Gao et al., "Res2Net: A New Multi-scale Backbone Architecture", TPAMI 2021, arXiv:1904.01169. It is
the encoder of Zhao et al., "M2SNet: Multi-scale in Multi-scale Subtraction Network for Medical Image
Segmentation", 2023, arXiv:2303.10894.
Implements: the "v1b" form of the released weights: deep stem, average pooling before the shortcut.
Differs from the paper: no classifier. Parameters carry the names of the public ImageNet weights (the authors'
``res2net50_v1b_26w_4s`` and timm's ``res2net50d``), so either file loads as it is.
Axes: B batch, C channels, H W space.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

SCALE = 4
EXPANSION = 4
CLASSIFIER = ("fc.weight", "fc.bias")


class Res2NetBlock(nn.Module):
    """Bottleneck whose 3x3 convolution is split into groups that see each other in turn.

    Of the four groups three have a convolution; each adds the result of the group before to its input, and
    the last group passes through. In the first block of a stage the groups do not meet, and the last one is
    averaged over 3x3 pixels (zeros outside the image counted), even where the stride is 1.

    Args:
        in_channels: channels of the input.
        planes: a quarter of the channels of the output.
        stride: of the block, 1 or 2.
        is_first: first block of its stage, with a convolution in the shortcut.
    """

    def __init__(self, in_channels: int, planes: int, stride: int, is_first: bool) -> None:
        super().__init__()
        self.width = planes * 26 // 64
        self.is_first = is_first
        inner, out_channels = self.width * SCALE, planes * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.convs = nn.ModuleList(
            nn.Conv2d(self.width, self.width, 3, stride, 1, bias=False) for _ in range(SCALE - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(self.width) for _ in range(SCALE - 1))
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.pool = nn.AvgPool2d(3, stride, 1) if is_first else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if is_first:
            self.downsample = nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, 4 planes, H / stride, W / stride), sizes rounded up."""
        groups = torch.split(F.relu(self.bn1(self.conv1(features)), inplace=True), self.width, 1)
        parts: list[Tensor] = []
        for index, (conv, norm) in enumerate(zip(self.convs, self.bns)):
            group = groups[index]
            if index > 0 and not self.is_first:
                group = group + parts[-1]
            parts.append(F.relu(norm(conv(group)), inplace=True))
        parts.append(self.pool(groups[-1]))
        mixed = self.bn3(self.conv3(torch.cat(parts, 1)))
        return F.relu(mixed + self.downsample(features), inplace=True)

    @torch.jit.unused
    def folding_pairs(self) -> list[tuple[str, str]]:
        """Names of each convolution and its normalization, for deployment."""
        pairs = [("conv1", "bn1"), *((f"convs.{i}", f"bns.{i}") for i in range(SCALE - 1)), ("conv3", "bn3")]
        return [*pairs, ("downsample.1", "downsample.2")] if self.is_first else pairs


class Res2Net(nn.Module):
    """Feature pyramid of Res2Net v1b: five levels at strides 4, 4, 8, 16 and 32.

    Loading a state dict leaves out the two entries of the classifier, ``fc``, which a pyramid has no use for.

    Args:
        in_channels: channels of the image.
        width: channels of the first level; the later stages follow from it (64: the published network).
        blocks: bottlenecks per stage; the default is the "50".

    Attributes:
        channels: channels of the five levels.

    Raises:
        ValueError: a width that leaves a group without channels, or not four stages.
    """

    def __init__(self, in_channels: int = 3, width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3)) -> None:
        super().__init__()
        if width < 4 or width % 2:
            raise ValueError(f"width must be even and at least 4, got {width}")
        if len(blocks) != 4 or min(blocks) < 1:
            raise ValueError(f"blocks must be four positive numbers, got {blocks}")
        self.channels = (width, *(width * EXPANSION * 2**stage for stage in range(4)))
        half = width // 2
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, half, 3, 2, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, 1, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, width, 3, 1, 1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(width)
        stages = [
            _stage(self.channels[index], width * 2**index, count, stride=1 if index == 0 else 2)
            for index, count in enumerate(blocks)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        """Five feature maps, fine to coarse, all non-negative.

        Args:
            image: float (B, in_channels, H, W), any size.

        Returns:
            (B, ``channels[i]``, H / s, W / s) for s = 4, 4, 8, 16, 32, sizes rounded up. The first is the
            stem after its pooling, so the first two are of equal size.
        """
        stem = F.relu(self.bn1(self.conv1(image)), inplace=True)
        levels = [F.max_pool2d(stem, 3, 2, 1)]
        levels.append(self.layer1(levels[-1]))
        levels.append(self.layer2(levels[-1]))
        levels.append(self.layer3(levels[-1]))
        levels.append(self.layer4(levels[-1]))
        return levels

    @torch.jit.unused
    def folding_pairs(self) -> list[tuple[str, str]]:
        """Names of the stem's convolutions and their normalizations; the blocks name their own."""
        return [("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in CLASSIFIER:
            state_dict.pop(prefix + key, None)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _stage(in_channels: int, planes: int, count: int, stride: int) -> nn.Sequential:
    later = [Res2NetBlock(planes * EXPANSION, planes, 1, is_first=False) for _ in range(count - 1)]
    return nn.Sequential(Res2NetBlock(in_channels, planes, stride, is_first=True), *later)
