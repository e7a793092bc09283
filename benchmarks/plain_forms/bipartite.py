"""The complete-bipartite network of kCBAC-Net as its formula reads: every skip resized by itself.

Paper: Gu et al., "kCBAC-Net: Deeply Supervised Complete Bipartite Networks with Asymmetric Convolutions for
Medical Image Segmentation", MICCAI 2021, doi:10.1007/978-3-030-87193-2_32. There is no released code.
Axes: B batch, C channels, D H W space.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from common.networks.blocks.bipartite import CompleteBipartiteNet
from common.networks.blocks.upsample import upsample
from common.networks.kcbac import KCBACNet


class PlainBipartiteNet(nn.Module):
    """Each decoder pools every finer encoder in one step, and upsamples every coarser one before its adapter.

    Args:
        network: with all skips; its layers are shared.
    """

    def __init__(self, network: CompleteBipartiteNet) -> None:
        super().__init__()
        self.encoders, self.bridge, self.decoders = network.encoders, network.bridge, network.decoders

    def forward(self, image: Tensor, guests: list[list[Tensor]]) -> list[Tensor]:
        """What :class:`~common.networks.blocks.bipartite.CompleteBipartiteNet` returns for the same."""
        outputs: list[Tensor] = []
        features = image
        for block, received in zip([*self.encoders, self.bridge], guests):
            outputs.append(block(torch.cat([features, *received], 1)))
            features = pooled(outputs[-1], 2) if len(outputs) <= len(self.encoders) else outputs[-1]
        encoded = outputs[:-1]
        for index, decoder in enumerate(self.decoders):
            level = len(encoded) - 1 - index
            parts = [decoder.up(features)]
            for source, entry in enumerate(encoded):
                if source <= level:
                    parts.append(pooled(entry, 2 ** (level - source)))
                else:
                    factor = 2 ** (source - level)
                    parts.append(decoder.adapters[source - level - 1](upsample(entry, factor)))
            features = decoder.block(torch.cat([*parts, *guests[len(encoded) + 1 + index]], 1))
            outputs.append(features)
        return outputs


def pooled(features: Tensor, factor: int) -> Tensor:
    """Maxima over cubes or squares of ``factor`` voxels; 1 returns the features themselves."""
    if factor == 1:
        return features
    return F.max_pool3d(features, factor) if features.dim() == 5 else F.max_pool2d(features, factor)


def plain_form(network: KCBACNet) -> KCBACNet:
    """A copy of a network that computes what the paper prints, one operation after the other.

    Args:
        network: of skips ``reduce`` or ``raw``, not fused.

    Returns:
        The copy, in the mode of ``network``.
    """
    plain = copy.deepcopy(network)
    plain.networks = nn.ModuleList(PlainBipartiteNet(part) for part in plain.networks)
    return plain.train(network.training)
