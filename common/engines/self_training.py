"""Iteration of a MONAI trainer that learns from its own earlier predictions of unlabeled images.

Paper: Bai et al., "Semi-supervised Learning for Network-Based Cardiac MR Image Segmentation", MICCAI 2017,
the baseline "semiFCN" of Fang and Li, "DMNet", MICCAI 2020.
Implements: the alternation of predicting masks of unlabeled images and training on them and on the labels.
Differs from the paper: masks are predicted when an image is needed, by a copy of the network made at the
start of each round, instead of for all images at once; and no conditional random field refines them.
Axes: B batch, K classes, H W space.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys as Keys
from torch import nn

from common.engines.optimizer_steps import precision, take_step, update_scale
from common.engines.weights import unwrapped
from common.errors import InputError


class SelfTrainingStep:
    """What ``SupervisedTrainer`` does in an iteration (``iteration_update``); needs ``decollate=False``.

    In the first round the network learns from labels alone. At the start of each later round a copy of it, in
    evaluation mode, becomes the teacher; the network then also learns from the teacher's classes of unlabeled
    images. Save ``teacher`` with the run (``partners`` of the checkpoints), so that it can be continued.

    The output holds MONAI's entries of the labeled batch and the scalars ``segmentation_loss``,
    ``pseudo_loss`` and ``foreground_unlabeled`` (share of pixels that the teacher calls foreground).

    Args:
        network: the trained network, of which the teacher is a copy; not wrapped for parallel training.
        round_epochs: epochs of a round.
        weight: of the loss on unlabeled images.

    Raises:
        InputError: rounds of less than one epoch.

    Source: Bai 2017; rounds and weight are our choice, as DMNet's paper does not tell its own.
    """

    def __init__(self, network: nn.Module, round_epochs: int = 50, weight: float = 1.0) -> None:
        if round_epochs < 1:
            raise InputError(f"round_epochs: expected at least 1, found {round_epochs}")
        self.teacher = copy.deepcopy(network).requires_grad_(False).eval()
        self.round_epochs = round_epochs
        self.weight = weight

    def __call__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        """One iteration.

        Args:
            engine: its network, optimizer, loss, inferer and precision are used.
            batchdata: ``labeled``: a batch with ``image`` and ``label`` (B, 1, H, W); ``unlabeled``: a batch
                with ``image``.

        Returns:
            The iteration's output.
        """
        image, label = engine.prepare_batch(
            batchdata["labeled"], engine.state.device, engine.non_blocking, **engine.to_kwargs
        )
        output: dict[str, Any] = {Keys.IMAGE: image, Keys.LABEL: label}
        engine.state.output = output
        self._start_round(engine)
        engine.network.train()
        with precision(engine):
            logits = engine.inferer(image, engine.network)
        output[Keys.PRED] = logits.detach()
        loss = engine.loss_function(logits, label).mean()
        output["segmentation_loss"] = loss.detach()
        if engine.state.epoch > self.round_epochs:
            unlabeled = batchdata["unlabeled"][Keys.IMAGE].to(engine.state.device)
            with torch.no_grad(), precision(engine):
                classes = self.teacher(unlabeled).argmax(dim=1, keepdim=True)
            with precision(engine):
                guesses = engine.inferer(unlabeled, engine.network)
            pseudo_loss = engine.loss_function(guesses, classes).mean()
            output["pseudo_loss"] = pseudo_loss.detach()
            output["foreground_unlabeled"] = (classes > 0).float().mean()
            loss = loss + self.weight * pseudo_loss
        take_step(engine, engine.optimizer, loss)
        update_scale(engine)
        output[Keys.LOSS] = loss.detach()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _start_round(self, engine: SupervisedTrainer) -> None:
        is_first_of_epoch = (engine.state.iteration - 1) % engine.state.epoch_length == 0
        if is_first_of_epoch and engine.state.epoch > 1 and (engine.state.epoch - 1) % self.round_epochs == 0:
            self.teacher.load_state_dict(unwrapped(engine.network).state_dict())
            self.teacher.to(engine.state.device).eval()
