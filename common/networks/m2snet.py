"""M2SNet: a pyramid of multi-scale subtraction units between a Res2Net encoder and an additive decoder.

Paper: Zhao et al., "M2SNet: Multi-scale in Multi-scale Subtraction Network for Medical Image Segmentation",
2023, arXiv:2303.10894. MSNet comes from Zhao et al., "Automatic Polyp Segmentation via Multi-scale
Subtraction Network", MICCAI 2021.
Implements: section III; the rows of Tables VII and VIII that change the units.
Differs from the paper, as the authors' released code does:
- Level 1 enters the pyramid without a convolution of its own.
- The complementary feature of level 5 is a second convolution of the encoder's output, that of level 4 has no
  convolution, and none includes the encoder's own feature (equation 3 sums from order 1).
- Of the units, see :mod:`common.networks.blocks.subtraction`.
Axes: B batch, C channels, K classes, H W space.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from common.networks.blocks.conv_norm_folding import FoldableNetwork
from common.networks.blocks.subtraction import ConvNormReLU, SubtractionPyramid
from common.networks.blocks.upsample import resize_like
from common.networks.encoders.res2net import Res2Net


class M2SNet(FoldableNetwork):
    """Multi-scale in multi-scale subtraction network, for images in 2D.

    The defaults are the published model; the arguments reach the other rows of the paper's ablation.

    Args:
        in_channels: channels of the image. Public weights of the encoder need 3.
        out_channels: classes, K, one map of logits each: 1 for a binary mask (sigmoid). The paper does not
            show the form for several classes; only the last convolution depends on K.
        unit: ``released``, ``paper`` or ``single``, see
            :class:`~common.networks.blocks.subtraction.MultiScaleDifference`; ``aspp`` or ``dense_aspp``, see
            :mod:`common.networks.blocks.atrous`.
        operation: ``subtract`` or ``add``.
        num_orders: highest order of the units, 1 (no units: the decoder gets the encoder's levels, our
            reading of the baseline in Table VII) to 5.
        width: channels of the pyramid and of the encoder's first level, which must agree.
        blocks: bottlenecks per stage of the encoder.
        fused: deployment form: normalizations folded into the convolutions. Accepts checkpoints of the
            training form; cannot be trained.

    Raises:
        ValueError: an argument outside the values above.
    """

    def __init__(  # noqa: PLR0913  (each argument is a factor of the paper's tables)
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        unit: str = "released",
        operation: str = "subtract",
        num_orders: int = 5,
        width: int = 64,
        blocks: Sequence[int] = (3, 4, 6, 3),
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = Res2Net(in_channels, width, blocks)
        channels = self.encoder.channels
        coarsest = 5 if num_orders > 1 else 4
        self.reduce = nn.ModuleDict(
            {str(level): ConvNormReLU(channels[level - 1], width) for level in range(coarsest, 1, -1)}
        )
        self.pyramid = SubtractionPyramid(width, unit, operation, num_orders)
        self.deepest = ConvNormReLU(channels[-1], width)
        self.complements = nn.ModuleDict({str(level): ConvNormReLU(width, width) for level in (3, 2, 1)})
        self.decoders = nn.ModuleDict({str(level): ConvNormReLU(width, width) for level in (4, 3, 2)})
        self.head = nn.Conv2d(width, out_channels, 3, padding=1)
        if fused:
            self.fuse()

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the image, in training and in evaluation.

        Args:
            image: float (B, in_channels, H, W); any size from 32 on, the network was trained on 224 to 352.

        Returns:
            (B, K, H, W), computed at a quarter of the size and resized bilinearly.

        Raises:
            RuntimeError: a fused network in training mode.
        """
        if self.fused and self.training:
            raise RuntimeError("a fused network cannot be trained; build it with fused=False")
        levels = self.encoder(image)
        features: list[Tensor] = []
        for index, reduce in enumerate(self.reduce.values()):
            features.append(reduce(levels[len(self.reduce) - index]))
        features.append(levels[0])
        sums = self.pyramid(features)
        decoded = resize_like(self.deepest(levels[4]), sums[0]) + sums[0]
        for index, (decoder, complement) in enumerate(zip(self.decoders.values(), self.complements.values())):
            finer = complement(sums[index + 1])
            decoded = resize_like(decoder(decoded), finer) + finer
        return resize_like(self.head(decoded), image)


class MSNet(M2SNet):
    """Multi-scale subtraction network: M2SNet with units that compare single pixels only.

    Args:
        in_channels: channels of the image.
        out_channels: classes, K.
        **arguments: further arguments of :class:`M2SNet`, except ``unit``.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 1, **arguments: Any) -> None:
        super().__init__(in_channels, out_channels, unit="single", **arguments)
