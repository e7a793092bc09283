"""Refuses, before any data is loaded, a training that would stop at its first batch."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import InputError

logger = logging.getLogger(__name__)


def check_batch_norm(network: nn.Module, in_channels: int, roi_size: Sequence[int], batch_size: int) -> None:
    """Check that every batch norm gets more than one value per channel in training.

    A deep network shrinks a small patch to a single voxel; the variance of one value is undefined and torch
    stops with an error that names neither patch nor batch. The forward pass runs on torch's meta device:
    shapes only, no memory, no arithmetic. The network itself is not touched.

    Args:
        network: not wrapped for parallel training; without batch norm there is nothing to check.
        in_channels: channels of the image.
        roi_size: edge lengths of the training patch in voxels, one per spatial axis.
        batch_size: patches per step of one process, samples per case included. If the last batch of an epoch
            is smaller and not dropped, its size.

    Raises:
        InputError: a batch norm would see one value per channel.
    """
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return
    starved: list[tuple[str, torch.Size]] = []
    shadow = _on_meta(network).train()
    for name, module in shadow.named_modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(
                lambda layer, inputs, name=name: _note(layer, name, inputs[0], starved)
            )
    try:
        with torch.no_grad():
            shadow(torch.empty((batch_size, in_channels, *roi_size), device="meta"))
    except (NotImplementedError, RuntimeError, ValueError) as error:
        if not starved:
            logger.warning(f"batch norm could not be checked before training: {error}")
    if starved:
        name, shape = starved[0]
        raise InputError(
            f"roi_size {list(roi_size)} with batch_size {batch_size}: expected more than one value per"
            f" channel at every batch norm, found input {list(shape)} at {name!r};"
            " enlarge batch_size or roi_size"
        )


def check_patch_size(network: nn.Module, roi_size: Sequence[int]) -> None:
    """Warn of training patches that the network has to pad.

    The padding is cut off the output again, so what lies there is never trained, while the same positions of
    a full window count at inference: frames of nonsense along the borders of the image were the result.

    Args:
        network: says with ``size_multiple`` which edge lengths it takes as they are (others take all).
        roi_size: edge lengths of the training patch in voxels.
    """
    multiple = getattr(network, "size_multiple", 1)
    if any(edge % multiple for edge in roi_size):
        logger.warning(
            f"roi_size {list(roi_size)}: expected multiples of {multiple} for this network; the patches are"
            " padded, and predictions at the borders of larger windows will be poor"
        )


def check_multiple(roi_size: Sequence[int], multiple: int) -> None:
    """Refuse a patch that a network cannot halve as often as it has to, before the network is built.

    Args:
        roi_size: edge lengths of the patch in voxels.
        multiple: what has to divide them.

    Raises:
        InputError: it does not.
    """
    if any(edge < multiple or edge % multiple for edge in roi_size):
        nearest = [max(multiple, round(edge / multiple) * multiple) for edge in roi_size]
        raise InputError(
            f"roi_size: expected multiples of {multiple}, such as {nearest}, found {list(roi_size)}"
        )


def _on_meta(network: nn.Module) -> nn.Module:
    # Named in the memo, tensors are replaced instead of copied: no second set of weights in memory.
    tensors = chain(network.parameters(), network.buffers())
    return copy.deepcopy(network, {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors})


def _note(layer: nn.Module, name: str, features: Tensor, starved: list[tuple[str, torch.Size]]) -> None:
    if layer.training and features.numel() == features.shape[1]:
        starved.append((name, features.shape))
