"""MONAI's ResNets in 2D as a pyramid of five feature maps, the last two at stride 16.

Paper: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385. It is the
encoder of Fang and Li, "DMNet: Difference Minimization Network for Semi-supervised Segmentation in Medical
Images", MICCAI 2020, doi:10.1007/978-3-030-59710-8_52.
Implements: the blocks of all depths, as MONAI has them, with the paper's strides elsewhere.
Differs from the paper:
- no classifier.
- the last stage keeps its size: its stride is taken out, and what follows the strided convolution is dilated
  in its place, as in Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
  Segmentation", ECCV 2018, arXiv:1802.02611.
- in blocks with a 1x1 convolution first, the 3x3 convolution has the stride, as is usual today.
Axes: B batch, C channels, H W space.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from monai.networks.nets import resnet10, resnet18, resnet34, resnet50, resnet101, resnet152, resnet200
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from torch import Tensor, nn

RESNETS = {
    "resnet10": resnet10,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "resnet200": resnet200,
}
WIDTH = 64


class DilatedResNet(nn.Module):
    """Feature pyramid of a ResNet: five levels at strides 2, 4, 8, 16 and 16.

    At every second pixel the last level has what the network with stride 32 would have there, so a dilated
    stage is the same function on a finer grid. Convolutions start He-normal by outputs (MONAI's choice).

    Args:
        name: one of ``RESNETS``.
        in_channels: channels of the image.
        width: channels of the first level; all others follow from it (64: the published networks).

    Attributes:
        channels: channels of the five levels.

    Raises:
        ValueError: unknown name, or a width below 1.
    """

    def __init__(self, name: str = "resnet101", in_channels: int = 1, width: int = WIDTH) -> None:
        super().__init__()
        if name not in RESNETS:
            raise ValueError(f"encoder must be one of {tuple(RESNETS)}, got {name!r}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        whole = RESNETS[name](
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            widen_factor=width / WIDTH,
            feed_forward=False,
            bias_downsample=False,
        )
        self.conv1, self.bn1 = whole.conv1, whole.bn1
        self.layer1, self.layer2 = whole.layer1, whole.layer2
        self.layer3, self.layer4 = whole.layer3, whole.layer4
        expansion = self.layer1[0].expansion
        self.channels = (width, *(width * 2**stage * expansion for stage in range(4)))
        _dilate(self.layer4)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Five feature maps, fine to coarse, all non-negative.

        Args:
            image: float (B, in_channels, H, W), any size.

        Returns:
            (B, ``channels[i]``, H / s, W / s) for s = 2, 4, 8, 16, 16, sizes rounded up.
        """
        levels = [F.relu(self.bn1(self.conv1(image)), inplace=True)]
        levels.append(self.layer1(F.max_pool2d(levels[0], 3, 2, 1)))
        levels.append(self.layer2(levels[-1]))
        levels.append(self.layer3(levels[-1]))
        levels.append(self.layer4(levels[-1]))
        return levels

    @torch.jit.unused
    def folding_pairs(self) -> list[tuple[str, str]]:
        """Names of each convolution and its normalization, for deployment."""
        pairs = [("conv1", "bn1")]
        for name, block in self.named_modules():
            if not isinstance(block, (ResNetBlock, ResNetBottleneck)):
                continue
            count = 3 if isinstance(block, ResNetBottleneck) else 2
            pairs += [(f"{name}.conv{i}", f"{name}.bn{i}") for i in range(1, count + 1)]
            if block.downsample is not None:
                pairs.append((f"{name}.downsample.0", f"{name}.downsample.1"))
        return pairs


def _dilate(stage: nn.Sequential) -> None:
    """Take the stride out of a stage; no 3x3 convolution comes before the one that has it."""
    for conv in stage.modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        if conv.stride == (2, 2):
            conv.stride = (1, 1)
        elif conv.kernel_size == (3, 3):
            conv.dilation = conv.padding = (2, 2)
