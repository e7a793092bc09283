"""2.5D input: a slice of a volume with its neighbors as channels.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv 2020.
Implements: its input of S = 2 T + 1 slices, the slice itself, T below and T above.
Differs from the paper: nothing; it does not say what stands in for neighbors beyond the ends of a volume.
Here the end slice is repeated.
Axes: X Y in the plane, Z across the slices; S slices of a stack, in the order of Z. Where Z goes from foot to
head (after ``Orientationd`` to RAS) it is the same order for all scans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import torch
from torch import Tensor

from common.data.dicom import dicom_files
from common.errors import InputError


def slice_stack(volume: Tensor, index: int, neighbors: int) -> Tensor:
    """One slice with its neighbors.

    Args:
        volume: any dtype, (..., X, Y, Z).
        index: of the slice, 0 to Z - 1.
        neighbors: T, on either side.

    Returns:
        (..., S, X, Y), a copy; channel T is the slice itself.
    """
    around = torch.arange(index - neighbors, index + neighbors + 1, device=volume.device)
    return volume[..., around.clamp(0, volume.shape[-1] - 1)].movedim(-1, -3)


def slice_stacks(volume: Tensor, neighbors: int) -> Tensor:
    """Every slice with its neighbors, without copying each slice S times.

    Args:
        volume: any dtype, (..., X, Y, Z).
        neighbors: T, on either side.

    Returns:
        (..., Z, S, X, Y), a view of ``volume`` padded once by T slices; of itself if T is 0. Stacks
        overlap in memory: do not write to them. Entry i of Z equals ``slice_stack(volume, i, neighbors)``.
    """
    if neighbors > 0:
        ends = [end.expand(*volume.shape[:-1], neighbors) for end in (volume[..., :1], volume[..., -1:])]
        volume = torch.cat([ends[0], volume, ends[1]], dim=-1)
    return volume.unfold(-1, 2 * neighbors + 1, 1).movedim((-2, -1), (-4, -3))


def check_neighbors(neighbors: int) -> int:
    """The number of neighbors on either side.

    Raises:
        InputError: it is negative or no whole number.
    """
    if not isinstance(neighbors, int) or isinstance(neighbors, bool) or neighbors < 0:
        raise InputError(f"neighbors: expected a whole number of 0 or more, found {neighbors!r}")
    return neighbors


def slice_counts(cases: Sequence[Mapping[str, str]]) -> list[int]:
    """Number of slices of each case across the patient's foot-head axis, from the headers alone.

    Args:
        cases: with ``image``, a NIfTI file or the folder of an axial DICOM series.

    Raises:
        InputError: no readable image.
    """
    return [_slice_count(Path(case["image"])) for case in cases]


def _slice_count(path: Path) -> int:
    if path.is_dir():
        return len(dicom_files(path))
    try:
        image = nib.load(path)
        axes = nib.aff2axcodes(image.affine)
    except Exception as error:  # nibabel, gzip and the system raise different ones
        raise InputError(f"{path}: expected a NIfTI file or a folder with DICOM files ({error})") from error
    return int(image.shape[next(axis for axis, code in enumerate(axes) if code in ("S", "I"))])
