"""Iteration of a MONAI trainer on labeled and unlabeled images, whose two branches must agree.

Paper: Fang and Li, "DMNet: Difference Minimization Network for Semi-supervised Segmentation in Medical
Images", MICCAI 2020, doi:10.1007/978-3-030-59710-8_52.
Implements: the alternation of labeled and unlabeled steps of network and discriminator.
Differs from the paper: of the alternation it says "in turn" only. The order here is our choice: labeled step
of the network, then of the discriminator, the same for unlabeled images. Adversarial terms are means over
pixels, where the paper prints sums, with which its weights would make no sense.
Axes: B batch, K classes, H W space.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.networks.utils import one_hot
from monai.utils import CommonKeys as Keys
from torch import Tensor, nn
from torch.optim import Optimizer

from common.engines.optimizer_steps import frozen, precision, take_step, update_scale
from common.errors import InputError
from common.losses.adversarial import fake_loss, generator_loss, real_loss
from common.losses.agreement import SharpenedAgreementLoss, sharpened


class AgreementStep:
    """What ``SupervisedTrainer`` does in an iteration (``iteration_update``); needs ``decollate=False``.

    Labeled: the network steps on the trainer's loss plus ``adv_weight`` times the adversarial term of both
    branches; then the discriminator on detached predictions and the labels. Unlabeled: the network steps on
    ``adv_weight`` times the adversarial term plus ``agreement_weight`` times the disagreement; then the
    discriminator on detached predictions alone. In the network's steps the discriminator is frozen.

    The output holds MONAI's entries of the labeled batch and the scalars ``segmentation_loss``,
    ``agreement_loss``, ``generator_loss_<stream>``, ``discriminator_loss_<stream>``, and
    ``foreground_labeled`` (of the labels) and ``foreground_unlabeled`` (of the averaged predictions): the
    share of pixels that are no background. If the last one falls to 0 the branches agree on nothing.

    Args:
        discriminator: masks (B, K, H, W) to logits per pixel; ``None``: no adversarial terms.
        optimizer: of the discriminator.
        adv_weight: lambda 1, the paper's 0.01.
        agreement_weight: lambda 2, the paper's 0.1; 0 leaves the disagreement out.
        agreement: the disagreement of both branches; its temperature also sharpens what the discriminator
            sees of unlabeled images.
        adv_on_sharpened: show the discriminator sharpened predictions of unlabeled images.

    Raises:
        InputError: a discriminator without optimizer or the reverse.

    Source: Fang 2020, losses and alternation.
    """

    def __init__(
        self,
        discriminator: nn.Module | None,
        optimizer: Optimizer | None,
        adv_weight: float = 0.01,
        agreement_weight: float = 0.1,
        agreement: SharpenedAgreementLoss | None = None,
        adv_on_sharpened: bool = True,
    ) -> None:
        if (discriminator is None) != (optimizer is None):
            raise InputError("discriminator and optimizer: expected both or neither")
        self.discriminator = discriminator
        self.optimizer = optimizer
        self.adv_weight = adv_weight
        self.agreement_weight = agreement_weight
        self.agreement = SharpenedAgreementLoss() if agreement is None else agreement
        self.adv_on_sharpened = adv_on_sharpened

    def __call__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        """One iteration.

        Args:
            engine: its network, optimizer, loss, inferer and precision are used.
            batchdata: ``labeled``: a batch with ``image`` and ``label`` (B, 1, H, W); ``unlabeled``, if any:
                a batch with ``image``.

        Returns:
            The iteration's output.
        """
        labeled = engine.prepare_batch(
            batchdata["labeled"], engine.state.device, engine.non_blocking, **engine.to_kwargs
        )
        output: dict[str, Any] = {Keys.IMAGE: labeled[0], Keys.LABEL: labeled[1]}
        engine.state.output = output
        engine.network.train()
        self._labeled(engine, output)
        if "unlabeled" in batchdata:
            image = batchdata["unlabeled"][Keys.IMAGE].to(
                engine.state.device, non_blocking=engine.non_blocking
            )
            self._unlabeled(engine, output, image)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _labeled(self, engine: SupervisedTrainer, output: dict[str, Any]) -> None:
        label = output[Keys.LABEL]
        with precision(engine):
            logits = engine.inferer(output[Keys.IMAGE], engine.network)
        output[Keys.PRED] = logits.detach()
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        loss = engine.loss_function(logits, label).mean()
        output["segmentation_loss"] = loss.detach()
        output["foreground_labeled"] = (label > 0).float().mean()
        masks = sharpened(logits, 1.0)
        reference = one_hot(label, logits.shape[-3], dtype=masks.dtype)
        output[Keys.LOSS] = self._network_step(engine, output, "labeled", loss, masks)
        self._discriminator_step(engine, output, "labeled", masks.detach(), reference)
        update_scale(engine)

    def _unlabeled(self, engine: SupervisedTrainer, output: dict[str, Any], image: Tensor) -> None:
        with precision(engine):
            logits = engine.inferer(image, engine.network)
        disagreement = self.agreement(logits)
        output["agreement_loss"] = disagreement.detach()
        probabilities = sharpened(logits.detach(), 1.0).mean(dim=1)
        output["foreground_unlabeled"] = (probabilities.argmax(dim=1) > 0).float().mean()
        masks = sharpened(logits, self.agreement.temperature if self.adv_on_sharpened else 1.0)
        loss = self.agreement_weight * disagreement
        output[Keys.LOSS] = output[Keys.LOSS] + self._network_step(engine, output, "unlabeled", loss, masks)
        self._discriminator_step(engine, output, "unlabeled", masks.detach(), None)
        update_scale(engine)

    def _network_step(
        self, engine: SupervisedTrainer, output: dict[str, Any], stream: str, loss: Tensor, masks: Tensor
    ) -> Tensor:
        """Step of the network; returns its loss."""
        if self.discriminator is not None:
            with frozen(self.discriminator) as discriminator, precision(engine):
                misled = sum(generator_loss(discriminator(branch)) for branch in masks.unbind(dim=1))
            output[f"generator_loss_{stream}"] = misled.detach()
            loss = loss + self.adv_weight * misled
        take_step(engine, engine.optimizer, loss)
        return loss.detach()

    def _discriminator_step(
        self,
        engine: SupervisedTrainer,
        output: dict[str, Any],
        stream: str,
        masks: Tensor,
        reference: Tensor | None,
    ) -> None:
        if self.discriminator is None:
            return
        self.discriminator.train()
        # One pass for all: the discriminator has no batch norm, and a parallel wrapper wants one pass a step.
        shown = list(masks.unbind(dim=1)) + ([] if reference is None else [reference])
        with precision(engine):
            answers = self.discriminator(torch.cat(shown)).split(masks.shape[0])
        loss = fake_loss(answers[0]) + fake_loss(answers[1])
        if reference is not None:
            loss = loss + real_loss(answers[2])
        output[f"discriminator_loss_{stream}"] = loss.detach()
        take_step(engine, self.optimizer, loss)
