"""SKCDF: a V-Net whose channels attend to those of other scans, with a decoder for each kind of label.

Paper: Zhang et al., "A Semantic Knowledge Complementarity based Decoupling Framework for Semi-supervised
Class-imbalanced Medical Image Segmentation" (SKCDF), CVPR 2025.
Implements: the network in the form of the released code, the rows of the supplement's Tables 5 and 6, and the
V-Net that it is compared to.
Differs from the paper:
- any number of pairs and any even grid, see :mod:`common.networks.blocks.channel_attention`.
- in evaluation the batch is not doubled, which has no effect, and the balanced head is not computed.
- one forward computes both passes of a training step, so that parallel wrappers see one forward and one
  backward.
- ``parallel`` adds the two blocks; the supplement does not say how it joins them.
Axes: B batch, b pairs, K classes, D H W space.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.networks.blocks.channel_attention import ChannelAttention
from common.networks.blocks.conv_norm_folding import FoldableNetwork
from common.networks.encoders.vnet import VNetDecoder, VNetEncoder

# Blocks in the order in which they are applied.
ATTENTIONS = {
    "none": (),
    "local": ("local",),
    "global": ("global",),
    "local_global": ("local", "global"),
    "global_local": ("global", "local"),
    "parallel": ("local", "global"),
}
PAIRINGS = ("cross", "self")
STRIDE = 16
_TRAINING_ONLY = ("labeled_decoder.", "unlabeled_decoder.balanced_head.")


class SKCDF(FoldableNetwork):
    """Semantic knowledge complementarity based decoupling network, for volumes.

    The defaults are the published model. The supervised V-Net is ``attention="none", decoupled=False,
    balanced_head=False``.

    Args:
        in_channels: channels of the image.
        num_classes: classes including background, K.
        roi_size: size D, H, W of the images, in voxels, multiples of 32. Weights of the global block fit no
            other size. Without attention not used: images may have any sizes that are multiples of 16.
        width: channels of the encoder's first level.
        attention: a key of ``ATTENTIONS``; ``parallel``: both blocks get the same features and are added.
        pairing: ``cross``: in training with pairs, labeled and unlabeled samples attend to each other;
            ``self``: each attends to itself in both passes.
        balanced_head: give decoders the auxiliary head, which only training uses.
        decoupled: a second decoder for the pass with labels; otherwise one serves both passes.
        dropout: probability with which a channel is zeroed at the end of encoder and decoders in training.
        attention_dropout: see :class:`~common.networks.blocks.channel_attention.ChannelAttention`.
        permuted_heads: likewise.
        fused: deployment form: nothing that only training needs, normalizations folded into their neighbors.
            Accepts checkpoints of the training form; cannot be trained.

    Raises:
        ValueError: an argument outside the values above.

    Source: Zhang 2025, released code; ``attention`` and ``pairing`` after the supplement.
    """

    def __init__(  # noqa: PLR0913  (each argument is a factor of the paper's tables)
        self,
        in_channels: int = 1,
        num_classes: int = 14,
        roi_size: Sequence[int] = (64, 128, 128),
        width: int = 32,
        attention: str = "local_global",
        pairing: str = "cross",
        balanced_head: bool = True,
        decoupled: bool = True,
        dropout: float = 0.5,
        attention_dropout: float = 0.1,
        permuted_heads: bool = True,
        fused: bool = False,
    ) -> None:
        super().__init__()
        _check_choices(num_classes, roi_size, attention, pairing)
        depth, height, across = roi_size
        self.roi_size = (depth, height, across)
        self.is_cross = pairing == "cross"
        self.is_parallel = attention == "parallel"
        self.encoder = VNetEncoder(in_channels, width, dropout)
        channels, grid = self.encoder.channels[-1], [size // STRIDE for size in roi_size]
        # By number: TorchScript takes dictionaries of modules that differ in their order alone for the same.
        self.attention = nn.ModuleList(
            ChannelAttention(channels, grid, scope, dropout=attention_dropout, permuted_heads=permuted_heads)
            for scope in ATTENTIONS[attention]
        )
        decoder = (num_classes, width, dropout, balanced_head)
        self.labeled_decoder = VNetDecoder(*decoder) if decoupled else None
        self.unlabeled_decoder = VNetDecoder(*decoder)
        if fused:
            self.fuse()

    def forward(self, image: Tensor, num_labeled: int = 0) -> Tensor:
        """Logits: of both passes over labeled and unlabeled images, or of a single pass.

        The paired pass takes all images, with attention between the labeled and the unlabeled ones and the
        decoder for labels. The single pass follows, over the unlabeled ones by themselves and with the other
        decoder. Batch statistics are updated by the one, then by the other.

        Args:
            image: float (B, in_channels, D, H, W), of the size ``roi_size``.
            num_labeled: b, how many images are labeled, in training: the first b of 2 b. 0: a single pass
                over all images, the only one in evaluation.

        Returns:
            One tensor in all modes. Training with pairs: (3 b, heads, K, D, H, W), rows 0 to 2 b - 1 of the
            paired pass, then b of the single pass. Training without: (B, heads, K, D, H, W). The heads are
            the main and the balanced one, if there is one. Evaluation: (B, K, D, H, W), the main head's.

        Raises:
            ValueError: an image of another size, pairs in evaluation, or a batch that is not of b pairs.
            RuntimeError: a fused network in training mode.
        """
        if self.fused and self.training:
            raise RuntimeError("a fused network cannot be trained; build it with fused=False")
        self._check_image(image)
        if not self.training:
            if num_labeled != 0:
                raise ValueError(f"num_labeled: expected 0 in evaluation, got {num_labeled}")
            return self.unlabeled_decoder(self._levels(image, False))[0]
        if num_labeled == 0:
            return torch.stack(self.unlabeled_decoder(self._levels(image, False)), 1)
        if num_labeled < 0 or image.shape[0] != 2 * num_labeled:
            raise ValueError(
                f"num_labeled: expected 0 or half of the batch of {image.shape[0]}, got {num_labeled}"
            )
        levels = self._levels(image, self.is_cross)
        if self.labeled_decoder is not None:
            paired = self.labeled_decoder(levels)
        else:
            paired = self.unlabeled_decoder(levels)
        single = self.unlabeled_decoder(self._levels(image[num_labeled:], False))
        return torch.cat([torch.stack(paired, 1), torch.stack(single, 1)])

    @torch.jit.unused
    def fuse(self) -> None:
        """Turn this network into its deployment form, for good: it cannot be trained any more.

        What only training needs is dropped, all normalizations are folded into their neighbors.
        """
        if not self.fused:
            self.labeled_decoder = None
            self.unlabeled_decoder.balanced_head = None
            super().fuse()

    def _levels(self, image: Tensor, is_paired: bool) -> list[Tensor]:
        """The encoder's levels, the coarsest one after attention."""
        levels = self.encoder(image)
        features = levels[4]
        attended: list[Tensor] = []
        for block in self.attention:
            attended.append(block(features, is_paired))
            if not self.is_parallel:
                features = attended[-1]
        levels[4] = attended[0] + attended[1] if self.is_parallel else features
        return levels

    def _check_image(self, image: Tensor) -> None:
        depth, height, across = self.roi_size
        sizes = image.shape[2:]
        is_fitting = sizes[0] == depth and sizes[1] == height and sizes[2] == across
        if len(self.attention) > 0 and not is_fitting:
            raise ValueError(f"image: expected the size {self.roi_size}, the network's roi_size, got {sizes}")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.fused:
            unused = tuple(prefix + name for name in _TRAINING_ONLY)
            for name in [name for name in state_dict if name.startswith(unused)]:
                del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *args)


def _check_choices(num_classes: int, roi_size: Sequence[int], attention: str, pairing: str) -> None:
    for name, value, allowed in (
        ("attention", attention, tuple(ATTENTIONS)),
        ("pairing", pairing, PAIRINGS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, background included, got {num_classes}")
    is_even = attention == "none" or all(size > 0 and size % (2 * STRIDE) == 0 for size in roi_size)
    if len(roi_size) != 3 or not is_even:
        raise ValueError(f"roi_size must be three multiples of {2 * STRIDE}, got {tuple(roi_size)}")
