"""What iterations with several networks and several steps need of a MONAI trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from torch import Tensor, nn
from torch.optim import Optimizer

from common.engines.weights import unwrapped


def precision(engine: SupervisedTrainer) -> AbstractContextManager:
    """Context for a forward pass in the trainer's precision: autocast with ``amp``, else as it is."""
    return torch.autocast("cuda", **engine.amp_kwargs) if engine.amp else nullcontext()


def take_step(
    engine: SupervisedTrainer, optimizer: Optimizer, loss: Tensor, max_grad_norm: float | None = None
) -> Tensor | None:
    """Backward pass and one step of an optimizer, scaled with ``amp``.

    With a scaler, call ``engine.scaler.update()`` once all optimizers have stepped, and before any of them
    steps again.

    Args:
        engine: the trainer.
        optimizer: its parameters' gradients are cleared first.
        loss: scalar.
        max_grad_norm: gradients whose L2 norm, over all parameters of the optimizer, is larger are scaled to
            it; ``None`` leaves them as they are.

    Returns:
        The norm before clipping, a scalar; ``None`` without ``max_grad_norm``.
    """
    optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
    scaler = engine.scaler if engine.amp else None
    (loss if scaler is None else scaler.scale(loss)).backward()
    norm = None
    if max_grad_norm is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)  # the limit is one for true gradients
        parameters = [value for group in optimizer.param_groups for value in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
    return norm


def update_scale(engine: SupervisedTrainer) -> None:
    """Let the scaler of ``amp`` adapt; nothing without one."""
    if engine.amp and engine.scaler is not None:
        engine.scaler.update()


@contextmanager
def frozen(network: nn.Module) -> Iterator[nn.Module]:
    """The network without its parallel wrapper and with parameters that want no gradient.

    The wrapper would wait for gradients that never come. Gradients reach the input as ever.

    Args:
        network: all of its parameters want gradients again afterwards.

    Yields:
        The inner network.
    """
    inner = unwrapped(network)
    inner.requires_grad_(False)
    try:
        yield inner
    finally:
        inner.requires_grad_(True)


def scalars(output: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> dict[str, float]:
    """The scalars of a trainer's output by name, for TensorBoard (``output_transform``).

    Args:
        output: of an iteration, decollated or not.

    Returns:
        Every entry with a single element, as a number.
    """
    first = output if isinstance(output, Mapping) else output[0]
    return {
        name: value.item()
        for name, value in first.items()
        if isinstance(value, Tensor) and value.numel() == 1
    }
