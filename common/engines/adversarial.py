"""Iteration of a MONAI trainer in which a discriminator learns beside the segmentation network.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv 2020.
Implements: the joint training of equations 1 to 7.
Differs from the paper: it does not show how the two steps alternate. One step each per iteration, the
discriminator's first, from one forward pass of the segmentation network, is our choice.
Axes: B batch, S slices of a stack, K classes, H W space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.networks.utils import one_hot
from monai.utils import CommonKeys as Keys
from torch import Tensor, nn
from torch.optim import Optimizer

from common.engines.optimizer_steps import frozen, precision, take_step, update_scale
from common.engines.weights import unwrapped
from common.errors import InputError
from common.losses.adversarial import FORMS, discriminator_loss, generator_loss

IMAGES = ("stack", "center")


class AdversarialStep:
    """What ``SupervisedTrainer`` does in an iteration (``iteration_update``).

    The network segments the batch once. The discriminator takes a step on real pairs (image, reference) and
    on fake pairs (image, detached softmax probabilities). Then the network takes a step on the trainer's loss
    plus ``weight`` times the adversarial term, with the discriminator frozen. After each step slopes are
    projected where a network has them (``project_slopes``).

    The iteration's output holds, besides MONAI's entries, the scalars ``segmentation_loss``,
    ``generator_loss``, ``discriminator_loss``, ``real_score`` and ``fake_score`` (mean of sigmoid(D)), and
    ``segmentation_loss_<domain>``.

    Args:
        discriminator: ``D(image, masks)`` to logits; ``None``: the network is trained by itself.
        optimizer: of the discriminator.
        weight: of the adversarial term, the paper's 0.001. With 0 the discriminator learns and the network
            does not hear of it.
        form: of the adversarial losses, see :mod:`common.losses.adversarial`.
        image: what of a stack the discriminator sees: ``stack`` (all slices) or ``center``.
        modality_weight: weight of the cross-entropy of ``network.classify_modality`` against the domain, for
            networks with such a classifier; 0: no such term.
        domains: names of the domains in the order of the classifier's classes.

    Raises:
        InputError: unknown form or image, a discriminator without optimizer, or a modality term without
            domains; while running, a batch with a domain that is not among them.

    Source: Baydar 2020, equations 5 to 7.
    """

    def __init__(
        self,
        discriminator: nn.Module | None,
        optimizer: Optimizer | None,
        weight: float = 0.001,
        form: str = "bce",
        image: str = "stack",
        modality_weight: float = 0.0,
        domains: Sequence[str] = (),
    ) -> None:
        for name, value, known in (("form", form, FORMS), ("image", image, IMAGES)):
            if value not in known:
                raise InputError(f"{name}: expected one of {', '.join(known)}, found {value!r}")
        if (discriminator is None) != (optimizer is None):
            raise InputError("discriminator and optimizer: expected both or neither")
        if modality_weight and not domains:
            raise InputError("domains: expected the classes of the modality classifier, found none")
        self.discriminator = discriminator
        self.optimizer = optimizer
        self.weight = weight
        self.form = form
        self.image = image
        self.modality_weight = modality_weight
        self.domains = list(domains)

    def __call__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        """One iteration.

        Args:
            engine: its network, optimizer, loss, inferer and precision are used.
            batchdata: ``image`` float (B, S, H, W), ``label`` class indices (B, 1, H, W) and, if known, the
                ``domain`` of each sample.

        Returns:
            The iteration's output.
        """
        image, label = engine.prepare_batch(
            batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs
        )
        output: dict[str, Any] = {Keys.IMAGE: image, Keys.LABEL: label}
        engine.state.output = output
        engine.network.train()
        with precision(engine):
            logits = engine.inferer(image, engine.network)
        output[Keys.PRED] = logits
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        probabilities = logits.softmax(dim=1)
        if self.discriminator is not None:
            self._teach_discriminator(engine, output, probabilities.detach())
        self._teach_network(engine, output, probabilities, batchdata.get("domain"))
        update_scale(engine)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _teach_discriminator(
        self, engine: SupervisedTrainer, output: dict[str, Any], probabilities: Tensor
    ) -> None:
        seen = self._seen(output[Keys.IMAGE])
        reference = one_hot(output[Keys.LABEL], probabilities.shape[1], dtype=probabilities.dtype)
        self.discriminator.train()
        with precision(engine):
            real, fake = self.discriminator(seen, reference), self.discriminator(seen, probabilities)
        loss = discriminator_loss(real, fake, self.form)
        take_step(engine, self.optimizer, loss)
        _project(self.discriminator)
        output["discriminator_loss"] = loss.detach()
        output["real_score"] = real.detach().float().sigmoid().mean()
        output["fake_score"] = fake.detach().float().sigmoid().mean()

    def _teach_network(
        self,
        engine: SupervisedTrainer,
        output: dict[str, Any],
        probabilities: Tensor,
        domains: Sequence[str] | None,
    ) -> None:
        logits, label = output[Keys.PRED], output[Keys.LABEL]
        loss = engine.loss_function(logits, label).mean()
        output["segmentation_loss"] = loss.detach()
        output.update(_loss_per_domain(engine, logits.detach(), label, domains))
        if self.discriminator is not None and self.weight:
            misled = self._misled(engine, output[Keys.IMAGE], probabilities)
            output["generator_loss"] = misled.detach()
            loss = loss + self.weight * misled
        if self.modality_weight:
            loss = loss + self.modality_weight * self._modality_loss(engine, output[Keys.IMAGE], domains)
        output[Keys.LOSS] = loss
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        take_step(engine, engine.optimizer, loss)
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        _project(engine.network)

    def _misled(self, engine: SupervisedTrainer, image: Tensor, probabilities: Tensor) -> Tensor:
        with frozen(self.discriminator) as discriminator, precision(engine):
            fake = discriminator(self._seen(image), probabilities)
        return generator_loss(fake, self.form)

    def _modality_loss(
        self, engine: SupervisedTrainer, image: Tensor, domains: Sequence[str] | None
    ) -> Tensor:
        unknown = sorted(set(domains or ["none"]) - set(self.domains))
        if unknown:
            raise InputError(f"domain: expected one of {', '.join(self.domains)}, found {', '.join(unknown)}")
        target = torch.tensor([self.domains.index(name) for name in domains], device=image.device)
        with precision(engine):
            logits = unwrapped(engine.network).classify_modality(image)
        return F.cross_entropy(logits.float(), target)

    def _seen(self, image: Tensor) -> Tensor:
        middle = image.shape[1] // 2
        return image if self.image == "stack" else image[:, middle : middle + 1]


def _project(network: nn.Module) -> None:
    network = unwrapped(network)
    if hasattr(network, "project_slopes"):
        network.project_slopes()


def _loss_per_domain(
    engine: SupervisedTrainer, logits: Tensor, label: Tensor, domains: Sequence[str] | None
) -> dict[str, Tensor]:
    """The segmentation loss of each domain's samples."""
    names = list(domains or [])
    with torch.no_grad():
        return {
            f"segmentation_loss_{name}": engine.loss_function(logits[chosen], label[chosen]).mean()
            for name in sorted(set(names))
            for chosen in [[index for index, found in enumerate(names) if found == name]]
        }
