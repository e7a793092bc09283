"""Memory that a training step of SKCDF keeps for its gradient: as released, and in this collection.

    python -m benchmarks.skcdf_memory --size 64,128,128 --pairs 2

Nothing is computed: PyTorch's meta device tells what each operation would save, in seconds and without a GPU.
Counted are the storages that forward and losses leave for backward, without weights. What comes on top is the
same in both forms: weights, gradients and momentum, the logits, and what an operation needs for itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from benchmarks.side_by_side import markdown
from benchmarks.skcdf_speed import released_form
from common.losses.balanced import BalancedDiceCELoss, balanced_mask
from common.networks.skcdf import SKCDF

_ALIGNMENT = 4


class AsOnGPU(TorchFunctionMode):
    """Lets the meta device save what a GPU saves, in float32, where the two use different kernels."""

    def __torch_function__(
        self,
        function: Callable,
        types: Collection[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Called by PyTorch in place of each of its functions."""
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention and all(map(is_fusable, args[:3])):
            rate, scale = kwargs["dropout_p"], kwargs["scale"]
            fused = torch.ops.aten._scaled_dot_product_efficient_attention
            return fused(*args[:3], None, True, rate, False, scale=scale)[0]
        if function is F.dropout and kwargs["training"]:
            return torch.native_dropout(args[0], kwargs["p"], True)[0]
        return function(*args, **kwargs)


def is_fusable(tensor: Tensor) -> bool:
    """Whether PyTorch's memory-efficient attention accepts a tensor; else it stores the logits.

    Args:
        tensor: float32 queries, keys or values, (A, H, m, N).
    """
    return tensor.dim() == 4 and tensor.stride(-1) == 1 and tensor.shape[-1] % _ALIGNMENT == 0


def saved_bytes(run: Callable[[], Any], ignored: Collection[Tensor] = ()) -> int:
    """Size of all storages that autograd keeps for backward, each counted once and whole.

    Args:
        run: what is recorded.
        ignored: tensors whose storages do not count.
    """
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), AsOnGPU():
        run()
    for tensor in ignored:
        kept.pop(tensor.untyped_storage()._cdata, None)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def step_loss(logits: Tensor, labels: Tensor, pairs: int, mask_dtype: torch.dtype = torch.bool) -> Tensor:
    """Sum of the four losses of a training step, with a ratio of 1/2 for all classes.

    Args:
        logits: float (3 b, 2, K, D, H, W), as from the network with b pairs.
        labels: class indices (b, 1, D, H, W).
        pairs: b.
        mask_dtype: of the masks; floating logits follow it.
    """
    loss, ratios = BalancedDiceCELoss(), torch.full((logits.shape[2],), 0.5, device=logits.device)
    pseudo = logits[pairs : 2 * pairs].detach().argmax(2, keepdim=True)
    total = torch.zeros((), device=logits.device)
    targets = ((logits[:pairs], labels, labels), (logits[2 * pairs :], pseudo[:, 0], pseudo[:, 1]))
    for heads, target, balanced in targets:
        mask = balanced_mask(balanced, ratios).to(mask_dtype)
        total = total + loss(heads[:, 0], target) + loss(heads[:, 1], balanced, mask)
    return total


def skcdf_memory(
    size: Sequence[int] = (64, 128, 128), pairs: int = 2, num_classes: int = 14, width: int = 32
) -> str:
    """Count what the forms of SKCDF keep in a training step, in float32.

    Args:
        size: D, H, W of the images, in voxels, multiples of 32.
        pairs: b; a batch has as many labeled and as many unlabeled images.
        num_classes: K.
        width: channels of the first level; 32 is the published network.

    Returns:
        A table in Markdown; 1 GiB is 2**30 bytes.
    """
    with torch.device("meta"):
        ours = SKCDF(1, num_classes, tuple(size), width).train()
        released = released_form(ours)
        image = torch.empty(2 * pairs, 1, *size)
        labels = torch.empty(pairs, 1, *size, dtype=torch.uint8)
    rows, first = [], 0.0
    for title, network, dtype in (("as released", released, torch.float64), ("ours", ours, torch.bool)):
        forward = functools.partial(network, image, pairs)
        step = functools.partial(_step, forward, labels, pairs, dtype)
        weights = list(network.parameters())
        parts = [saved_bytes(run, weights) / 2**30 for run in (forward, step)]
        first = first or parts[1]
        cells = [f"{gib:.2f}" for gib in (parts[0], parts[1] - parts[0], parts[1])]
        rows.append([title, *cells, f"{first / parts[1]:.2f}"])
    return markdown(["form", "network, GiB", "losses, GiB", "together, GiB", "times less"], rows)


def _step(forward: Callable[[], Tensor], *loss_arguments: Any) -> Tensor:
    return step_loss(forward(), *loss_arguments)


if __name__ == "__main__":
    import fire

    fire.Fire(skcdf_memory)
