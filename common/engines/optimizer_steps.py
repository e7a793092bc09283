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


def take_step(engine: SupervisedTrainer, optimizer: Optimizer, loss: Tensor) -> None:
    """Backward pass and one step of an optimizer, scaled with ``amp``.

    With a scaler, call ``engine.scaler.update()`` once all optimizers have stepped, and before any of them
    steps again.

    Args:
        engine: the trainer.
        optimizer: its parameters' gradients are cleared first.
        loss: scalar.
    """
    optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
    if engine.amp and engine.scaler is not None:
        engine.scaler.scale(loss).backward()
        engine.scaler.step(optimizer)
    else:
        loss.backward()
        optimizer.step()


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
