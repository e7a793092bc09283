"""A convolution that has taken over the batch normalization before it, zero padding included.

In evaluation mode a batch normalization maps channel c to ``s_c x + t_c``. A convolution after it can take
over the scale, with the kernel ``K_oc s_c``. The shift does not become a bias: zeros are padded after the
normalization, so near the border some of a kernel's taps meet no ``t_c``. What the shift adds is an image of
ones, padded with zeros as well, convolved with the one-channel kernel ``sum_c K_oc t_c``.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from common.networks.blocks.conv_norm_folding import folded_parameters

NORM_ENTRIES = ("weight", "bias", "running_mean", "running_var")


class ShiftedConv2d(nn.Conv2d):
    """Sum of two convolutions with zero padding: of the features and of an image of ones.

    Args:
        in_channels: channels of the features.
        out_channels: channels of the output.
        kernel_size: odd edge length of both kernels, in pixels.
        stride: of both convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, kernel_size // 2)
        self.shift_weight = nn.Parameter(torch.zeros(out_channels, 1, kernel_size, kernel_size))

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride), rounded up."""
        ones = features.new_ones([1, 1, features.shape[-2], features.shape[-1]])
        shift = F.conv2d(ones, self.shift_weight, self.bias, self.stride, self.padding)
        return F.conv2d(features, self.weight, None, self.stride, self.padding) + shift


def absorb_norm(state_dict: dict[str, Any], norm: str, conv: str, eps: float = 1e-5) -> None:
    """Turn a batch normalization and the convolution after it into a :class:`ShiftedConv2d`, in a state dict.

    Args:
        state_dict: changed in place; one without statistics of this normalization stays as it is.
        norm: what precedes the entries of the normalization, with its final dot.
        conv: what precedes the entries of the convolution, with its final dot; its kernel is (C_out, C_in, k,
            k).
        eps: of the normalization; PyTorch's default.
    """
    if f"{norm}running_var" not in state_dict:
        return
    state_dict.pop(f"{norm}num_batches_tracked", None)
    entries = {key: state_dict.pop(norm + key).double() for key in NORM_ENTRIES}
    scale, shift = folded_parameters(entries, eps)
    kernel = state_dict[f"{conv}weight"]
    taps = torch.einsum("oihw,i->ohw", kernel.double(), shift)
    state_dict[f"{conv}weight"] = (kernel.double() * scale.view(1, -1, 1, 1)).to(kernel.dtype)
    state_dict[f"{conv}shift_weight"] = taps.unsqueeze(1).to(kernel.dtype)
