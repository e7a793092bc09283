"""PReLU whose slopes stay within bounds: the activation of the cross-domain method.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv 2020.
Implements: the activation of the authors' released code, as the paper names none: one slope per channel,
initially 0.01, bounded to [0.01, 0.1].
Differs from the released code: it bounds the slopes inside the forward pass, where a slope that an optimizer
step has brought below 0.01 gets no gradient and never returns. By default the parameter itself is projected
back after each step instead: the same set of slopes, none of them dead.
Axes: B batch, C channels.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

LOWEST_SLOPE, HIGHEST_SLOPE, INITIAL_SLOPE = 0.01, 0.1, 0.01


class BoundedPReLU(nn.Module):
    """``x`` where positive, ``slope x`` elsewhere, with one slope in [0.01, 0.1] per channel.

    Args:
        channels: of the features, C.
        clamp_in_forward: bound the slopes in every forward pass, as the released code does. Otherwise call
            :func:`project_slopes` after each step of the optimizer.
    """

    def __init__(self, channels: int, clamp_in_forward: bool = False) -> None:
        super().__init__()
        self.clamp_in_forward = clamp_in_forward
        self.lowest, self.highest = LOWEST_SLOPE, HIGHEST_SLOPE
        self.slope = nn.Parameter(torch.full((channels,), INITIAL_SLOPE))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, ...) to the same shape."""
        slope = self.slope.clamp(self.lowest, self.highest) if self.clamp_in_forward else self.slope
        # Automatic mixed precision leaves this operation alone, which refuses two types.
        return F.prelu(features, slope.to(features.dtype))


@torch.no_grad()
def project_slopes(module: nn.Module) -> None:
    """Move every slope of a module back into [0.01, 0.1], in place.

    Args:
        module: a network or a part of one; what is no :class:`BoundedPReLU` stays as it is.
    """
    for part in module.modules():
        if isinstance(part, BoundedPReLU):
            part.slope.clamp_(part.lowest, part.highest)
