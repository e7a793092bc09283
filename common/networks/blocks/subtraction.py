"""Multi-scale subtraction units and the triangle they form.

Paper: Zhao et al., "M2SNet: Multi-scale in Multi-scale Subtraction Network for Medical Image Segmentation",
2023, arXiv:2303.10894; the single-scale unit comes from Zhao et al., "Automatic Polyp Segmentation via
Multi-scale Subtraction Network", MICCAI 2021.
Implements: equation 2, the triangle of ten units, and the sums over one level of equation 3.
Differs from the paper, as the authors' released code does by default:
- The "full-one filters" sum over all channels, not only over pixels, and a normalization and a ReLU shared by
  all units follow them. ``paper`` is the reading of the text: windows of each channel, nothing after them.
- The sum over a level leaves out the feature that comes from the encoder.
- One more convolution precedes the unit of order 5.
The units with an atrous pyramid, from the paper's comparison, are our reading: see
:mod:`common.networks.blocks.atrous`.
Axes: B batch, C channels, H W space.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from common.networks.blocks.atrous import ATROUS_PYRAMIDS
from common.networks.blocks.upsample import resize_like

FORMS = ("released", "paper", "single", *ATROUS_PYRAMIDS)
OPERATIONS = ("subtract", "add")
WINDOWS = (3, 5)
MAX_ORDERS = 5


def box_sum(features: Tensor, kernel_size: int) -> Tensor:
    """Sum over a square window around each pixel, zeros outside the image.

    Args:
        features: float (B, C, H, W); half precision is not enough for sums.
        kernel_size: odd edge length of the window, in pixels.

    Returns:
        Same shape and type. Shifted additions, one axis after the other: the fastest form on a CPU, and one
        that automatic mixed precision leaves in the type of ``features``.
    """
    margin = kernel_size // 2
    padded = F.pad(features, [margin, margin, margin, margin])
    height, width = features.shape[-2], features.shape[-1]
    rows = padded.narrow(-2, 0, height)
    for shift in range(1, kernel_size):
        rows = rows + padded.narrow(-2, shift, height)
    total = rows.narrow(-1, 0, width)
    for shift in range(1, kernel_size):
        total = total + rows.narrow(-1, shift, width)
    return total


def _single_precision(features: Tensor) -> Tensor:
    """Half-precision features in float32; others as they are."""
    if features.dtype == torch.float16 or features.dtype == torch.bfloat16:
        return features.float()
    return features


class ConvNormReLU(nn.Sequential):
    """3x3 convolution that keeps the size, batch normalization and ReLU.

    (B, in_channels, H, W) to (B, out_channels, H, W). The convolution has a bias, as in the released weights.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    @torch.jit.unused
    def folding_pairs(self) -> list[tuple[str, str]]:
        """Names of the convolution and its normalization, for deployment."""
        return [("0", "1")]


class OnesFilter(nn.Module):
    """Convolution with a kernel of ones over all channels, batch normalization and ReLU.

    All output channels of such a convolution are one map, the windowed sum of the sum over channels, so only
    that map is computed. What differs between channels is the scale and the shift of the normalization. It is
    a sum, not a mean: the statistics of released weights are of order 100 and more.

    Args:
        channels: of the features, and of the output.
        kernel_size: odd edge length of the kernel, in pixels.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.channels = channels
        self.kernel_size = kernel_size
        self.norm: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, channel_sum: Tensor, channels_last: bool = False) -> Tensor:
        """Filtered features.

        Args:
            channel_sum: float (B, 1, H, W), the features summed over their channels; not in half precision.
            channels_last: memory format of the result, which one channel cannot tell.

        Returns:
            (B, channels, H, W).
        """
        total = box_sum(channel_sum, self.kernel_size)
        if not channels_last:
            return F.relu(self.norm(total.expand(-1, self.channels, -1, -1)))
        # With each pixel as a case of its own, the channels are written side by side.
        pixels = self.norm(total.reshape(-1, 1, 1, 1).expand(-1, self.channels, -1, -1))
        shape = [total.shape[0], total.shape[2], total.shape[3], self.channels]
        return F.relu(pixels).reshape(shape).permute(0, 3, 1, 2)

    @torch.jit.unused
    def folding_pairs(self) -> list[tuple[str, str]]:
        """The normalization, which has no convolution with weights before it."""
        return [("", "norm")]


class MultiScaleDifference(nn.Module):
    """What a subtraction unit computes before its convolution: differences of pixels and of windows.

    ``|A - B| + |f3(A) - f3(B)| + |f5(A) - f5(B)|`` with filters of ones of 3x3 and 5x5 pixels. It belongs to
    all units together, because the released filters share their normalization.

    Args:
        channels: of both inputs.
        form: ``released`` (filters over all channels, normalized), ``paper`` (windows of each channel,
            linear) or ``single`` (no filters: the unit of MSNet). ``aspp`` and ``dense_aspp`` have no filters
            either; their pyramids belong to the single units.
        operation: ``subtract``, or ``add`` for ``A + B`` in place of each absolute difference.

    Raises:
        ValueError: unknown form or operation.

    Source: Zhao 2023, equation 2; ``add``: the last row of Table VII.
    """

    # TorchScript cannot infer the type of a list that may be empty, and needs a real type here: this module
    # must not postpone the evaluation of annotations.
    windows: list[int]

    def __init__(self, channels: int, form: str = "released", operation: str = "subtract") -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"unit must be one of {FORMS}, got {form!r}")
        if operation not in OPERATIONS:
            raise ValueError(f"operation must be one of {OPERATIONS}, got {operation!r}")
        self.windows = list(WINDOWS) if form == "paper" else []
        self.adds = operation == "add"
        sizes = WINDOWS if form == "released" else ()
        self.filters = nn.ModuleDict({str(size): OnesFilter(channels, size) for size in sizes})

    def forward(self, upper: Tensor, lower: Tensor) -> Tensor:
        """Sum of the differences, of non-negative features.

        Args:
            upper: float (B, C, H, W), A of the paper: the coarser feature at the size of the finer one.
            lower: float (B, C, H, W), B of the paper.

        Returns:
            (B, C, H, W), the type of ``upper``; filters are computed in float32 at least.
        """
        total = self._compare(upper, lower)
        if len(self.filters) > 0:
            # Adding tensors of different memory formats would take three times as long.
            last = total.is_contiguous(memory_format=torch.channels_last) and not total.is_contiguous()
            sums = [_single_precision(x).sum(1, keepdim=True) for x in (upper, lower)]
            for ones_filter in self.filters.values():
                total = total + self._compare(ones_filter(sums[0], last), ones_filter(sums[1], last))
        if len(self.windows) > 0:
            # Linear filters: the filtered difference is the difference of the filtered features.
            upper_wide, lower_wide = _single_precision(upper), _single_precision(lower)
            joined = upper_wide + lower_wide if self.adds else upper_wide - lower_wide
            for size in self.windows:
                filtered = box_sum(joined, size)
                total = total + (filtered if self.adds else filtered.abs())
        return total.to(upper.dtype)

    def _compare(self, upper: Tensor, lower: Tensor) -> Tensor:
        return upper + lower if self.adds else torch.abs(upper - lower)


def _after_difference(channels: int, form: str) -> nn.Module:
    """What each unit has for itself."""
    conv = ConvNormReLU(channels, channels)
    if form not in ATROUS_PYRAMIDS:
        return conv
    return nn.Sequential(OrderedDict(context=ATROUS_PYRAMIDS[form](channels), conv=conv))


class SubtractionPyramid(nn.Module):
    """The triangle of subtraction units: each order compares neighboring levels of the order before.

    Order 1 are the five levels of the encoder, order n has 6 - n units:
    ``MS(n, i) = conv(difference(MS(n - 1, i + 1), MS(n - 1, i)))``.

    Args:
        channels: of every level.
        form: of the units, see :class:`MultiScaleDifference`. In ``aspp`` and ``dense_aspp`` each unit has an
            atrous pyramid of its own between the difference and the convolution.
        operation: of the units, see :class:`MultiScaleDifference`.
        num_orders: highest order, 1 (no units) to 5.

    Raises:
        ValueError: an argument outside these values.

    Source: Zhao 2023, equations 2 and 3; ``num_orders``: the rows of Table VII.
    """

    def __init__(
        self,
        channels: int,
        form: str = "released",
        operation: str = "subtract",
        num_orders: int = MAX_ORDERS,
    ) -> None:
        super().__init__()
        if not 1 <= num_orders <= MAX_ORDERS:
            raise ValueError(f"num_orders must be 1 to {MAX_ORDERS}, got {num_orders}")
        difference = MultiScaleDifference(channels, form, operation)
        self.difference: nn.Module = difference if num_orders > 1 else nn.Identity()
        self.orders = nn.ModuleDict(
            {
                str(order): nn.ModuleDict(
                    {str(level): _after_difference(channels, form) for level in range(6 - order, 0, -1)}
                )
                for order in range(2, num_orders + 1)
            }
        )
        self.before_last: nn.Module = nn.Identity()
        if num_orders == MAX_ORDERS:
            self.before_last = ConvNormReLU(channels, channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Sums of all orders of each level.

        Args:
            features: five of float (B, C, H_i, W_i), levels 5 to 1, coarse to fine. Without units four: level
                5 has no part in the sums.

        Returns:
            Levels 4 to 1: (B, C, H_i, W_i), the sum of the orders from 2 on. Without units (``num_orders=1``)
            the features themselves.
        """
        sums: list[Tensor] = []
        below = features
        for index, order in enumerate(self.orders.values()):
            units: list[Tensor] = []
            for position, unit in enumerate(order.values()):
                upper, lower = below[position], below[position + 1]
                if index == 3:
                    upper = self.before_last(upper)
                units.append(unit(self.difference(resize_like(upper, lower), lower)))
            # Order n starts at level 6 - n: its first unit belongs to entry n - 2 of the sums.
            for position, result in enumerate(units):
                if index == 0:
                    sums.append(result)
                else:
                    sums[index + position] = sums[index + position] + result
            below = units
        return sums if len(sums) > 0 else features
