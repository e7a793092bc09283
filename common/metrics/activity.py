"""How active the layers of a network are, and how far apart their responses to two domains lie.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv 2020.
Implements: the share of active responses of Table 3, and what Figure 2 shows of single kernels: the
distribution of their responses to each domain, its mean and its variance.
Differs from the paper: it gives no formula. Our reading of Table 3: a response is a value that enters an
activation; above 0 it is active, as it then passes unchanged. The separation index and the share of
responses beyond a part of the standard deviation are our additions.
Axes: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# The scale of a network's responses is not known beforehand, and it differs between layers. These bins fit
# all scales: about 0.0005 wide around 0, farther out 5 % of the response, up to 6013 on either side.
BINS_PER_SIGN = 280
BIN_SCALE, BIN_STEP = 0.01, 0.05
NUM_BINS = 2 * BINS_PER_SIGN
BIN_EDGES = BIN_SCALE * np.sinh(BIN_STEP * np.arange(-BINS_PER_SIGN, BINS_PER_SIGN + 1))


@dataclass(frozen=True, eq=False)
class LayerResponses:
    """Counts and sums of the responses of one layer to any number of images; ``+`` adds those of more images.

    Attributes:
        count: responses of each channel.
        active: int64 (C,), how many of them are above 0.
        sums: float64 (C,), their sum.
        squares: float64 (C,), sum of their squares.
        histogram: int64 (C, NUM_BINS), how many fall between each two of ``BIN_EDGES``, the lower one
            included; the outermost bins hold what lies beyond, too.
    """

    count: int
    active: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    histogram: np.ndarray

    @classmethod
    def measure(cls, responses: Tensor) -> LayerResponses:
        """Count the responses of one forward pass.

        Args:
            responses: float (B, C, ...).

        Raises:
            ValueError: no channels, no values, or values that are not finite.
        """
        if responses.ndim < 2 or responses.numel() == 0:
            raise ValueError(f"responses: expected values (B, C, ...), got shape {tuple(responses.shape)}")
        rows = responses.detach().transpose(0, 1).flatten(1)
        exact = rows.double()
        squares = exact.square().sum(dim=1)
        if not bool(squares.isfinite().all()):
            raise ValueError("responses: expected finite values, got NaN or infinity")
        bins = (rows.float() / BIN_SCALE).asinh_().div_(BIN_STEP).floor_()
        bins = bins.clamp_(-BINS_PER_SIGN, BINS_PER_SIGN - 1).long().add_(BINS_PER_SIGN)
        bins += NUM_BINS * torch.arange(len(rows), device=rows.device).unsqueeze(1)
        histogram = torch.bincount(bins.flatten(), minlength=len(rows) * NUM_BINS)
        parts = (rows > 0).sum(dim=1), exact.sum(dim=1), squares, histogram.reshape(-1, NUM_BINS)
        return cls(rows.shape[1], *(part.cpu().numpy() for part in parts))

    def __add__(self, other: LayerResponses) -> LayerResponses:
        if len(self.active) != len(other.active):
            raise ValueError(f"expected {len(self.active)} channels, got {len(other.active)}")
        names = "count", "active", "sums", "squares", "histogram"
        return LayerResponses(*(getattr(self, name) + getattr(other, name) for name in names))

    @property
    def mean(self) -> np.ndarray:
        """float64 (C,)."""
        return self.sums / self.count

    @property
    def variance(self) -> np.ndarray:
        """float64 (C,), of the responses themselves (divided by their number, not by one less)."""
        return np.maximum(self.squares / self.count - self.mean**2, 0.0)

    @property
    def shares_below(self) -> np.ndarray:
        """float64 (C, NUM_BINS + 1): share of each channel's responses below each of ``BIN_EDGES``."""
        return np.pad(self.histogram.cumsum(axis=1), ((0, 0), (1, 0))) / self.count

    @property
    def num_responses(self) -> int:
        """Responses of all channels."""
        return self.count * len(self.active)

    @property
    def num_active(self) -> int:
        """Responses of all channels above 0."""
        return int(self.active.sum())

    @property
    def active_fraction(self) -> float:
        """Share of the responses above 0."""
        return self.num_active / self.num_responses

    def fraction_beyond(self, eps: float) -> float:
        """Share of the responses farther from 0 than ``eps`` standard deviations of their channel.

        The standard deviation is that of the same responses, hence known only at the end: the share is read
        off the histograms, as if the responses were spread evenly within each bin. A channel that always
        responds with the same value counts fully unless that value is 0.

        Args:
            eps: positive, without unit.
        """
        limits = eps * np.sqrt(self.variance)
        within = [
            np.interp(limit, BIN_EDGES, below) - np.interp(-limit, BIN_EDGES, below)
            for limit, below in zip(limits, self.shares_below)
        ]
        beyond = np.where(limits > 0, 1 - np.array(within), self.mean != 0)
        return float(beyond.mean())


def mean_activity(layers: Sequence[LayerResponses]) -> float:
    """Share of active responses as a mean over layers, each of the same weight: the number for Table 3."""
    return float(np.mean([layer.active_fraction for layer in layers]))


def pooled_activity(layers: Sequence[LayerResponses]) -> float:
    """Share of active responses among those of all layers; the layers of high resolution dominate it."""
    return sum(layer.num_active for layer in layers) / sum(layer.num_responses for layer in layers)


def separation(first: LayerResponses, second: LayerResponses) -> np.ndarray:
    """Distance between the mean responses to two domains, in units of their common spread.

    Args:
        first: responses of a layer to one domain.
        second: responses of the same layer to the other.

    Returns:
        float64 (C,), ``|m1 - m2| / sqrt((v1 + v2) / 2)`` with the means and variances of each channel. If
        neither response varies: 0 for equal ones, else ``inf``.

    Source: our choice; Figure 2 only shows the distributions.
    """
    distance = np.abs(first.mean - second.mean)
    spread = np.sqrt((first.variance + second.variance) / 2)
    return np.divide(distance, spread, out=np.where(distance > 0, np.inf, 0.0), where=spread > 0)
