"""Decoder of a fully convolutional network: class scores of the deepest level, resized to the image.

Paper: Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, arXiv:1411.4038.
Implements: its form without skips, which other papers put on a ResNet.
Differs from the paper: bilinear resizing instead of a transposed convolution.
Axes: B batch, C channels, K classes, H W space.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from common.networks.blocks.upsample import resize_like


class FCNDecoder(nn.Module):
    """1x1 convolution of the deepest level, then bilinear resizing.

    Args:
        channels: of the encoder's levels, fine to coarse.
        num_classes: classes including background, K.
    """

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels[-1], num_classes, 1)

    def forward(self, levels: list[Tensor], image: Tensor) -> Tensor:
        """Logits.

        Args:
            levels: float (B, C_i, H_i, W_i), fine to coarse.
            image: (B, channels, H, W), for its size.

        Returns:
            (B, K, H, W).
        """
        return resize_like(self.head(levels[-1]), image)
