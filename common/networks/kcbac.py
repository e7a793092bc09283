"""kCBAC-Net: k complete-bipartite networks, asymmetric convolutions and deep supervision, in 2D and 3D.

Paper: Gu et al., "kCBAC-Net: Deeply Supervised Complete Bipartite Networks with Asymmetric Convolutions for
Medical Image Segmentation", MICCAI 2021, doi:10.1007/978-3-030-87193-2_32. The single network comes from Chen
et al., "Neuron Segmentation Using Deep Complete Bipartite Networks", MICCAI 2017, arXiv:1705.11053.
Implements: sections 2.1-2.3; every row of Tables 1-3 that is a form of this network.
Differs from the paper: nothing that the paper states. Where it is silent (width, resizing of skips, which
layers of the k networks meet, form of the auxiliary heads), the choices are ours and listed in the bundle's
README.
Axes: B batch, C channels, K classes, D H W space.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from common.networks.blocks.asymmetric_conv import fuse_asymmetric
from common.networks.blocks.bipartite import SKIPS, CompleteBipartiteNet, block_widths
from common.networks.blocks.upsample import upsample

CROSSINGS = ("same_scale", "same_index", "output_only", "none")


def crossing_sources(num_scales: int, cross: str) -> list[list[int]]:
    """Which blocks of the coarser network feed each block of the finer one.

    Blocks are numbered in order of computation: encoders ``0 .. S-1``, bridge ``S``, decoders ``S+1 .. 2S``
    from deep to shallow.

    Args:
        num_scales: encoders per network, S.
        cross: ``same_scale`` joins layers of equal size ("commensurate" layers, the paper's wiring as we read
            it), ``same_index`` layers of equal name (upsampled by 2), ``output_only`` the coarser network's
            last decoder to the second encoder, ``none`` nothing.

    Returns:
        For every receiving block the numbers of its sources.

    Raises:
        ValueError: unknown wiring.
    """
    blocks = 2 * num_scales + 1
    if cross == "same_scale":
        sources = [[index - 1] if index > 0 else [] for index in range(num_scales)]
        sources.append([num_scales - 1, num_scales + 1])
        return sources + [
            [index + 1] if index + 1 < blocks else [] for index in range(num_scales + 1, blocks)
        ]
    if cross == "same_index":
        return [[index] for index in range(blocks)]
    if cross == "output_only":
        return [[blocks - 1] if index == 1 else [] for index in range(blocks)]
    if cross == "none":
        return [[] for _ in range(blocks)]
    raise ValueError(f"cross must be one of {CROSSINGS}, got {cross!r}")


class KCBACNet(nn.Module):
    """k complete-bipartite networks on a pyramid of the input, the coarser feeding the finer.

    Network t works on the image after t-1 max-poolings and shares no weights with the others. The defaults
    are the published model; the arguments reach every other row of the paper's tables.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        num_classes: classes including background, K.
        k: number of networks (the paper's k; published model: 2).
        base_width: channels of the first encoder, doubled at each further scale. The paper does not state it;
            its memory and time figures fit 64 in 2D and 32 in 3D.
        num_scales: encoders (and decoders) per network; the paper's 5, fewer for small volumes.
        skips: ``reduce`` or ``raw`` connect every encoder to every decoder (25 skips at 5 scales), with
            coarser features reduced to the decoder's width or kept whole; ``same_level`` is the U-Net's skip.
        cross: wiring between the networks, see :func:`crossing_sources`. ``none`` lets them meet only in the
            head, which then sums one classifier per network.
        asymmetric: ``none``, ``line`` or ``plane``, see
            :func:`~common.networks.blocks.asymmetric_conv.branch_kernels`.
        deep_supervision: add the auxiliary heads on the bridge and first decoder of network 2 and the bridge
            of network 1 (for k = 1 the last only).
        fused: deployment form: asymmetric convolutions fused, auxiliary heads left out. Accepts checkpoints
            of the training form; cannot be trained.

    Raises:
        ValueError: an argument outside the values above.
    """

    # TorchScript cannot infer the type of lists that may be empty, and needs real types here: this module
    # must not postpone the evaluation of annotations.
    sources: list[list[int]]
    taps: list[tuple[int, int]]

    def __init__(  # noqa: PLR0913  (each argument is a factor of the paper's tables)
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        k: int = 2,
        base_width: int = 64,
        num_scales: int = 5,
        skips: str = "reduce",
        cross: str = "same_scale",
        asymmetric: str = "line",
        deep_supervision: bool = True,
        fused: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(spatial_dims, k, num_scales, skips)
        self.spatial_dims = spatial_dims
        self.fused = fused
        self.guest_scale = 2 if cross == "same_index" else 1
        self.size_multiple = 2 ** (num_scales + k - 1)
        self.sources = crossing_sources(num_scales, cross)
        widths = block_widths(base_width, num_scales)
        guests = [sum(widths[source] for source in sources) for sources in self.sources]
        alone = [0] * len(widths)
        self.networks = nn.ModuleList(
            CompleteBipartiteNet(
                spatial_dims,
                in_channels,
                widths,
                skips,
                asymmetric,
                fused,
                guest_channels=alone if coarsest else guests,
            )
            for coarsest in [True] + [False] * (k - 1)
        )
        classifier = Conv[Conv.CONV, spatial_dims]
        head_count = k if cross == "none" else 1
        self.heads = nn.ModuleList(classifier(base_width, num_classes, 1) for _ in range(head_count))
        # (network counted from the finest, block): aux1, aux2, aux3 of the paper.
        taps = [(1, num_scales), (1, num_scales + 1), (0, num_scales)]
        self.taps = [tap for tap in taps if tap[0] < k] if deep_supervision and not fused else []
        self.auxiliary_heads = nn.ModuleList(
            classifier(widths[block], num_classes, 1) for _, block in self.taps
        )
        self.apply(_initialize)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the image, at any spatial size.

        Args:
            image: float (B, in_channels, [D,] H, W).

        Returns:
            (B, K, [D,] H, W). In training with deep supervision (B, 1 + auxiliary heads, K, [D,] H, W), the
            main output first, all at full size: one tensor in both modes keeps the network scriptable.

        Raises:
            RuntimeError: a fused network in training mode.
        """
        if self.fused and self.training:
            raise RuntimeError("a fused network cannot be trained; build it with fused=False")
        margins = self._margins(image)
        padded = F.pad(image, margins, mode="replicate") if sum(margins) > 0 else image
        outputs = self._blocks(padded)
        logits = self.heads[0](outputs[0][-1])
        for index, head in enumerate(self.heads):
            if index > 0:
                logits = logits + upsample(head(outputs[index][-1]), 1 << index)
        logits = self._crop(logits, margins)
        if not self.training or len(self.taps) == 0:
            return logits
        stacked = [logits]
        for index, head in enumerate(self.auxiliary_heads):
            network, block = self.taps[index]
            features = outputs[network][block]
            factor = padded.shape[-1] // features.shape[-1]
            stacked.append(self._crop(upsample(head(features), factor), margins))
        return torch.stack(stacked, dim=1)

    @torch.jit.unused
    def fuse(self) -> None:
        """Turn this network into its deployment form, for good: it cannot be trained any more."""
        fuse_asymmetric(self, inplace=True)
        self.fused = True
        self.taps = []
        self.auxiliary_heads = nn.ModuleList()

    def _blocks(self, image: Tensor) -> list[list[Tensor]]:
        """Outputs of all blocks, (network counted from the finest, block)."""
        pyramid = [image]
        for _ in range(len(self.networks) - 1):
            pyramid.append(_halve(pyramid[-1]))
        outputs: list[list[Tensor]] = []
        for index, network in enumerate(self.networks):
            guests: list[list[Tensor]] = []
            for sources in self.sources:
                received: list[Tensor] = []
                if index > 0:
                    received = [upsample(outputs[0][source], self.guest_scale) for source in sources]
                guests.append(received)
            outputs.insert(0, network(pyramid[len(self.networks) - 1 - index], guests))
        return outputs

    def _margins(self, image: Tensor) -> list[int]:
        """Padding in the order of ``torch.nn.functional.pad``: last axis first, both sides of each."""
        margins: list[int] = []
        for axis in range(self.spatial_dims):
            size = image.shape[-1 - axis]
            missing = (self.size_multiple - size % self.size_multiple) % self.size_multiple
            margins.append(missing // 2)
            margins.append(missing - missing // 2)
        return margins

    def _crop(self, logits: Tensor, margins: list[int]) -> Tensor:
        for axis in range(self.spatial_dims):
            size = logits.shape[-1 - axis] - margins[2 * axis] - margins[2 * axis + 1]
            logits = logits.narrow(-1 - axis, margins[2 * axis], size)
        return logits

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.fused:
            for key in [k for k in state_dict if k.startswith(f"{prefix}auxiliary_heads.")]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)


def _halve(image: Tensor) -> Tensor:
    return F.max_pool3d(image, 2) if image.dim() == 5 else F.max_pool2d(image, 2)


def _check_arguments(spatial_dims: int, k: int, num_scales: int, skips: str) -> None:
    allowed: Sequence[tuple[str, Any, bool, str]] = (
        ("spatial_dims", spatial_dims, spatial_dims in (2, 3), "2 or 3"),
        ("k", k, k >= 1, "at least 1"),
        ("num_scales", num_scales, num_scales >= 2, "at least 2"),
        ("skips", skips, skips in SKIPS, f"one of {SKIPS}"),
    )
    for name, value, good, expected in allowed:
        if not good:
            raise ValueError(f"{name} must be {expected}, got {value!r}")


def _initialize(module: nn.Module) -> None:
    """He-normal for all convolutions, zero biases.

    The classifiers, too: started 50 times smaller, as summed branches without a normalization after them
    might suggest, the network hardly leaves the background for hundreds of steps.
    """
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
