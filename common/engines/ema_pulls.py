"""Slow pulls between parts of a network that all learn: main heads to balanced heads, decoder to decoder.

Paper: Zhang et al., "A Semantic Knowledge Complementarity based Decoupling Framework for Semi-supervised
Class-imbalanced Medical Image Segmentation" (SKCDF), CVPR 2025.
Implements: the moving averages of the released code, made before each iteration.
Differs from the paper: nothing. All pulls happen in place, where the released code exchanges the tensors, so
that optimizers and parallel wrappers keep the parameters they know.
"""

from __future__ import annotations

import torch
from torch import nn

from common.engines.weights import unwrapped
from common.errors import InputError


class EmaPulls:
    """Moves parameters a small step towards others: p becomes ``momentum`` p + (1 - ``momentum``) target.

    A call makes three pulls, one after the other: the main head of the labeled decoder to its balanced head;
    the whole unlabeled decoder, heads included, to the labeled one; the main head of the unlabeled decoder to
    its balanced head. What a network lacks takes no part: without labeled decoder the last pull remains,
    without balanced heads the second.

    Parameters alone are pulled, not the running statistics of batch norm. All of them stay ordinary
    parameters that the optimizer trains.

    Args:
        network: with ``labeled_decoder`` (or None) and ``unlabeled_decoder``, each with ``main_head`` and
            ``balanced_head`` (or None); parallel wrappers are looked through.
        momentum: m in [0, 1], the paper's 0.99.
        heads: pull main heads to balanced heads.
        decoders: pull the unlabeled decoder to the labeled one.

    Raises:
        InputError: ``momentum`` outside [0, 1], or a network without these decoders.

    Source: Zhang 2025, released code.
    """

    def __init__(
        self, network: nn.Module, momentum: float = 0.99, heads: bool = True, decoders: bool = True
    ) -> None:
        if not 0 <= momentum <= 1:
            raise InputError(f"momentum: expected a number from 0 to 1, found {momentum}")
        inner = unwrapped(network)
        for name in ("labeled_decoder", "unlabeled_decoder"):
            if not hasattr(inner, name):
                raise InputError(f"network: expected the part {name}, found a {type(inner).__name__}")
        self.network = network
        self.momentum = momentum
        self.heads = heads
        self.decoders = decoders

    @torch.no_grad()
    def __call__(self) -> None:
        """Make the pulls; call it before the forward pass, whose graph keeps the parameters it has seen."""
        network = unwrapped(self.network)
        labeled, unlabeled = network.labeled_decoder, network.unlabeled_decoder
        if labeled is not None:
            if self.heads:
                self._pull_head(labeled)
            if self.decoders:
                self._pull(unlabeled, labeled)
        if self.heads:
            self._pull_head(unlabeled)

    def _pull_head(self, decoder: nn.Module) -> None:
        if decoder.balanced_head is not None:
            self._pull(decoder.main_head, decoder.balanced_head)

    def _pull(self, part: nn.Module, target: nn.Module) -> None:
        torch._foreach_lerp_(list(part.parameters()), list(target.parameters()), 1 - self.momentum)
