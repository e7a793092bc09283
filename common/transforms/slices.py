"""Random 2.5D samples from volumes that stay in the cache.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv 2020.
Implements: its 2.5D input, see :mod:`common.data.slice_stacks`; the target is the label of the middle slice.
Differs from the paper: it does not say how slices are drawn. Here every slice of a volume is equally likely,
those without the organ too, and volumes are drawn before (:mod:`common.engines.domain_sampler`).
Axes: C channels, S slices of a stack, X Y in the plane, Z across the slices.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_tensor

from common.data.slice_stacks import check_neighbors, slice_stack


class RandSliceStackd(Randomizable, MapTransform):
    """Replace a volume by one of its slices with its neighbors, and its label by that of this slice.

    Args:
        keys: images and labels on one grid, any dtype, (1, X, Y, Z); Z from foot to head, as after
            ``Orientationd`` to RAS.
        neighbors: T: slices on either side, the end slice repeated where there are none. The paper compares 0
            to 3.
        label_key: the one of ``keys`` of which only the slice itself is taken.
        allow_missing_keys: skip absent keys.

    Returns:
        On call, the data with float32 stacks (2 T + 1, X, Y), from foot to head, and the label (1, X, Y) in
        its own dtype. They are tensors without metadata: the affine of a volume is not that of a slice.

    Raises:
        InputError: ``neighbors`` is negative or no whole number.
        ValueError: on call: no volume of one channel, or different shapes.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        neighbors: int = 1,
        label_key: str = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.neighbors = check_neighbors(neighbors)
        self.label_key = label_key
        self.index = 0

    def randomize(self, data: int) -> None:
        """Draw the index of a slice; ``data`` is the number of slices."""
        self.index = int(self.R.randint(data))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draw one slice for all keys; see the class for what is raised."""
        sliced = dict(data)
        volumes = {key: convert_to_tensor(sliced[key], track_meta=False) for key in self.key_iterator(sliced)}
        shapes = {tuple(volume.shape) for volume in volumes.values()}
        if len(shapes) > 1 or any(len(shape) != 4 or shape[0] != 1 for shape in shapes):
            raise ValueError(
                f"{list(volumes)}: expected volumes of one shape (1, X, Y, Z), got {sorted(shapes)}"
            )
        if volumes:
            self.randomize(next(iter(shapes))[-1])
            for key, volume in volumes.items():
                is_label = key == self.label_key
                stack = slice_stack(volume[0], self.index, 0 if is_label else self.neighbors)
                sliced[key] = stack.contiguous() if is_label else stack.float().contiguous()
        return sliced
