"""From the values stored in a label file to class indices, refusing whatever has no meaning."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from monai.utils import convert_to_dst_type

from common.data.label_codes import shown
from common.errors import InputError


def class_labels(label: torch.Tensor, class_of: Mapping[int, int], name: str) -> torch.Tensor:
    """Class index of every voxel of a label image.

    Args:
        label: any dtype, (C, spatial...); C > 1 only for pictures whose channels are all equal (a grey mask
            saved as RGB) or whose only other channel is a constant alpha.
        class_of: allowed label value -> class index below 256, background included.
        name: how to call the label in messages, usually its path.

    Returns:
        uint8 (1, spatial...), a ``MetaTensor`` with the same metadata if ``label`` is one.

    Raises:
        InputError: the channels differ, or there are values (NaN and fractions too) outside ``class_of``.
    """
    values = _single_channel(torch.as_tensor(label), name)
    classes = torch.zeros(values.shape, dtype=torch.uint8, device=values.device)
    is_known = torch.zeros(values.shape, dtype=torch.bool, device=values.device)
    for code, index in class_of.items():
        is_code = values == code
        classes[is_code] = index
        is_known |= is_code
    if not is_known.all():
        unknown = np.unique(values[~is_known].cpu().numpy()).tolist()  # torch would list each NaN
        raise InputError(
            f"{name}: expected label values {shown(sorted(class_of))}, found also {shown(unknown)} "
            f"in {int((~is_known).sum())} voxel(s)"
        )
    return convert_to_dst_type(classes, label, dtype=torch.uint8)[0]


def _single_channel(label: torch.Tensor, name: str) -> torch.Tensor:
    """(1, spatial...) view of a label whose channels all say the same."""
    # PNG writers add an alpha channel (2nd or 4th) that is the same everywhere and carries no label.
    has_alpha = label.shape[0] in (2, 4) and bool((label[-1] == label[-1].flatten()[0]).all())
    colors = label[:-1] if has_alpha else label
    if not bool((colors == colors[:1]).all()) and not bool(torch.isnan(colors).any()):
        raise InputError(
            f"{name}: expected a label with one channel (or equal ones), found {label.shape[0]} that differ"
        )
    return colors[:1]
