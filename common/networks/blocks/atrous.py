"""Atrous pyramids in place of the filters of ones: two rows of M2SNet's comparison of units.

Paper: Zhao et al., "M2SNet: Multi-scale in Multi-scale Subtraction Network for Medical Image Segmentation",
2023, arXiv:2303.10894, Table VIII. The pyramids come from Chen et al., "Rethinking Atrous Convolution for
Semantic Image Segmentation", 2017, arXiv:1706.05587 (ASPP), and Yang et al., "DenseASPP for Semantic
Segmentation in Street Scenes", CVPR 2018, doi:10.1109/CVPR.2018.00388 (DenseASPP).
Implements: what follows the single-scale difference in each unit, see
:class:`~common.networks.blocks.subtraction.SubtractionPyramid`.
Differs from the paper: unknown. It gives two totals per row, and says neither where the pyramids stand nor
what their rates and widths are. These are our choice: one pyramid per unit, the rates of the two sources, the
width of the unit. In parameters, and in multiplications of all convolutions at 256x256 pixels:
- ``aspp``: 29,092,009 and 13.10 G; the paper has 29.2 M and 13.8 G.
- ``dense_aspp``: 29,177,769 and 13.48 G; the paper has 29.6 M and 17.5 G. No pyramid that each unit runs once
  can have these totals: beside M2SNet they are 8.6 G for 1.9 M parameters, and 4,500 pixels per parameter are
  more than the largest unit has, 64x64.
Axes: B batch, C channels, H W space.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

RATES = (6, 12, 18)
DENSE_RATES = (3, 6, 12, 18, 24)


class AtrousConv(nn.Sequential):
    """Convolution with holes that keeps the size, batch normalization and ReLU.

    (B, in_channels, H, W) to (B, out_channels, H, W).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd number of taps along each axis.
        rate: distance between taps, in pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, rate: int = 1) -> None:
        margin = kernel_size // 2 * rate
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=margin, dilation=rate, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    @torch.jit.unused
    def folding_pairs(self) -> list[tuple[str, str]]:
        """Names of the convolution and its normalization, for deployment."""
        return [("0", "1")]


class AtrousPyramid(nn.Module):
    """ASPP: a pixel, three rates and the whole image side by side, then a 1x1 convolution of all of them.

    The mean over the image passes a convolution with a bias and a ReLU, but no normalization, which could not
    be trained on one value per channel, that is, on one image.

    Args:
        channels: of the input, of each branch and of the output.

    Source: Chen 2017, section 3.3, with its rates for an encoder of stride 16.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        pixel = AtrousConv(channels, channels, 1)
        wider = [AtrousConv(channels, channels, 3, rate) for rate in RATES]
        self.branches = nn.ModuleList([pixel, *wider])
        self.whole = nn.Conv2d(channels, channels, 1)
        self.projection = AtrousConv((len(RATES) + 2) * channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        parts = [branch(features) for branch in self.branches]
        whole = F.relu(self.whole(features.mean([2, 3], keepdim=True)))
        parts.append(whole.expand_as(features))
        return self.projection(torch.cat(parts, 1))


class DenseAtrousPyramid(nn.Module):
    """DenseASPP: five rates one after the other, each fed with the input and all results before it.

    Args:
        channels: of the input, of the 1x1 convolution before each rate and of the output; a rate adds half as
            many.

    Source: Yang 2018, with its rates; normalization and ReLU follow each convolution here, and
    there is no dropout.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        growth = channels // 2
        self.layers = nn.ModuleList(
            nn.Sequential(
                AtrousConv(channels + index * growth, channels, 1), AtrousConv(channels, growth, 3, rate)
            )
            for index, rate in enumerate(DENSE_RATES)
        )
        self.projection = AtrousConv(channels + len(DENSE_RATES) * growth, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        known = features
        for layer in self.layers:
            known = torch.cat([known, layer(known)], 1)
        return self.projection(known)


ATROUS_PYRAMIDS: dict[str, type[nn.Module]] = {"aspp": AtrousPyramid, "dense_aspp": DenseAtrousPyramid}
