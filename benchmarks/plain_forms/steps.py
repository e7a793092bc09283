"""Adversarial training steps that run the segmentation network anew for the discriminator.

Each player has its own forward pass, and the discriminator collects gradients in the network's step that
nothing uses: what a loop over two losses does if nobody thinks of it. Parameters end up the same; running
statistics see each batch twice.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.utils import CommonKeys as Keys
from torch import Tensor

from common.engines.adversarial import AdversarialStep
from common.engines.agreement_step import AgreementStep
from common.engines.optimizer_steps import take_step
from common.losses.adversarial import generator_loss
from common.losses.agreement import sharpened


class PlainAdversarialStep(AdversarialStep):
    """The cross-domain step with a forward pass of the network for each player."""

    def _teach_discriminator(
        self, engine: SupervisedTrainer, output: dict[str, Any], probabilities: Tensor
    ) -> None:
        with torch.no_grad():
            again = engine.inferer(output[Keys.IMAGE], engine.network).softmax(dim=1)
        super()._teach_discriminator(engine, output, again)

    def _misled(self, engine: SupervisedTrainer, image: Tensor, probabilities: Tensor) -> Tensor:
        return generator_loss(self.discriminator(self._seen(image), probabilities), self.form)


class PlainAgreementStep(AgreementStep):
    """DMNet's four steps with a forward pass of the network for each of them."""

    def _labeled(self, engine: SupervisedTrainer, output: dict[str, Any]) -> None:
        self._shown, self._temperature = output[Keys.IMAGE], 1.0
        super()._labeled(engine, output)

    def _unlabeled(self, engine: SupervisedTrainer, output: dict[str, Any], image: Tensor) -> None:
        self._shown = image
        self._temperature = self.agreement.temperature if self.adv_on_sharpened else 1.0
        super()._unlabeled(engine, output, image)

    def _network_step(
        self, engine: SupervisedTrainer, output: dict[str, Any], stream: str, loss: Tensor, masks: Tensor
    ) -> Tensor:
        # Before the step: the discriminator learns from the network as it was.
        with torch.no_grad():
            self._fakes = sharpened(engine.inferer(self._shown, engine.network), self._temperature)
        misled = sum(generator_loss(self.discriminator(branch)) for branch in masks.unbind(dim=1))
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
        super()._discriminator_step(engine, output, stream, self._fakes, reference)
