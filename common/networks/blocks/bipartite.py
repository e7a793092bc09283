"""One complete-bipartite network: every encoder connected to every decoder (kCBAC-Net's CB-Net).

Paper: Chen et al., "Neuron Segmentation Using Deep Complete Bipartite Networks", MICCAI 2017,
arXiv:1705.11053; as used in Gu et al., MICCAI 2021, doi:10.1007/978-3-030-87193-2_32, section 2.1.
Differs from the paper: it does not say how features are resized. Finer ones are max-pooled; coarser ones pass
a 1x1 convolution to the decoder's width and linear upsampling (``reduce``), or are upsampled whole (``raw``).
Axes: B batch, C channels, D H W space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Pool
from torch import Tensor, nn

from common.networks.blocks.asymmetric_conv import AsymmetricBlock
from common.networks.blocks.upsample import upsample

SKIPS = ("reduce", "raw", "same_level")


def block_widths(base_width: int, num_scales: int) -> list[int]:
    """Output channels of all blocks in order: encoders, bridge, decoders from deep to shallow."""
    encoders = [base_width * 2**level for level in range(num_scales)]
    return [*encoders, base_width * 2**num_scales, *reversed(encoders)]


class BipartiteDecoder(nn.Module):
    """One decoder block with its resized skips.

    Concatenation order, fixed for checkpoints: upsampled block below, encoders fine to coarse, guests.

    Args:
        spatial_dims: 2 or 3.
        widths: output channels of all encoders.
        level: level of this decoder, 0 = finest.
        skips: ``reduce``, ``raw`` or ``same_level``.
        asymmetric: form of the convolutions.
        fused: deployment form.
        guest_channels: channels received from a coarser network.
    """

    def __init__(
        self,
        spatial_dims: int,
        widths: Sequence[int],
        level: int,
        skips: str,
        asymmetric: str,
        fused: bool,
        guest_channels: int,
    ) -> None:
        super().__init__()
        width = widths[level]
        coarser = [] if skips == "same_level" else list(widths[level + 1 :])
        finer = [] if skips == "same_level" else list(widths[:level])
        reduce = skips == "reduce"
        self.up = Conv[Conv.CONVTRANS, spatial_dims](2 * width, width, kernel_size=2, stride=2)
        # Reducing before upsampling gives the same values as after it and costs 4 or 8 times less.
        self.adapters = nn.ModuleList(
            Conv[Conv.CONV, spatial_dims](channels, width, 1) if reduce else nn.Identity()
            for channels in coarser
        )
        skip_channels = sum(finer) + width + (len(coarser) * width if reduce else sum(coarser))
        self.block = AsymmetricBlock(
            spatial_dims, width + skip_channels + guest_channels, width, asymmetric, fused
        )

    def forward(
        self, below: Tensor, finer: list[Tensor], coarser: list[Tensor], guests: list[Tensor]
    ) -> Tensor:
        """Features of this level.

        Args:
            below: (B, 2C, [D/2,] H/2, W/2), the block one level deeper.
            finer: encoder features already pooled to this level, this level's own last.
            coarser: encoder features of the deeper levels, at their own sizes.
            guests: features of a coarser network, at this level's size.

        Returns:
            (B, C, [D,] H, W).
        """
        parts = [self.up(below)] + finer
        for index, adapter in enumerate(self.adapters):
            parts.append(upsample(adapter(coarser[index]), 1 << (index + 1)))
        return self.block(torch.cat(parts + guests, dim=1))


class CompleteBipartiteNet(nn.Module):
    """Encoders, bridge and decoders of one network, with optional guests at every block.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the (pooled) image.
        widths: output channels of all blocks, see :func:`block_widths`.
        skips: ``reduce``, ``raw`` or ``same_level``.
        asymmetric: form of the convolutions.
        fused: deployment form.
        guest_channels: for every block, channels received from a coarser network.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        widths: Sequence[int],
        skips: str,
        asymmetric: str,
        fused: bool,
        guest_channels: Sequence[int],
    ) -> None:
        super().__init__()
        scales = len(widths) // 2
        self.shares_pyramid = skips != "same_level"
        inputs = [in_channels, *widths[:scales]]
        down = [
            AsymmetricBlock(spatial_dims, inputs[i] + guest_channels[i], widths[i], asymmetric, fused)
            for i in range(scales + 1)
        ]
        self.encoders = nn.ModuleList(down[:scales])
        self.bridge = down[scales]
        self.pool = Pool[Pool.MAX, spatial_dims](2)
        self.decoders = nn.ModuleList(
            BipartiteDecoder(
                spatial_dims,
                widths[:scales],
                level,
                skips,
                asymmetric,
                fused,
                guest_channels[2 * scales - level],
            )
            for level in reversed(range(scales))
        )

    def forward(self, image: Tensor, guests: list[list[Tensor]]) -> list[Tensor]:
        """Outputs of all blocks, each after its last ReLU.

        Args:
            image: (B, in_channels, [D,] H, W), every side divisible by 2 to the number of encoders.
            guests: for every block the tensors to concatenate to its input (empty lists for none).

        Returns:
            Encoders fine to coarse, bridge, decoders coarse to fine.
        """
        outputs: list[Tensor] = []
        finer: list[list[Tensor]] = []
        features = image
        pooled: list[Tensor] = []
        for index, encoder in enumerate(self.encoders):
            features = encoder(torch.cat([features] + guests[index], dim=1))
            outputs.append(features)
            # Pooling by 2 again and again equals pooling by 4, 8, ...: one pyramid serves all decoders.
            at_level = pooled + [features] if self.shares_pyramid else [features]
            finer.append(at_level)
            pooled = [self.pool(entry) for entry in at_level]
            features = pooled[-1]
        scales = len(finer)
        features = self.bridge(torch.cat([features] + guests[scales], dim=1))
        outputs.append(features)
        for index, decoder in enumerate(self.decoders):
            level = scales - 1 - index
            features = decoder(
                features, finer[level], outputs[level + 1 : scales], guests[scales + 1 + index]
            )
            outputs.append(features)
        return outputs
