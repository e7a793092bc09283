"""Discriminator that answers at every pixel of a mask, needed in training only.

Paper: Fang and Li, "DMNet: Difference Minimization Network for Semi-supervised Segmentation in Medical
Images", MICCAI 2020, doi:10.1007/978-3-030-59710-8_52.
Implements: the fully convolutional discriminator, which sees masks and no image.
Differs from the paper: it says three convolutions of stride 2 and three matching upsampling layers, with
ReLU. Kernels and widths are our choice, and the last layer has no ReLU: its outputs are logits.
Axes: B batch, K classes, H W space.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

KERNEL_SIZE, STRIDE = 4, 2


class PixelDiscriminator(nn.Module):
    """One logit per pixel: does a mask here look like one that a person drew?

    Each answer depends on a neighborhood of the mask. There is no normalization, so real and predicted masks
    may share a batch, or not.

    Args:
        num_classes: maps of a mask, K.
        widths: channels after each convolution, each of which halves the size.

    Raises:
        ValueError: a number below 1, or no width.
    """

    def __init__(self, num_classes: int = 2, widths: Sequence[int] = (64, 128, 256)) -> None:
        super().__init__()
        if len(widths) == 0 or min(widths) < 1:
            raise ValueError(f"widths must be positive numbers, at least one, got {widths}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.size_multiple = STRIDE ** len(widths)
        layers: list[nn.Module] = []
        given = num_classes
        for width in widths:
            layers += [nn.Conv2d(given, width, KERNEL_SIZE, STRIDE, 1), nn.ReLU(inplace=True)]
            given = width
        for width in (*widths[-2::-1], 1):
            layers += [nn.ConvTranspose2d(given, width, KERNEL_SIZE, STRIDE, 1), nn.ReLU(inplace=True)]
            given = width
        self.layers = nn.Sequential(*layers[:-1])
        self.apply(_initialize)

    def forward(self, masks: Tensor) -> Tensor:
        """Logits: high for what looks like a reference.

        Args:
            masks: float (B, K, H, W): a reference as one map per class, or probabilities, with their gradient
                where the segmentation network is to learn from the answer. H and W divisible by 8 (by 2 per
                width).

        Returns:
            (B, 1, H, W).

        Raises:
            ValueError: another size, or another number of maps than ``num_classes``.
        """
        height, width = masks.shape[-2], masks.shape[-1]
        if height % self.size_multiple != 0 or width % self.size_multiple != 0:
            raise ValueError(
                f"masks: expected a height and a width divisible by {self.size_multiple},"
                f" got {height} x {width}"
            )
        if masks.shape[1] != self.num_classes:
            raise ValueError(f"masks: expected {self.num_classes} maps, got {masks.shape[1]}")
        return self.layers(masks)


@torch.no_grad()
def _initialize(module: nn.Module) -> None:
    """He-normal by the inputs of an output pixel, zero biases.

    A transposed convolution spreads its taps over the pixels between its inputs, so a pixel gets one tap in
    four. Without normalizations signals would die out, or explode, if that were not counted.
    """
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        taps = KERNEL_SIZE**2 // (STRIDE**2 if isinstance(module, nn.ConvTranspose2d) else 1)
        nn.init.normal_(module.weight, std=(2 / (module.in_channels * taps)) ** 0.5)
        nn.init.zeros_(module.bias)
