"""Single slices of volumes in files: across which axis, in which order, and read without the rest.

Slices are counted and turned as after ``Orientationd`` to RAS, whatever the axes of the file: axial ones from
foot to head, with X to the patient's right and Y to the front. So slice k of a file is ``volume[..., k]`` of
the turned volume, and a network trained on such slices may be run over turned volumes.
Axes: C channels, X Y in the plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.config import PathLike
from monai.data import ImageReader, MetaTensor
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys, ensure_tuple
from nibabel.spatialimages import SpatialImage

from common.data.image_files import is_nifti, joined, read_image, reason
from common.errors import InputError

_SAME_AFFINE_MM = 1e-3


class SliceGrid(NamedTuple):
    """Where the slices of a file are.

    Attributes:
        axis: array axis of the file across which slices are counted; -1 for a picture.
        is_reversed: whether the first slice is the last one in the file.
        num_slices: how many there are; 1 for a picture.
    """

    axis: int
    is_reversed: bool
    num_slices: int


def slice_grid(path: PathLike | Sequence[PathLike], slice_axis: int | None = None) -> SliceGrid:
    """The slices of a file, from its header alone.

    Args:
        path: NIfTI file or picture; or several of one case, of which the first is opened.
        slice_axis: array axis of the file, 0 to 2; None: the one with a single voxel, if there is one, or
            else the one that runs, by the affine, between foot and head. The official KiTS19 files, whose
            axes are foot, back and left, have 0 there, BraTS files 2. To be given for files whose affine is
            wrong, and for slices that are not axial.

    Returns:
        The grid; that of a picture does not depend on ``slice_axis``.

    Raises:
        InputError: no readable NIfTI file of 2 or 3 spatial axes, an affine without directions, or no such
            axis.
    """
    file = ensure_tuple(path)[0]
    return _grid(_opened(file), file, slice_axis) if is_nifti(file) else SliceGrid(-1, False, 1)


def read_slice(
    path: PathLike | Sequence[PathLike],
    index: int | None = None,
    slice_axis: int | None = None,
    reader: ImageReader | None = None,
) -> MetaTensor:
    """One slice of a NIfTI volume, or a picture.

    Only the slice is kept in memory. A compressed file is still unpacked from its start, and one whose slices
    lie across its first array axis (KiTS19) is read to its end.

    Args:
        path: NIfTI file, its channels, if any, on a fourth axis; or picture; or several of one case that
            become channels.
        index: of the slice, counted as this module says; None for images with a single slice.
        slice_axis: see :func:`slice_grid`.
        reader: of pictures, as for ``LoadImaged``.

    Returns:
        float32 (C, X, Y) with the affine (4, 4) of the slice, whose voxels lie where they do in the volume.
        If it is not axial, X and Y are the other two of the axes right, front and head, in this order; they
        come first in rows and columns, so that ``pixdim`` has their edge lengths.

    Raises:
        InputError: see :func:`slice_grid`; an unreadable file, no such slice, files of one case that differ
            in shape or affine, or another kind of volume.
    """
    files = ensure_tuple(path)
    if not files or not all(is_nifti(file) for file in files):
        image = read_image(path, reader)
        if image.ndim != 3:
            raise InputError(
                f"{joined(files)}: expected NIfTI or pictures, found a volume in another kind of file"
            )
        _refuse_index(index, 1, files[0])
        return image
    slices = [_nifti_slice(file, index, slice_axis) for file in files]
    (first, affine), *others = slices
    for file, (voxels, other) in zip(files[1:], others):
        if voxels.shape != first.shape or not np.allclose(other, affine, atol=_SAME_AFFINE_MM):
            raise InputError(
                f"{file}: expected the slice shape {first.shape[1:]} and the affine of {files[0]}, found "
                f"{voxels.shape[1:]}" + (" with another affine" if voxels.shape == first.shape else "")
            )
    meta = {
        ImageMetaKey.FILENAME_OR_OBJ: str(files[0]),
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPATIAL_SHAPE: np.array(first.shape[1:]),
        MetaKeys.SPACE: SpaceKeys.RAS,
    }
    voxels = torch.from_numpy(np.concatenate([voxels for voxels, _ in slices]))
    return MetaTensor(voxels, affine=torch.from_numpy(affine), meta=meta)


def _opened(path: PathLike) -> SpatialImage:
    """A NIfTI file as a volume with three spatial axes; its voxels are not read yet."""
    try:
        image = nib.load(path)
        if image.ndim == 2:
            image = type(image)(np.asanyarray(image.dataobj)[..., None], image.affine)
    except Exception as error:  # nibabel, gzip and the system raise different ones
        raise InputError(f"{path}: expected a NIfTI file, found {reason(error)}") from error
    if image.ndim not in (3, 4):
        raise InputError(f"{path}: expected 2 or 3 spatial axes and channels, found shape {image.shape}")
    return image


def _orientation(image: SpatialImage, path: PathLike) -> np.ndarray:
    """(3, 2): for each array axis the RAS axis it runs along, and 1 or -1."""
    try:
        orientation = nib.io_orientation(image.affine)
    except np.linalg.LinAlgError:
        orientation = np.full((3, 2), np.nan)
    if not np.isfinite(orientation).all():
        raise InputError(f"{path}: expected an affine with three directions, found {image.affine.tolist()}")
    return orientation.astype(int)


def _grid(image: SpatialImage, path: PathLike, slice_axis: int | None) -> SliceGrid:
    if slice_axis not in (None, 0, 1, 2) or isinstance(slice_axis, bool):
        raise InputError(f"slice_axis: expected 0, 1, 2 or null (the affine tells), found {slice_axis!r}")
    orientation = _orientation(image, path)
    axis = slice_axis
    if axis is None:
        shape = image.shape[:3]
        axis = shape.index(1) if 1 in shape else int((orientation[:, 0] == 2).argmax())
    return SliceGrid(axis, bool(orientation[axis, 1] < 0), int(image.shape[axis]))


def _nifti_slice(path: PathLike, index: int | None, slice_axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    """float32 (C, X, Y) and its affine (4, 4), float64."""
    image = _opened(path)
    grid = _grid(image, path, slice_axis)
    index = _refuse_index(index, grid.num_slices, path)
    position = grid.num_slices - 1 - index if grid.is_reversed else index
    window = [slice(None)] * 3
    window[grid.axis] = slice(position, position + 1)
    try:
        part = nib.as_closest_canonical(image.slicer[tuple(window)])
        voxels = np.asarray(part.dataobj, dtype=np.float32)
    except Exception as error:  # truncated and damaged files, and voxels that are no numbers
        raise InputError(f"{path}: expected a readable image, found {reason(error)}") from error
    across = int(_orientation(image, path)[grid.axis, 0])
    # MONAI takes the edge lengths of 2D images from the first two rows and columns.
    order = [axis for axis in range(3) if axis != across] + [across, 3]
    channels = np.moveaxis(voxels, -1, 0) if voxels.ndim == 4 else voxels[None]
    return channels.take(0, axis=across + 1), np.asarray(part.affine, dtype=np.float64)[np.ix_(order, order)]


def _refuse_index(index: int | None, num_slices: int, path: PathLike) -> int:
    if index is None and num_slices == 1:
        return 0
    if index is None or not 0 <= index < num_slices:
        raise InputError(f"{path}: expected a slice from 0 to {num_slices - 1}, found {index}")
    return int(index)
