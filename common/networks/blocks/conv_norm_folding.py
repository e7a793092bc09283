"""Folding normalizations into the convolutions and linear layers beside them, in modules and in state dicts.

In evaluation mode a batch normalization maps each channel v to ``s v + (beta - mean s)`` with
``s = gamma / sqrt(variance + eps)``, so a convolution before it can do this work with other weights: kernel
``s K`` and bias ``s b + beta - mean s``. A pair is given by two names, so any layout of a network will do. An
empty first name stands for a normalization without convolution, which becomes a scale and a shift.

A layer normalization has no stored statistics, but its last step is ``gamma u + beta`` per channel. A layer
after it that mixes channels, with weights W and bias b, can do this work: weights ``W gamma``, bias
``b + W beta``.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Pairs = Iterable[tuple[str, str]]
AffinePairs = Iterable[tuple[str, tuple[str, ...]]]
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORM_ENTRIES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class ChannelAffine(nn.Module):
    """A scale and a shift per channel: what remains of a normalization in evaluation mode.

    Args:
        weight: float (C,), the scales.
        bias: float (C,), the shifts.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, [D,] H, W) to the same shape."""
        shape = [-1] + [1] * (features.dim() - 2)
        return features * self.weight.view(shape) + self.bias.view(shape)


def folding_pairs(network: nn.Module) -> list[tuple[str, str]]:
    """Names of all (convolution, normalization) pairs inside a network.

    Args:
        network: any module. Those of its parts that have a method ``folding_pairs`` (without arguments, names
            relative to the part) are asked; the network's own method, if any, is not.

    Returns:
        Names relative to ``network``, in order of registration.
    """
    return [
        (f"{name}.{conv}" if conv else "", f"{name}.{norm}")
        for name, module in network.named_modules()
        if module is not network and hasattr(module, "folding_pairs")
        for conv, norm in module.folding_pairs()
    ]


def affine_pairs(network: nn.Module) -> list[tuple[str, tuple[str, ...]]]:
    """Names of all (layer normalization, layers that get its output) inside a network.

    Args:
        network: any module. Those of its parts that have a method ``affine_pairs`` (without arguments, names
            relative to the part) are asked; the network's own method, if any, is not.

    Returns:
        Names relative to ``network``, in order of registration.
    """
    return [
        (f"{name}.{norm}", tuple(f"{name}.{layer}" for layer in layers))
        for name, module in network.named_modules()
        if module is not network and hasattr(module, "affine_pairs")
        for norm, layers in module.affine_pairs()
    ]


def transposed_convolutions(network: nn.Module) -> set[str]:
    """Names of the transposed convolutions of a network; their kernels have the outputs on axis 1."""
    return {name for name, module in network.named_modules() if isinstance(module, _TRANSPOSED)}


def folded_parameters(
    norm: Mapping[str, Tensor],
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    is_transposed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Kernel and bias that equal a convolution and the normalization after it.

    Args:
        norm: ``weight``, ``bias``, ``running_mean`` and ``running_var`` of the normalization, float (C_out,).
        eps: of the normalization.
        weight: kernel of the convolution, float (C_out, C_in, [D,] H, W); ``None``: no convolution.
        bias: of the convolution, float (C_out,), or ``None``.
        is_transposed: the kernel is that of a transposed convolution, (C_in, C_out, [D,] H, W), of one group.

    Returns:
        Kernel (scales (C_out,) without a convolution) and bias (C_out,), computed in float64 and rounded once
        to the type of ``weight`` (of the normalization's).
    """
    scale = norm["weight"].double() / torch.sqrt(norm["running_var"].double() + eps)
    shift = norm["bias"].double() - norm["running_mean"].double() * scale
    if weight is None:
        return scale.to(norm["weight"].dtype), shift.to(norm["weight"].dtype)
    if bias is not None:
        shift = shift + bias.double() * scale
    axis = 1 if is_transposed else 0
    kernel = weight.double() * scale.view([-1 if index == axis else 1 for index in range(weight.dim())])
    return kernel.to(weight.dtype), shift.to(weight.dtype)


def folded_affine(
    norm: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weights and bias that equal the last step of a layer normalization and the layer after it.

    Args:
        norm: ``weight`` and ``bias`` of the normalization, float (C_in,).
        weight: of a linear layer, float (C_out, C_in), or of a convolution of single pixels or voxels,
            (C_out, C_in, [1,] 1, 1).
        bias: of the layer, float (C_out,), or ``None``.

    Returns:
        Weights and bias (C_out,), computed in float64 and rounded once to the type of ``weight``.
    """
    shift = weight.double().flatten(1) @ norm["bias"].double()
    if bias is not None:
        shift = shift + bias.double()
    scaled = weight.double() * norm["weight"].double().view(-1, *[1] * (weight.dim() - 2))
    return scaled.to(weight.dtype), shift.to(weight.dtype)


def fold_modules(network: nn.Module, pairs: Pairs) -> None:
    """Fold normalizations of a network in place; an identity takes the place of each.

    Args:
        network: changed; its outputs stay what they are in evaluation mode, up to rounding.
        pairs: names of convolutions and of the normalizations that directly follow them. An empty first name:
            the normalization follows no convolution and becomes a :class:`ChannelAffine`.
    """
    for conv_name, norm_name in pairs:
        norm = network.get_submodule(norm_name)
        statistics = {key: value.detach() for key, value in norm.state_dict().items()}
        if conv_name:
            conv = network.get_submodule(conv_name)
            bias = None if conv.bias is None else conv.bias.detach()
            is_transposed = isinstance(conv, _TRANSPOSED)
            weight, bias = folded_parameters(statistics, norm.eps, conv.weight.detach(), bias, is_transposed)
            conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
            successor: nn.Module = nn.Identity()
        else:
            successor = ChannelAffine(*folded_parameters(statistics, norm.eps))
        parent, _, leaf = norm_name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, successor)


def fold_affines(network: nn.Module, pairs: AffinePairs) -> None:
    """Fold the last step of layer normalizations of a network in place; one without that step remains.

    Args:
        network: changed; its outputs stay what they are, up to rounding.
        pairs: names of layer normalizations over one axis and of all layers that get their output.
    """
    for norm_name, layer_names in pairs:
        norm = network.get_submodule(norm_name)
        affine = {key: value.detach() for key, value in norm.state_dict().items()}
        for layer in map(network.get_submodule, layer_names):
            bias = None if layer.bias is None else layer.bias.detach()
            weight, bias = folded_affine(affine, layer.weight.detach(), bias)
            layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        parent, _, leaf = norm_name.rpartition(".")
        successor = nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)
        setattr(network.get_submodule(parent), leaf, successor)


def fold_state(
    state_dict: dict[str, Any],
    prefix: str,
    pairs: Pairs,
    eps: float = 1e-5,
    transposed: Collection[str] = (),
) -> None:
    """Turn the state dict of a network before folding into the one after it, in place.

    Args:
        state_dict: of the training form, or of the folded form, which stays as it is.
        prefix: what precedes the names of the pairs in the state dict, with its final dot.
        pairs: as for :func:`fold_modules`.
        eps: of the normalizations; PyTorch's default.
        transposed: those convolutions of ``pairs`` that are transposed, which a state dict does not tell; see
            :func:`transposed_convolutions`.
    """
    for conv_name, norm_name in pairs:
        norm = f"{prefix}{norm_name}."
        if f"{norm}running_var" not in state_dict:
            continue
        entries = {key: state_dict.pop(norm + key) for key in _NORM_ENTRIES if norm + key in state_dict}
        target = f"{prefix}{conv_name}." if conv_name else norm
        weight, bias = (state_dict.get(target + key) for key in ("weight", "bias"))
        state_dict[f"{target}weight"], state_dict[f"{target}bias"] = folded_parameters(
            entries, eps, weight, bias, conv_name in transposed
        )


def fold_affine_state(state_dict: dict[str, Any], prefix: str, pairs: AffinePairs) -> None:
    """Turn the state dict of a network before :func:`fold_affines` into the one after it, in place.

    Args:
        state_dict: of either form; that of the folded form stays as it is.
        prefix: what precedes the names of the pairs in the state dict, with its final dot.
        pairs: as for :func:`fold_affines`.
    """
    for norm_name, layer_names in pairs:
        norm = f"{prefix}{norm_name}."
        if f"{norm}weight" not in state_dict:
            continue
        affine = {key: state_dict.pop(norm + key) for key in ("weight", "bias")}
        for target in (f"{prefix}{name}." for name in layer_names):
            state_dict[f"{target}weight"], state_dict[f"{target}bias"] = folded_affine(
                affine, state_dict[f"{target}weight"], state_dict.get(f"{target}bias")
            )


class FoldableNetwork(nn.Module):
    """A network whose parts tell what can be folded, see :func:`folding_pairs` and :func:`affine_pairs`.

    Attributes:
        fused: whether this is the deployment form. It accepts checkpoints of the training form.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fused = False

    @torch.jit.unused
    def fuse(self) -> None:
        """Turn this network into its deployment form, for good: it cannot be trained any more."""
        if not self.fused:
            fold_modules(self, folding_pairs(self))
            fold_affines(self, affine_pairs(self))
            self.fused = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.fused:
            fold_state(state_dict, prefix, folding_pairs(self), transposed=transposed_convolutions(self))
            fold_affine_state(state_dict, prefix, affine_pairs(self))
        super()._load_from_state_dict(state_dict, prefix, *args)
