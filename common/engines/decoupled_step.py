"""Iteration of a MONAI trainer whose labeled decoder teaches another one on unlabeled scans.

Paper: Zhang et al., "A Semantic Knowledge Complementarity based Decoupling Framework for Semi-supervised
Class-imbalanced Medical Image Segmentation" (SKCDF), CVPR 2025.
Implements: an iteration of the released code: pulls between decoders and heads, supervised and balanced loss,
pseudo-labels, their annealed balance and the ramp of their weight.
Differs from the paper: gradients can be clipped, which the released code cannot; off by default.
Axes: B batch, b labeled scans of it and as many unlabeled ones, K classes, D H W space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys as Keys
from torch import Tensor

from common.engines.ema_pulls import EmaPulls
from common.engines.optimizer_steps import precision, take_step, update_scale
from common.engines.schedules import lagged_ramp
from common.engines.weights import unwrapped
from common.errors import InputError
from common.losses.balanced import annealed_ratios, balanced_mask

_UNLABELED = "unlabeled"


class DecoupledStep:
    """What ``SupervisedTrainer`` does in an iteration (``iteration_update``); needs ``decollate=False``.

    The pulls come first. One forward pass then gives the logits of the labeled and the unlabeled scans by the
    labeled decoder (paired), and of the unlabeled scans by the unlabeled decoder (single). The loss of the
    labeled scans is that of the main head and, masked by class, that of the balanced head. Each head's
    classes of the unlabeled scans, paired, are the pseudo-labels of the same head's single logits; the mask
    there starts with every voxel and ends with the ratios of the labeled scans. One step on the sum, the
    unlabeled part times a weight that rises over training.

    A batch without ``unlabeled`` is a supervised step: the same loss of labeled scans, by the decoder that is
    deployed. It suits networks without labeled decoder only, as nothing would train that one.

    Masks are drawn from PyTorch's own random numbers, so an epoch can be repeated
    (:class:`~common.engines.epoch_seed.EpochSeed`).

    The output holds MONAI's entries of the labeled batch (``pred``: main logits) and the scalars
    ``supervised_loss``; ``foreground_labeled`` (of the labels) and ``foreground_predicted`` (of what the
    deployed decoder predicts: of unlabeled scans, in a supervised step of labeled ones), shares of voxels
    that are no background; with unlabeled scans ``pseudo_loss``, ``unlabeled_weight``,
    ``foreground_unlabeled`` (of the main head's pseudo-labels) and their share of each class,
    ``pseudo_<class name>``; with balanced heads ``balanced_loss`` and ``pseudo_balanced_loss``; with clipping
    ``gradient_norm`` before it.

    Args:
        ratios: float (K,), by which the balanced heads' masks keep voxels of a class, as from
            :func:`~common.losses.balanced.class_ratios`; ``None`` without balanced heads.
        last_epoch: E, the number of the last epoch, the first being 0 (the paper's 1500).
        peak: weight of the unlabeled loss at the end, the paper's 10.
        pulls: made before each forward pass; ``None``: no pulls.
        max_grad_norm: gradients of a larger norm, over all parameters, are scaled to it; ``None``: never.
        names: of the foreground classes, in order; ``None``: ``class_1``, ``class_2`` and so on.

    Raises:
        InputError: ``last_epoch`` or ``max_grad_norm`` is not positive; while running, scans of different
            number or size, a network of another kind, or ratios or names that do not fit it.

    Source: Zhang 2025, released code.
    """

    def __init__(
        self,
        ratios: Tensor | None,
        last_epoch: int,
        peak: float = 10.0,
        pulls: EmaPulls | None = None,
        max_grad_norm: float | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        lagged_ramp(0, last_epoch, peak)  # refuses a wrong last_epoch before any data is loaded
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise InputError(f"max_grad_norm: expected null or a number above 0, found {max_grad_norm}")
        self.ratios = ratios
        self.last_epoch = last_epoch
        self.peak = peak
        self.pulls = pulls
        self.max_grad_norm = max_grad_norm
        self.names = names

    def __call__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        """One iteration.

        Args:
            engine: its network, optimizer, loss, inferer and precision are used. The network takes images and
                ``num_labeled``, and gives (3b, heads, K, D, H, W), or of images alone (b, heads, K, D, H, W);
                the loss takes logits, labels and, for balanced heads, a mask.
            batchdata: ``labeled``: a batch with ``image`` and ``label`` (b, 1, D, H, W); ``unlabeled``, if
                any: a batch with as many ``image``.

        Returns:
            The iteration's output.
        """
        image, label = engine.prepare_batch(
            batchdata["labeled"], engine.state.device, engine.non_blocking, **engine.to_kwargs
        )
        output: dict[str, Any] = {Keys.IMAGE: image, Keys.LABEL: label}
        engine.state.output = output
        engine.network.train()
        if self.pulls is not None:
            self.pulls()
        if _UNLABELED in batchdata:
            unlabeled = batchdata[_UNLABELED][Keys.IMAGE]
            unlabeled = unlabeled.to(engine.state.device, non_blocking=engine.non_blocking)
            loss = self._both(engine, output, unlabeled)
        else:
            loss = self._supervised(engine, output)
        output["foreground_labeled"] = (label > 0).float().mean()
        norm = take_step(engine, engine.optimizer, loss, self.max_grad_norm)
        update_scale(engine)
        if norm is not None:
            output["gradient_norm"] = norm
        output[Keys.LOSS] = loss.detach()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _supervised(self, engine: SupervisedTrainer, output: dict[str, Any]) -> Tensor:
        if getattr(unwrapped(engine.network), "labeled_decoder", None) is not None:
            raise InputError(
                "batch without unlabeled scans: expected a network without labeled decoder (decoupled false),"
                " found one with it, which nothing would train"
            )
        logits = self._forward(engine, output[Keys.IMAGE], num_labeled=0)
        self._note_predictions(engine, output, logits, logits)
        return self._loss_of_labels(engine, output, logits)

    def _both(self, engine: SupervisedTrainer, output: dict[str, Any], unlabeled: Tensor) -> Tensor:
        image = output[Keys.IMAGE]
        if unlabeled.shape != image.shape:
            raise InputError(
                f"unlabeled images: expected the shape of the labeled ones, {list(image.shape)}, found"
                f" {list(unlabeled.shape)}; give both loaders the same batch_size, drop_last and crop"
            )
        logits = self._forward(engine, torch.cat([image, unlabeled]), num_labeled=len(image))
        labeled, paired, single = logits.split(len(image))
        self._note_predictions(engine, output, labeled, single)
        loss = self._loss_of_labels(engine, output, labeled)
        epoch = engine.state.epoch - 1
        weight = lagged_ramp(epoch, self.last_epoch, self.peak)
        output["unlabeled_weight"] = torch.tensor(weight)
        pseudo = paired.detach().argmax(dim=2)  # (b, heads, D, H, W)
        self._note_classes(output, pseudo[:, 0], logits.shape[2])
        ratios = None if self.ratios is None else annealed_ratios(self.ratios, epoch, self.last_epoch)
        pseudo_loss = self._loss(engine, output, "pseudo_loss", single[:, 0], pseudo[:, :1])
        if logits.shape[1] > 1:
            name, classes = "pseudo_balanced_loss", pseudo[:, 1:]
            mask = balanced_mask(classes, ratios)
            pseudo_loss = pseudo_loss + self._loss(engine, output, name, single[:, 1], classes, mask)
        return loss + weight * pseudo_loss

    def _forward(self, engine: SupervisedTrainer, image: Tensor, num_labeled: int) -> Tensor:
        """Logits (3 ``num_labeled`` or B, heads, K, D, H, W), checked."""
        pairs = {"num_labeled": num_labeled} if num_labeled else {}
        with precision(engine):
            logits = engine.inferer(image, engine.network, **pairs)
        rows = 3 * num_labeled or len(image)
        if logits.ndim != image.ndim + 1 or len(logits) != rows or logits.shape[1] not in (1, 2):
            raise InputError(
                f"network: expected logits ({rows}, 1 or 2 heads, classes, ...), found {list(logits.shape)}"
            )
        heads, num_classes = logits.shape[1:3]
        if heads > 1 and (self.ratios is None or len(self.ratios) != num_classes):
            found = "none" if self.ratios is None else len(self.ratios)
            raise InputError(f"ratios: expected one for each of {num_classes} classes, found {found}")
        if self.names is not None and len(self.names) != num_classes - 1:
            raise InputError(
                f"names: expected {num_classes - 1}, one per foreground class, found {list(self.names)}"
            )
        return logits

    def _loss_of_labels(self, engine: SupervisedTrainer, output: dict[str, Any], logits: Tensor) -> Tensor:
        label = output[Keys.LABEL]
        loss = self._loss(engine, output, "supervised_loss", logits[:, 0], label)
        if logits.shape[1] > 1:
            mask = balanced_mask(label, self.ratios)
            loss = loss + self._loss(engine, output, "balanced_loss", logits[:, 1], label, mask)
        return loss

    def _loss(
        self,
        engine: SupervisedTrainer,
        output: dict[str, Any],
        name: str,
        logits: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        loss = engine.loss_function(logits, labels, mask)
        output[name] = loss.detach()
        return loss

    def _note_predictions(
        self, engine: SupervisedTrainer, output: dict[str, Any], labeled: Tensor, deployed: Tensor
    ) -> None:
        output[Keys.PRED] = labeled[:, 0].detach()
        output["foreground_predicted"] = (deployed[:, 0].detach().argmax(dim=1) > 0).float().mean()
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)

    def _note_classes(self, output: dict[str, Any], pseudo: Tensor, num_classes: int) -> None:
        names = self.names or [f"class_{index}" for index in range(1, num_classes)]
        shares = pseudo.flatten().bincount(minlength=num_classes).float() / pseudo.numel()
        output["foreground_unlabeled"] = shares[1:].sum()
        for name, share in zip(["background", *names], shares.unbind(), strict=True):
            output[f"pseudo_{name}"] = share
