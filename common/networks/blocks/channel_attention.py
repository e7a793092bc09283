"""Attention between channels, within a sample or between labeled and unlabeled samples.

Paper: Zhang et al., "A Semantic Knowledge Complementarity based Decoupling Framework for Semi-supervised
Class-imbalanced Medical Image Segmentation" (SKCDF), CVPR 2025.
Implements: the local and the global block of the semantic-knowledge-complementarity module, in the form of
the released code.
Differs from the paper:
- any grid, not only 4 x 8 x 8, and any number of pairs, not only two.
- the logits are never stored: their normalization is a scale that follows from two small matrices, so that
  the attention is a fused one. Equal up to rounding. (Where PyTorch has no fused kernel, as on a CPU with
  dropout, it stores them after all.)
- no second projection, which the released code has but never calls.
Axes: B batch, W windows, N voxels of a window, C channels, D H W space.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

SCOPES = ("local", "global")


def logit_scale(queries: Tensor, keys: Tensor) -> Tensor:
    """Factor that gives the matrix of all products of queries and keys the standard deviation 1.

    It stands for an instance normalization of the logits: what that subtracts, the softmax cancels.

    Args:
        queries: float (..., m, n).
        keys: float (..., k, n).

    Returns:
        float (..., 1, 1), at least float32: 1 / sqrt(variance + 1e-5), population variance of m k products.

    Source: Zhang 2025, released code; the form with Gram matrices is ours.
    """
    if queries.dtype == torch.float16 or queries.dtype == torch.bfloat16:
        queries, keys = queries.float(), keys.float()
    count = queries.shape[-2] * keys.shape[-2]
    mean = (queries.sum(-2) * keys.sum(-2)).sum(-1) / count
    grams = (queries.transpose(-2, -1) @ queries) * (keys.transpose(-2, -1) @ keys)
    variance = grams.sum(-1).sum(-1) / count - mean * mean
    return torch.rsqrt(variance.clamp(min=0) + 1e-5)[..., None, None]


class ChannelAttention(nn.Module):
    """Block in which the channels are the tokens, each described by its values in a window of the grid.

    There is no path around the block: what is added to the attention is the projection of the input.

    Args:
        channels: C.
        grid: sizes D, H, W of the features. The weights fit no other grid with scope ``global``.
        scope: ``local``: windows of 2 x 2 x 2 voxels; ``global``: one window, the whole grid.
        heads: heads of the attention within a sample; they are not split between samples.
        dropout: probability in training, of attention weights and of the output. The output is not dropped in
            the local block within a sample, as in the released code.
        permuted_heads: within a sample, the global block splits its heads in another order than it merges
            them, as in the released code. Such weights need it; otherwise it only decides which columns of
            ``out`` belong to which head.

    Raises:
        ValueError: unknown scope, a number below 1, or a grid that the windows do not divide.

    Source: Zhang 2025, released code.
    """

    def __init__(
        self,
        channels: int,
        grid: Sequence[int],
        scope: str = "local",
        heads: int = 2,
        dropout: float = 0.1,
        permuted_heads: bool = True,
    ) -> None:
        super().__init__()
        if scope not in SCOPES:
            raise ValueError(f"scope must be one of {SCOPES}, got {scope!r}")
        if min(channels, heads) < 1:
            raise ValueError(f"channels and heads must be at least 1, got {channels} and {heads}")
        depth, height, width = grid
        if min(grid) < 2 or any(size % 2 for size in grid):
            raise ValueError(f"grid must be three even numbers, got {tuple(grid)}")
        self.is_global = scope == "global"
        self.grid = (depth, height, width)
        self.window = (depth, height, width) if self.is_global else (2, 2, 2)
        self.heads = heads
        # The order of the columns: heads first (0 0 0 1 1 1), or heads in turns (0 1 0 1 0 1).
        self.splits_heads_first = self.is_global
        self.merges_heads_first = self.is_global and not permuted_heads
        voxels = self.window[0] * self.window[1] * self.window[2]
        self.projection = nn.Conv3d(1, voxels, self.window, self.window)
        self.attention_norm = nn.LayerNorm(channels, eps=1e-6)
        self.query = nn.Linear(channels, heads * channels, bias=False)
        self.key = nn.Linear(channels, heads * channels, bias=False)
        self.value = nn.Linear(channels, heads * channels, bias=False)
        self.out = nn.Linear(heads * channels, channels, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.output_norm = nn.LayerNorm(channels, eps=1e-6)
        self.mix = nn.Conv3d(channels, channels, 1)
        for conv in (self.projection, self.mix):
            nn.init.xavier_normal_(conv.weight)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, features: Tensor, is_paired: bool = False) -> Tensor:
        """Features after attention.

        Args:
            features: float (B, C, D, H, W) on the grid.
            is_paired: the first half of the batch is labeled, the second unlabeled. Each sample attends to
                all samples of the other half, and no gradient flows through what the attention gets from
                unlabeled ones. Otherwise each sample attends to itself.

        Returns:
            Same shape.

        Raises:
            ValueError: another grid, or an odd batch with ``is_paired``.
        """
        sizes = features.shape[2:]
        if sizes[0] != self.grid[0] or sizes[1] != self.grid[1] or sizes[2] != self.grid[2]:
            raise ValueError(f"features: expected the grid {self.grid}, got {sizes}")
        if is_paired and features.shape[0] % 2 != 0:
            raise ValueError(f"features: expected an even batch of pairs, got {features.shape[0]}")
        tokens = self._tokens(features)
        normalized = self.attention_norm(tokens)
        attended = self.out(self._across(normalized) if is_paired else self._within(normalized))
        if is_paired or self.is_global:
            attended = self.dropout(attended)
        return F.gelu(self.mix(self._to_grid(self.output_norm(attended + tokens))))

    def _tokens(self, features: Tensor) -> Tensor:
        """(B, C, D, H, W) to (B, W, N, C)."""
        batch, channels = features.shape[0], features.shape[1]
        projected = self.projection(features.flatten(0, 1).unsqueeze(1)).flatten(2)
        return projected.unflatten(0, (batch, channels)).permute(0, 3, 2, 1)

    def _to_grid(self, tokens: Tensor) -> Tensor:
        """(B, W, N, C) to (B, C, D, H, W): filters become the voxels of a window, row by row."""
        (d, h, w), (p, q, r) = self.grid, self.window
        folded = tokens.reshape(tokens.shape[0], d // p, h // q, w // r, p, q, r, tokens.shape[3])
        return folded.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(tokens.shape[0], tokens.shape[3], d, h, w)

    def _within(self, tokens: Tensor) -> Tensor:
        """Attention of each sample to itself, (B, W, N, C) to (B, W, N, heads C)."""
        columns: list[Tensor] = []
        for each in (self.query(tokens), self.key(tokens), self.value(tokens)):
            if self.splits_heads_first:
                split = each.unflatten(3, (self.heads, -1)).permute(0, 1, 3, 4, 2)
            else:
                split = each.unflatten(3, (-1, self.heads)).permute(0, 1, 4, 3, 2)
            columns.append(split.flatten(0, 1).contiguous())
        attended = self._attend(columns[0], columns[1], columns[2]).unflatten(0, tokens.shape[:2])
        order = (0, 1, 4, 2, 3) if self.merges_heads_first else (0, 1, 4, 3, 2)
        return attended.permute(order).flatten(3)

    def _across(self, tokens: Tensor) -> Tensor:
        """Attention of each sample to all of the other half, (B, W, N, C) to (B, W, N, heads C)."""
        half = tokens.shape[0] // 2
        tokens = torch.cat([tokens[:half], tokens[half:].detach()])
        columns: list[Tensor] = []
        for each in (self.query(tokens), self.key(tokens), self.value(tokens)):
            columns.append(each.transpose(2, 3).contiguous())
        halves: list[Tensor] = []
        for own, other in ((0, half), (half, 0)):
            keys = self._shared(columns[1][other : other + half])
            values = self._shared(columns[2][other : other + half])
            halves.append(self._attend(columns[0][own : own + half], keys, values).transpose(2, 3))
        return torch.cat(halves)

    def _shared(self, columns: Tensor) -> Tensor:
        """All columns of all samples for each of them: (b, W, HC, N) to (b, W, b HC, N)."""
        together = columns.transpose(0, 1).flatten(1, 2).unsqueeze(0)
        return together.expand(columns.shape[0], -1, -1, -1)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Softmax attention with normalized logits: (A, H, m, N) and twice (A, H, k, N) to (A, H, m, N).

        PyTorch's fused kernels want four axes and neighbors in memory on the last one; what is not so falls
        back to stored logits without a word.
        """
        scaled = queries * logit_scale(queries, keys).to(queries.dtype)
        rate = self.dropout.p if self.training else 0.0
        return F.scaled_dot_product_attention(scaled, keys, values, dropout_p=rate, scale=1.0)

    @torch.jit.unused
    def affine_pairs(self) -> list[tuple[str, tuple[str, ...]]]:
        """Names of each layer normalization and of all layers that get its output, for deployment."""
        return [("attention_norm", ("query", "key", "value")), ("output_norm", ("mix",))]
