"""What tests of transforms that work slab by slab share: traces to compare, and the largest tensor made."""

import torch
from torch.overrides import TorchFunctionMode


def traces(image):
    """What was done to an image, but for the identity of the transform."""
    return [
        {key: str(value) for key, value in item.items() if key != "id"} for item in image.applied_operations
    ]


class Largest(TorchFunctionMode):
    """Notes the most numbers in any tensor of some kind that a function of PyTorch gives.

    Args:
        counts: whether a tensor is of that kind, from the function and the tensor.
    """

    def __init__(self, counts):
        super().__init__()
        self.counts = counts
        self.numbers = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and self.counts(func, found):
            self.numbers = max(self.numbers, found.numel())
        return found
