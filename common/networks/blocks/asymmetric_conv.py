"""Asymmetric convolution: a square kernel reinforced along its central skeleton, and its exact fusion.

Paper: Gu et al., "kCBAC-Net: Deeply Supervised Complete Bipartite Networks with Asymmetric Convolutions for
Medical Image Segmentation", MICCAI 2021, doi:10.1007/978-3-030-87193-2_32.
Implements: the asymmetric convolution block (2D) and a 3D version of it.
Differs from the paper: the paper only says that a 3D version exists. Here ``line`` adds one kernel per axis
through the centre (the skeleton that the 2D block reinforces), ``plane`` one per pair of axes.
Axes: B batch, C channels, D H W space.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the name every PyTorch reader expects)
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from common.networks.blocks.conv_norm_folding import folded_parameters

FORMS = ("none", "line", "plane")
EPS = 1e-5
NORM_ENTRIES = ("weight", "bias", "running_mean", "running_var")


def branch_kernels(spatial_dims: int, form: str, kernel_size: int = 3) -> list[tuple[int, ...]]:
    """Kernel shapes of the parallel branches, the full kernel first.

    Args:
        spatial_dims: 2 or 3.
        form: ``none`` (the full kernel alone), ``line`` (plus one line per axis) or ``plane`` (3D only: plus
            one plane per pair of axes).
        kernel_size: odd edge length of the full kernel, in voxels.

    Returns:
        One shape per branch, each of length ``spatial_dims``.

    Raises:
        ValueError: unknown form, ``plane`` in 2D, or an even kernel, which has no centre.
    """
    if form not in FORMS:
        raise ValueError(f"asymmetric must be one of {FORMS}, got {form!r}")
    if form == "plane" and spatial_dims == 2:
        raise ValueError("asymmetric='plane' needs three axes; in 2D use 'line'")
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd so that all branches share a centre, got {kernel_size}")
    full = (kernel_size,) * spatial_dims
    if form == "none":
        return [full]
    along, across = (kernel_size, 1) if form == "line" else (1, kernel_size)
    skeletons = [
        tuple(along if axis == a else across for a in range(spatial_dims)) for axis in range(spatial_dims)
    ]
    return [full, *skeletons]


class ConvNorm(nn.Sequential):
    """Convolution without bias that keeps the size, followed by batch normalization."""

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, kernel: tuple[int, ...]
    ) -> None:
        # Padding per axis: a uniform padding would shift the narrow branches against the full one.
        padding = tuple(edge // 2 for edge in kernel)
        super().__init__()
        self.conv = Conv[Conv.CONV, spatial_dims](
            in_channels, out_channels, kernel, padding=padding, bias=False
        )
        self.norm = Norm[Norm.BATCH, spatial_dims](out_channels, eps=EPS)


class AsymmetricConv(nn.Module):
    """Sum of normalized convolutions with a full kernel and narrower ones on the same centre.

    ``y = sum_b BN_b(K_b * x)`` with independent normalizations and no bias in the convolutions. With
    ``fused=True`` the module is the single convolution that equals this sum in evaluation mode; it accepts
    the weights of either form, so one checkpoint serves training and deployment.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        form: branches beside the full kernel, see :func:`branch_kernels`. ``none`` is a plain conv-norm pair.
        fused: build the deployment form.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, form: str = "line", fused: bool = False
    ) -> None:
        super().__init__()
        self.fused = fused
        kernels = branch_kernels(spatial_dims, form)
        if fused:
            plain = Conv[Conv.CONV, spatial_dims]
            self.branches = nn.ModuleList(
                [plain(in_channels, out_channels, kernels[0], padding=kernels[0][0] // 2)]
            )
        else:
            self.branches = nn.ModuleList(
                ConvNorm(spatial_dims, in_channels, out_channels, k) for k in kernels
            )

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, [D,] H, W) to (B, out_channels, [D,] H, W)."""
        total = self.branches[0](features)
        for index, branch in enumerate(self.branches):
            if index > 0:
                total = total + branch(features)
        return total

    def fuse(self) -> AsymmetricConv:
        """Deployment form of this module: a new module with the same output in evaluation mode."""
        weight = self.branches[0].conv.weight
        twin = AsymmetricConv(weight.dim() - 2, weight.shape[1], weight.shape[0], "none", fused=True)
        twin.to(weight.device, weight.dtype).load_state_dict(self.state_dict())
        return twin.train(self.training)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.fused and f"{prefix}branches.0.conv.weight" in state_dict:
            weight, bias = _fused_parameters(state_dict, f"{prefix}branches.")
            for key in [k for k in state_dict if k.startswith(f"{prefix}branches.")]:
                del state_dict[key]
            state_dict[f"{prefix}branches.0.weight"], state_dict[f"{prefix}branches.0.bias"] = weight, bias
        super()._load_from_state_dict(state_dict, prefix, *args)


def _fused_parameters(state_dict: dict[str, Tensor], prefix: str) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the single convolution, summed in float64 and rounded once.

    Each branch contributes its kernel, embedded centrally in the full one and scaled per output channel by
    ``s = gamma / sqrt(variance + eps)``, and the bias ``beta - mean * s``.
    """
    full = state_dict[f"{prefix}0.conv.weight"]
    weight = torch.zeros_like(full, dtype=torch.float64)
    bias = torch.zeros(full.shape[0], dtype=torch.float64, device=full.device)
    index = 0
    while f"{prefix}{index}.conv.weight" in state_dict:
        branch = f"{prefix}{index}."
        norm = {name: state_dict[f"{branch}norm.{name}"] for name in NORM_ENTRIES}
        kernel, shift = folded_parameters(norm, EPS, state_dict[f"{branch}conv.weight"].double())
        margins = [(big - small) // 2 for big, small in zip(full.shape[2:], kernel.shape[2:])]
        weight += F.pad(kernel, [margin for margin in reversed(margins) for _ in range(2)])
        bias += shift
        index += 1
    return weight.to(full.dtype), bias.to(full.dtype)


def fuse_asymmetric(network: nn.Module, inplace: bool = False) -> nn.Module:
    """Make every asymmetric convolution of a network a single one, for deployment.

    Outputs agree with those in evaluation mode to rounding (about 1e-5 on logits in float32).

    Args:
        network: any module; parts that are no :class:`AsymmetricConv` stay unchanged.
        inplace: change ``network`` itself. Otherwise it is left as it is and can go on training.

    Returns:
        ``network``, or a fused copy of it in evaluation mode.
    """
    fused = network if inplace else copy.deepcopy(network).eval()
    for parent in list(fused.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, AsymmetricConv) and not child.fused:
                setattr(parent, name, child.fuse())
    return fused


class AsymmetricBlock(nn.Sequential):
    """Two asymmetric convolutions, each followed by ReLU: the block of every encoder, bridge and decoder.

    (B, in_channels, [D,] H, W) to (B, out_channels, [D,] H, W). No further normalization: it lives in each
    branch of the convolutions.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, form: str, fused: bool
    ) -> None:
        super().__init__(
            AsymmetricConv(spatial_dims, in_channels, out_channels, form, fused),
            nn.ReLU(inplace=True),
            AsymmetricConv(spatial_dims, out_channels, out_channels, form, fused),
            nn.ReLU(inplace=True),
        )
