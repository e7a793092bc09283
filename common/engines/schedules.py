"""Learning rates over training, as plain functions for ``torch.optim.lr_scheduler.LambdaLR``, and per layer.

Paper: Zhao et al., "M2SNet: Multi-scale in Multi-scale Subtraction Network for Medical Image Segmentation",
arXiv 2303.10894; Zhang et al., "A Semantic Knowledge Complementarity based Decoupling Framework for
Semi-supervised Class-imbalanced Medical Image Segmentation" (SKCDF), CVPR 2025.
Implements: M2SNet's section on implementation details, warm-up and linear decay; the polynomial decay and the
ramp of the unlabeled loss of SKCDF's released code, with its lag of an epoch.
Differs from the papers: nothing; M2SNet's released code has a backbone group that stays empty, because it
looks for another name, so that everything trains at the rate of the head. Here such a group is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from common.engines.weights import unwrapped
from common.errors import InputError


def triangle(epoch: int, max_epochs: int) -> float:
    """Factor of the learning rate that rises linearly to the middle of training and falls again.

    Constant within an epoch. With an odd number of epochs the middle one has factor 1, with an even number
    the two in the middle share the largest value, n / (n + 1).

    Args:
        epoch: 0 for the first, as ``LambdaLR`` counts.
        max_epochs: number of epochs n.

    Returns:
        1 - |2 (epoch + 1) / (n + 1) - 1|; 0 after the last epoch.

    Raises:
        InputError: ``max_epochs`` is not positive.

    Source: Zhao 2023, released code.
    """
    if max_epochs < 1:
        raise InputError(f"max_epochs: expected at least 1, found {max_epochs}")
    return max(0.0, 1 - abs(2 * (epoch + 1) / (max_epochs + 1) - 1))


def lagged_poly(epoch: int, last_epoch: int, power: float = 0.9) -> float:
    """Factor of the learning rate that falls as a power of what is left of training, an epoch late.

    The first two epochs share the factor 1, so the last one still has a rate above 0.

    Args:
        epoch: e, 0 for the first, as ``LambdaLR`` counts.
        last_epoch: E, the number of the last epoch; with the paper's 1500 there are 1501.
        power: the paper's 0.9.

    Returns:
        (1 - t / E)^power with t = max(e - 1, 0); 0 after the last epoch.

    Raises:
        InputError: ``last_epoch`` is not positive.

    Source: Zhang 2025, released code.
    """
    return (1 - _lagged_share(epoch, last_epoch)) ** power


def lagged_ramp(epoch: int, last_epoch: int, peak: float = 10.0) -> float:
    """Weight of the unlabeled loss, which rises over all of training like half a bell curve, an epoch late.

    Args:
        epoch: e, 0 for the first.
        last_epoch: E, the number of the last epoch (the paper's 1500).
        peak: weight at the end, w_max (the paper's 10).

    Returns:
        peak * exp(-5 (1 - t / E)^2) with t = max(e - 1, 0); ``peak`` after the last epoch.

    Raises:
        InputError: ``last_epoch`` is not positive.

    Source: Zhang 2025, released code.
    """
    return peak * math.exp(-5 * (1 - _lagged_share(epoch, last_epoch)) ** 2)


def warm_up(epoch: int, warm_up_epochs: int) -> float:
    """Factor that rises linearly in the first epochs, to multiply the factor of another schedule with.

    Args:
        epoch: e, 0 for the first, as ``LambdaLR`` counts.
        warm_up_epochs: number n of epochs below the full rate; 0: none.

    Returns:
        (e + 1) / (n + 1), at most 1.

    Raises:
        InputError: ``warm_up_epochs`` is negative.

    Source: our choice; the released code of SKCDF starts with the full rate.
    """
    if warm_up_epochs < 0:
        raise InputError(f"warm_up_epochs: expected at least 0, found {warm_up_epochs}")
    return min((epoch + 1) / (warm_up_epochs + 1), 1.0)


def _lagged_share(epoch: int, last_epoch: int) -> float:
    """What part of training was over an epoch ago, in [0, 1]."""
    if last_epoch < 1:
        raise InputError(f"last_epoch: expected at least 1, found {last_epoch}")
    return min(max(epoch - 1, 0) / last_epoch, 1.0)


def learning_rate_groups(network: nn.Module, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: the named parts of a network with their own learning rates.

    All other parameters form a last group without a rate, which takes the optimizer's.

    Args:
        network: its trainable parameters are grouped; parallel wrappers are looked through.
        rates: learning rate by the name of a part, e.g. ``{"encoder": 0.005}``; empty: one group.

    Returns:
        Groups in the order of ``rates``, the rest at the end if there is any. Every trainable parameter is in
        exactly one group.

    Raises:
        InputError: a name that matches no trainable parameter left by the names before it.
    """
    network = unwrapped(network)
    left = {name: value for name, value in network.named_parameters() if value.requires_grad}
    groups: list[dict[str, Any]] = []
    for part, rate in rates.items():
        names = [name for name in left if name == part or name.startswith(f"{part}.")]
        if not names:
            children = ", ".join(name for name, _ in network.named_children())
            raise InputError(f"rates: expected parts of the network ({children}), found {part!r}")
        groups.append({"params": [left.pop(name) for name in names], "lr": rate})
    return [*groups, {"params": list(left.values())}] if left else groups
