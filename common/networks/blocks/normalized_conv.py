"""Convolution with its normalization before or after it: the layers of the cross-domain network.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv 2020.
Implements: equations 3 and 4, the conventional ("post") and the proposed ("pre") order.
Differs from the paper: equations 3 and 4 print a division by the variance; it is the standard deviation here,
as in the authors' released code. That code also swaps the two names, which are those of the paper here.
Axes: B batch, C channels, H W space.
"""

from typing import Any

import torch
from monai.networks.nets.attentionunet import AttentionBlock
from torch import Tensor, nn

from common.networks.blocks.conv_norm_folding import fold_state, folded_parameters
from common.networks.blocks.shifted_conv import NORM_ENTRIES, ShiftedConv2d, absorb_norm
from common.networks.blocks.upsample import upsample

NORMS = ("batch", "instance", "none")
EPS = 1e-5
WEIGHT_STD = 0.02
GATE_BRANCHES = ("W_g", "W_x", "psi")


def normalization(norm: str, channels: int) -> nn.Module:
    """Normalization with a learnable scale and shift per channel.

    Args:
        norm: ``batch`` (running averages with PyTorch's momentum 0.1), ``instance`` (each sample by itself,
            in evaluation as in training) or ``none``.
        channels: of the features.

    Returns:
        A module for (B, channels, H, W). A constant map becomes the shift, up to rounding; never NaN.
    """
    if norm == "none":
        return nn.Identity()
    if norm == "instance":
        return nn.InstanceNorm2d(channels, eps=EPS, affine=True)
    return nn.BatchNorm2d(channels, eps=EPS)


@torch.no_grad()
def initialize(module: nn.Module) -> None:
    """Initial weights of one layer, for ``nn.Module.apply``.

    Convolutions: normal with standard deviation 0.02, cut at two of them; dense layers: normal with 0.02;
    biases 0, as in the authors' released code. Other layers keep what they have.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=WEIGHT_STD, a=-2 * WEIGHT_STD, b=2 * WEIGHT_STD)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=WEIGHT_STD)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


class NormalizedConv(nn.Module):
    """Convolution, normalization and activation; the padding keeps the size, but for the stride.

    Order: ``activation(conv(norm(x)))`` or ``activation(norm(conv(x)))``. In the first the statistics do not
    depend on this layer's own weights, which is the point of the method.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd edge length of the kernel, in pixels.
        stride: of the convolution.
        norm: see :func:`normalization`.
        norm_first: normalize the input of the convolution (``pre``) instead of its output (``post``).
        activation: for ``out_channels`` channels.

    Source: Baydar 2020, equations 3 and 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        norm: str,
        norm_first: bool,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.has_batch_norm = norm == "batch"
        self.fused = False
        self.norm = normalization(norm, in_channels if norm_first else out_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2)
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride), rounded up."""
        if self.norm_first:
            return self.activation(self.conv(self.norm(features)))
        return self.activation(self.norm(self.conv(features)))

    @torch.jit.unused
    def fuse(self) -> None:
        """Let the convolution do the work of a batch normalization, for good and for evaluation only."""
        if self.fused:
            return
        trained = self.state_dict()
        self._drop_norms()
        self.fused = True
        self.load_state_dict(trained)

    def _drop_norms(self) -> None:
        if self.has_batch_norm:
            self.norm = nn.Identity()
        if self.has_batch_norm and self.norm_first:
            old = self.conv
            conv = ShiftedConv2d(old.in_channels, old.out_channels, old.kernel_size[0], old.stride[0])
            self.conv = conv.to(old.weight.device, old.weight.dtype).train(self.training)

    def _fold(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Turn entries of the training form, if there are any, into those of the fused form."""
        if self.has_batch_norm and self.norm_first:
            absorb_norm(state_dict, f"{prefix}norm.", f"{prefix}conv.", EPS)
        elif self.has_batch_norm:
            fold_state(state_dict, prefix, [("conv", "norm")], EPS)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.fused:
            self._fold(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class UpNormalizedConv(NormalizedConv):
    """Bilinear upsampling by 2, then a :class:`NormalizedConv` to which a skip is added.

    The skip joins right after the convolution: before the activation, and in the conventional order before
    the normalization, too.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the skip and of the output.
        kernel_size: odd edge length of the kernel, in pixels.
        norm: see :func:`normalization`.
        norm_first: see :class:`NormalizedConv`.
        activation: for ``out_channels`` channels.
        attention: weight the skip by an additive attention gate, whose signal is the upsampled input. The
            gate is MONAI's, with batch normalizations whatever ``norm`` is.

    Source: the gate is that of Oktay et al., "Attention U-Net", 2018, arXiv:1804.03999; that it stands before
    the sum is our choice.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm: str,
        norm_first: bool,
        activation: nn.Module,
        attention: bool,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, 1, norm, norm_first, activation)
        inner = max(out_channels // 2, 1)
        self.gate = AttentionBlock(2, inner, in_channels, out_channels) if attention else None
        # Only the fused form of the conventional order scales the skip, as its normalization did.
        self.register_parameter("skip_scale", None)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """Features of the finer level.

        Args:
            features: float (B, in_channels, H, W).
            skip: float (B, out_channels, 2 H, 2 W).

        Returns:
            (B, out_channels, 2 H, 2 W).
        """
        features = upsample(features, 2)
        if self.gate is not None:
            skip = self.gate(features, skip)
        if self.skip_scale is not None:
            skip = skip * self.skip_scale
        if self.norm_first:
            return self.activation(self.conv(self.norm(features)) + skip)
        return self.activation(self.norm(self.conv(features) + skip))

    def _drop_norms(self) -> None:
        super()._drop_norms()
        if self.has_batch_norm and not self.norm_first:
            weight = self.conv.weight
            self.skip_scale = nn.Parameter(weight.new_ones(weight.shape[0], 1, 1))
        if self.gate is not None:
            for branch in GATE_BRANCHES:
                getattr(self.gate, branch)[1] = nn.Identity()

    def _fold(self, state_dict: dict[str, Any], prefix: str) -> None:
        if self.skip_scale is not None and f"{prefix}norm.running_var" in state_dict:
            entries = {key: state_dict[f"{prefix}norm.{key}"] for key in NORM_ENTRIES}
            state_dict[f"{prefix}skip_scale"] = folded_parameters(entries, EPS)[0].view(-1, 1, 1)
        super()._fold(state_dict, prefix)
        if self.gate is not None:
            pairs = [(f"gate.{branch}.0.conv", f"gate.{branch}.1") for branch in GATE_BRANCHES]
            fold_state(state_dict, prefix, pairs, EPS)
