"""Weights and inputs that follow from their names alone, so that two implementations can be compared.

Element j of the tensor called N is a 32-bit hash of (CRC-32 of N, j), read as a number in (0, 1). Parity
numbers that were made with this rule need no file of weights, only names, shapes and the rule.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

_STEP = np.uint32(2654435761)
_MIX = np.uint32(0x45D9F3B)
# Their inputs are sums over 64 channels and 9 or 25 pixels.
_SUMMING_NORMS = ("conv_3.norm.", "conv_5.norm.")


def uniform(name: str, shape: Sequence[int]) -> Tensor:
    """float64 tensor of ``shape`` with numbers in (0, 1) that depend on its name only."""
    bits = np.arange(np.prod(shape, dtype=np.int64), dtype=np.uint32)
    bits *= _STEP  # modulo 2**32, as unsigned integers wrap around
    bits += np.uint32(zlib.crc32(name.encode()))
    for _ in range(2):
        bits ^= bits >> np.uint32(16)
        bits *= _MIX
    bits ^= bits >> np.uint32(16)
    return torch.from_numpy((bits + 0.5) / 2.0**32).reshape(tuple(shape))


def deterministic_input(name: str, shape: Sequence[int]) -> Tensor:
    """float64 tensor of ``shape`` with numbers in (-2, 2): images, logits or features called ``name``."""
    return 4 * (uniform(name, shape) - 0.5)


def deterministic_weight(name: str, shape: Sequence[int]) -> Tensor:
    """float64 weights of the state-dict entry ``name``, in the range usual for its kind."""
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return torch.zeros(tuple(shape), dtype=torch.int64)
    u = uniform(name, shape)
    if kind == "weight" and len(shape) > 1:
        fan_in = int(np.prod(shape[1:]))
        return (2 * u - 1) * (3 / fan_in) ** 0.5
    sums = name.startswith(_SUMMING_NORMS)
    return {
        "weight": 0.4 + 0.4 * u,
        "bias": 0.4 * (u - 0.5),
        "running_mean": 200 + 200 * u if sums else 0.4 * (u - 0.5),
        "running_var": 1e4 * (0.5 + u) if sums else 0.5 + u,
    }[kind]


def fill_deterministically(module: nn.Module, rename: Callable[[str], str] = str) -> nn.Module:
    """Give every entry of a module's state dict its deterministic weight, in float64.

    Args:
        module: changed in place; may have been built on the meta device.
        rename: from the module's own name of an entry to the name that the rule hashes.

    Returns:
        ``module``.
    """
    weights = {
        key: deterministic_weight(rename(key), value.shape) for key, value in module.state_dict().items()
    }
    module.load_state_dict(weights, assign=True)
    return module
