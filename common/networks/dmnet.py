"""DMNet: two different decoders on one encoder, which learn from each other on unlabeled images.

Paper: Fang and Li, "DMNet: Difference Minimization Network for Semi-supervised Segmentation in Medical
Images", MICCAI 2020, doi:10.1007/978-3-030-59710-8_52.
Implements: the segmentation network, and "Separate DMNet" of the ablation. The other rows of the tables train
the same network in another way.
Differs from the paper: nothing that it states. It names the parts (ResNet-101, U-Net, DeepLab v3+) and leaves
their sizes open: of those, see :mod:`common.networks.encoders.resnet`,
:mod:`common.networks.blocks.unet_decoder` and :mod:`common.networks.blocks.deeplab_decoder`.
Axes: B batch, K classes, H W space.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.networks.blocks.conv_norm_folding import FoldableNetwork
from common.networks.blocks.deeplab_decoder import FINE_WIDTH, DeepLabDecoder
from common.networks.blocks.deeplab_decoder import WIDTH as DEEPLAB_WIDTH
from common.networks.blocks.fcn_decoder import FCNDecoder
from common.networks.blocks.unet_decoder import WIDTHS, UNetDecoder
from common.networks.encoders.resnet import WIDTH, DilatedResNet

DECODERS = ("unet", "deeplab")
KINDS = (*DECODERS, "fcn")


def mean_log_probabilities(stacked: Tensor) -> Tensor:
    """Logarithm of the branches' averaged softmax probabilities.

    It serves as logits of the average: its softmax is the average itself, and its largest entry the average's
    class. Averaged logits would be another prediction. Nothing overflows, however sure a branch is.

    Args:
        stacked: float (B, branches, K, H, W), logits.

    Returns:
        (B, K, H, W), none above 0.

    Source: Fang 2020, inference by the mean of the two probability maps.
    """
    return torch.logsumexp(stacked.log_softmax(2), 1) - math.log(stacked.shape[1])


class DMNet(FoldableNetwork):
    """Difference minimization network, for images in 2D.

    The defaults are the published model. Training needs two images per batch where a decoder is ``deeplab``,
    see :class:`~common.networks.blocks.deeplab_decoder.NormalizedAtrousPyramid`.

    Args:
        in_channels: channels of the image.
        num_classes: classes including background, K.
        encoder: one of ``RESNETS`` of :mod:`common.networks.encoders.resnet`.
        decoders: of the two branches, each ``unet``, ``deeplab`` or ``fcn``. Two of a kind differ by their
            initial weights alone. A single one makes a plain network, such as that of the baseline semiFCN
            (``fcn``).
        separate: an encoder per decoder ("Separate DMNet") instead of a shared one.
        width: channels of the encoder's first level, a multiple of 4. All others keep their proportion to it
            (64: the published network).
        fused: deployment form: normalizations folded into the convolutions. Accepts checkpoints of the
            training form; cannot be trained.

    Raises:
        ValueError: an argument outside the values above.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        encoder: str = "resnet101",
        decoders: Sequence[str] = DECODERS,
        separate: bool = False,
        width: int = WIDTH,
        fused: bool = False,
    ) -> None:
        super().__init__()
        if len(decoders) not in (1, 2) or any(decoder not in KINDS for decoder in decoders):
            raise ValueError(f"decoders must be one or two of {KINDS}, got {decoders!r}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, background included, got {num_classes}")
        if width < 4 or width % 4:
            raise ValueError(f"width must be a positive multiple of 4, got {width}")
        self.encoders = nn.ModuleList(
            DilatedResNet(encoder, in_channels, width) for _ in range(len(decoders) if separate else 1)
        )
        channels = self.encoders[0].channels
        self.decoders = nn.ModuleList(_decoder(kind, channels, num_classes, width) for kind in decoders)
        self.decoders.apply(_initialize)
        if fused:
            self.fuse()

    def forward(self, image: Tensor) -> Tensor:
        """Logits of both branches in training, of their average in evaluation.

        Args:
            image: float (B, in_channels, H, W), any size. Multiples of 16, as in the paper, are upsampled by
                exactly 2 and 4; other sizes are resized to those of the encoder's levels.

        Returns:
            Training: (B, branches, K, H, W), the logits of each. Evaluation: (B, K, H, W), the logarithm of
            the averaged probabilities, see :func:`mean_log_probabilities`. One tensor in both modes.

        Raises:
            RuntimeError: a fused network in training mode.
        """
        if self.fused and self.training:
            raise RuntimeError("a fused network cannot be trained; build it with fused=False")
        pyramids: list[list[Tensor]] = []
        for encoder in self.encoders:
            pyramids.append(encoder(image))
        branches: list[Tensor] = []
        for index, decoder in enumerate(self.decoders):
            branches.append(decoder(pyramids[index % len(pyramids)], image))
        stacked = torch.stack(branches, 1)
        return stacked if self.training else mean_log_probabilities(stacked)


def _decoder(kind: str, channels: Sequence[int], num_classes: int, width: int) -> nn.Module:
    if kind == "unet":
        return UNetDecoder(channels, num_classes, [size * width // WIDTH for size in WIDTHS])
    if kind == "fcn":
        return FCNDecoder(channels, num_classes)
    return DeepLabDecoder(channels, num_classes, DEEPLAB_WIDTH * width // WIDTH, FINE_WIDTH * width // WIDTH)


def _initialize(module: nn.Module) -> None:
    """He-normal by inputs, zero biases.

    By outputs, as in the encoder, a classifier of few classes would start with logits far from 0.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
