"""From the values stored in a label file to classes or masks, refusing whatever has no meaning."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from monai.transforms import AsDiscrete
from monai.utils import convert_to_dst_type

from common.data.label_codes import GRAY, LabelCodes, check_codes, class_of_code, shown
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


def gray_mask(label: torch.Tensor, name: str) -> torch.Tensor:
    """How far every pixel belongs to the one structure that gray masks show.

    Args:
        label: any dtype, (C, spatial...), 0 to 255; C > 1 for several masks of one image, whose union (the
            largest value) is taken, and for a gray mask saved as RGB.
        name: how to call the label in messages, usually its path.

    Returns:
        float32 (1, spatial...), 0 to 1: value / 255; a ``MetaTensor`` with the same metadata if ``label`` is
        one.

    Raises:
        InputError: NaN, values outside 0 .. 255, a mask with 1 but nothing above, or a last channel that
            looks like alpha.
    """
    values = torch.as_tensor(label).float()
    is_valid = (values >= 0) & (values <= 255)
    if not is_valid.all():
        wrong = np.unique(values[~is_valid].cpu().numpy()).tolist()
        raise InputError(
            f"{name}: expected gray values 0 to 255, found also {shown(wrong)} "
            f"in {int((~is_valid).sum())} voxel(s)"
        )
    if len(values) in (2, 4) and bool((values[-1] == 255).all()) and not bool((values == 255).all()):
        raise InputError(f"{name}: expected masks, found a last channel of 255 throughout (transparency?)")
    for mask in values:
        if 0 < float(mask.max()) <= 1:
            raise InputError(
                f"{name}: expected gray values 0 to 255, found a mask with none above "
                f"{float(mask.max()):.4g}; this looks coded 0/1: set label_codes to [1]"
            )
    return convert_to_dst_type(values.amax(dim=0, keepdim=True) / 255, label, dtype=torch.float32)[0]


def foreground_maps(
    label: torch.Tensor, codes: LabelCodes | str | None, num_classes: int, name: str
) -> torch.Tensor:
    """One map per foreground class of a label image.

    Args:
        label: any dtype, (C, spatial...), as for :func:`class_labels` or, if ``codes`` is ``GRAY``, for
            :func:`gray_mask`. Several files of one case are allowed for gray masks only: with codes, their
            channels must be equal.
        codes: as for :func:`~common.data.label_codes.class_of_code`, or ``GRAY``.
        num_classes: K, background included; 2 for gray masks.
        name: how to call the label in messages, usually its path.

    Returns:
        float32 (K - 1, spatial...), 0 to 1; a ``MetaTensor`` with the same metadata if ``label`` is one.

    Raises:
        InputError: ``codes`` and ``num_classes`` do not fit, or the label is refused.
    """
    check_codes(codes, num_classes)
    if codes == GRAY:
        return gray_mask(label, name)
    classes = class_labels(label, class_of_code(codes, num_classes), name)
    return convert_to_dst_type(AsDiscrete(to_onehot=num_classes)(classes)[1:], label, dtype=torch.float32)[0]


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
