"""Decoder of a U-Net on the five levels of an encoder, up to the size of the image.

Paper: Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
arXiv:1505.04597. It is one of the two decoders of Fang and Li, "DMNet: Difference Minimization Network for
Semi-supervised Segmentation in Medical Images", MICCAI 2020, doi:10.1007/978-3-030-59710-8_52.
Implements: upsampling, concatenation with the encoder's level, two convolutions; five times.
Differs from the paper: DMNet's says "U-Net" and no more. Widths, bilinear upsampling, normalization and the
fifth step, which has no level to join, are our choice.
Axes: B batch, C channels, K classes, H W space.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.networks.blocks.atrous import AtrousConv
from common.networks.blocks.upsample import resize_like

WIDTHS = (256, 128, 64, 32, 16)


class UNetDecoder(nn.Module):
    """Five steps from the coarsest level to the image, each joined by the next finer level but the last.

    Args:
        channels: of the five levels, fine to coarse.
        num_classes: classes, K.
        widths: channels after each step.

    Raises:
        ValueError: not five levels, or not five widths.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        for name, numbers in (("channels", channels), ("widths", widths)):
            if len(numbers) != 5 or min(numbers) < 1:
                raise ValueError(f"{name} must be five positive numbers, got {numbers}")
        self.steps = nn.ModuleList()
        given = channels[4]
        for joined, width in zip((*channels[3::-1], 0), widths):
            self.steps.append(
                nn.Sequential(AtrousConv(given + joined, width, 3), AtrousConv(width, width, 3))
            )
            given = width
        self.head = nn.Conv2d(given, num_classes, 1)

    def forward(self, levels: list[Tensor], image: Tensor) -> Tensor:
        """Logits of the image.

        Args:
            levels: five of float (B, ``channels[i]``, H_i, W_i), fine to coarse.
            image: (B, any, H, W), for its size.

        Returns:
            (B, K, H, W).
        """
        features = levels[4]
        for index, step in enumerate(self.steps):
            if index < 4:
                finer = levels[3 - index]
                features = torch.cat([resize_like(features, finer), finer], 1)
            else:
                features = resize_like(features, image)
            features = step(features)
        return self.head(features)
