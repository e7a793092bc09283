"""Decoder of DeepLab v3+: an atrous pyramid on the coarsest level, refined by one fine level.

Paper: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
ECCV 2018, arXiv:1802.02611. It is one of the two decoders of Fang and Li, "DMNet: Difference Minimization
Network for Semi-supervised Segmentation in Medical Images", MICCAI 2020, doi:10.1007/978-3-030-59710-8_52.
Implements: the pyramid with its rates for an encoder of stride 16, and the decoder.
Differs from the paper: plain convolutions, not separable ones, and no dropout, both our choice; DMNet's paper
says no more than the name.
Axes: B batch, C channels, K classes, H W space.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.networks.blocks.atrous import RATES, AtrousConv
from common.networks.blocks.upsample import resize_like

WIDTH, FINE_WIDTH = 256, 48


class NormalizedAtrousPyramid(nn.Module):
    """ASPP: a pixel, three rates and the whole image side by side, then a 1x1 convolution of all of them.

    All branches are alike, the pooled one included: it is normalized over the batch alone, one value per
    image and channel, and cannot be trained on a single image. That sets it apart from
    :class:`~common.networks.blocks.atrous.AtrousPyramid`.

    Args:
        in_channels: channels of the input.
        channels: of each branch and of the output.

    Source: Chen 2018, section 3.1, with its rates for an encoder of stride 16.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        wider = [AtrousConv(in_channels, channels, 3, rate) for rate in RATES]
        self.branches = nn.ModuleList([AtrousConv(in_channels, channels, 1), *wider])
        self.whole = AtrousConv(in_channels, channels, 1)
        self.projection = AtrousConv((len(RATES) + 2) * channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, H, W)."""
        parts = [branch(features) for branch in self.branches]
        whole = self.whole(features.mean([2, 3], keepdim=True))
        parts.append(whole.expand_as(parts[0]))
        return self.projection(torch.cat(parts, 1))


class DeepLabDecoder(nn.Module):
    """Decoder of DeepLab v3+, whose classifier works at the size of the second level.

    Training needs more than one image per batch, see :class:`NormalizedAtrousPyramid`.

    Args:
        channels: of the five levels, fine to coarse; the second and the last are used.
        num_classes: classes, K.
        width: channels of the pyramid and of the convolutions after it.
        fine_width: channels that the second level is reduced to.

    Raises:
        ValueError: not five levels, or a width below 1.

    Source: Chen 2018, section 3.1 and figure 2; the widths are the paper's.
    """

    def __init__(
        self, channels: Sequence[int], num_classes: int, width: int = WIDTH, fine_width: int = FINE_WIDTH
    ) -> None:
        super().__init__()
        if len(channels) != 5 or min(channels) < 1:
            raise ValueError(f"channels must be five positive numbers, got {channels}")
        for name, value in (("width", width), ("fine_width", fine_width)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.context = NormalizedAtrousPyramid(channels[4], width)
        self.reduce = AtrousConv(channels[1], fine_width, 1)
        self.refine = nn.Sequential(AtrousConv(width + fine_width, width, 3), AtrousConv(width, width, 3))
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, levels: list[Tensor], image: Tensor) -> Tensor:
        """Logits of the image.

        Args:
            levels: five of float (B, ``channels[i]``, H_i, W_i), fine to coarse.
            image: (B, any, H, W), for its size.

        Returns:
            (B, K, H, W), computed at the size of the second level and resized bilinearly.
        """
        fine = self.reduce(levels[1])
        context = resize_like(self.context(levels[4]), fine)
        logits = self.head(self.refine(torch.cat([context, fine], 1)))
        return resize_like(logits, image)
