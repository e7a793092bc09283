"""Losses of a discriminator and of the network that tries to mislead it.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv 2020.
Implements: equations 5 and 6, in three forms.
Differs from the paper: the equations as printed have no lower bound on logits, and through a sigmoid no
gradient once the discriminator is sure. The default is the cross-entropy that the authors' released code has.
The printed form, through a sigmoid, is ``literal_sigmoid``.

Forms, for logits z of real pairs and f of fake ones, s the sigmoid; all means over all elements:

===============  ==================================  ==================  ===========================
form             discriminator                       generator           the discriminator calls real
===============  ==================================  ==================  ===========================
bce              mean -log s(z) + mean -log(1-s(f))  mean -log s(f)      1
literal_sigmoid  mean s(z) + mean (1 - s(f))         mean s(f)           0
lsgan            mean (z-1)^2 + mean f^2             mean (f-1)^2        1
===============  ==================================  ==================  ===========================

Axes: B batch, H W space.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from common.losses.structure import full_precision

FORMS = ("bce", "literal_sigmoid", "lsgan")


def real_loss(real_logits: Tensor, form: str = "bce") -> Tensor:
    """What the discriminator pays for its answers to real pairs: the first term of its loss.

    Args:
        real_logits: float, any shape: (B, 1), or (B, 1, H, W) for answers per pixel.
        form: one of the table in this module's header.

    Returns:
        Scalar, the mean over all elements.

    Raises:
        ValueError: unknown form, or no element.
    """
    logits = _checked("real_logits", real_logits, form)
    if form == "bce":
        return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    return logits.sigmoid().mean() if form == "literal_sigmoid" else (logits - 1).square().mean()


def fake_loss(fake_logits: Tensor, form: str = "bce") -> Tensor:
    """What the discriminator pays for its answers to fake pairs: the second term of its loss.

    Alone it is the loss of a batch that has no reference.

    Args:
        fake_logits: float, any shape, for predictions that were detached.
        form: as for :func:`real_loss`.

    Returns:
        Scalar, the mean over all elements.

    Raises:
        ValueError: unknown form, or no element.
    """
    logits = _checked("fake_logits", fake_logits, form)
    if form == "bce":
        return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))
    return (-logits).sigmoid().mean() if form == "literal_sigmoid" else logits.square().mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, form: str = "bce") -> Tensor:
    """Loss of the discriminator: the sum of its two terms, without a factor 1/2.

    Args:
        real_logits: float, any shape, answers to images with their references.
        fake_logits: float, any shape, answers to images with predictions that were detached.
        form: as for :func:`real_loss`.

    Returns:
        Scalar.

    Raises:
        ValueError: unknown form, or no element.

    Source: Baydar 2020, equation 5 (``literal_sigmoid``) and the released code (``bce``). ``lsgan``: Mao et
    al., "Least Squares Generative Adversarial Networks", ICCV 2017, equation 2 times two.
    """
    return real_loss(real_logits, form) + fake_loss(fake_logits, form)


def generator_loss(fake_logits: Tensor, form: str = "bce") -> Tensor:
    """Loss of the segmentation network for being found out; its weight in the total is the caller's.

    The answers must come from softmax probabilities with their gradient. Class maps or detached tensors turn
    the term off, and training looks normal.

    Args:
        fake_logits: float, any shape, answers to images with predictions.
        form: as for :func:`real_loss`.

    Returns:
        Scalar, the mean over all elements: how little the predictions pass for real.

    Raises:
        ValueError: unknown form, or no element.

    Source: Baydar 2020, equation 6 (``literal_sigmoid``); the others as for :func:`discriminator_loss`.
    """
    # In each form this is what the discriminator would pay if the pair were real.
    return real_loss(fake_logits, form)


def _checked(name: str, logits: Tensor, form: str) -> Tensor:
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS}, got {form!r}")
    if logits.numel() == 0:
        raise ValueError(f"{name}: expected at least one element, got the shape {tuple(logits.shape)}")
    return full_precision(logits)
