"""Files that are either complete or absent: atomic writing, and MONAI image writers built on it."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.config import PathLike
from monai.data import ImageWriter, NibabelWriter, PILWriter

from common.errors import InputError


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path that takes the place of ``path`` once the block has ended without an error.

    The temporary file lies in the same folder (so that the final step is a rename), begins with a dot and
    ends with the full name of ``path``: libraries that choose a format by the suffix see the same one.

    Args:
        path: the file to write; its folder is made if absent, an existing file is replaced.

    Yields:
        Path to write to. It is removed if the block fails, and ``path`` is left as it was.

    Raises:
        InputError: the folder cannot be made or the file cannot be written (disk full, no permission).
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}){_free_space(path)}"
        ) from error
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)


def write_nifti(voxels: np.ndarray, affine: np.ndarray, path: PathLike) -> None:
    """Write a NIfTI file in millimeters, whole or not at all.

    Args:
        voxels: (X, Y, Z), of the type to store.
        affine: (4, 4), from voxels to RAS millimeters.
        path: file to write.

    Raises:
        InputError: see :func:`atomic_path`.
    """
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def image_writer(output_ext: str) -> type[ImageWriter]:
    """MONAI writer class for a file extension whose files appear only when complete.

    Args:
        output_ext: ``.nii``, ``.nii.gz`` or ``.png``, with or without the dot.

    Returns:
        Class to be given to ``SaveImaged`` as ``writer``.

    Raises:
        InputError: any other extension.
    """
    extension = "." + output_ext.lower().lstrip(".")
    if extension not in _WRITERS:
        raise InputError(f"output_ext: expected one of {', '.join(_WRITERS)}, found {output_ext!r}")
    return _WRITERS[extension]


class AtomicNibabelWriter(NibabelWriter):
    """NIfTI writer of MONAI that leaves no half-written file."""

    def write(self, filename: PathLike, verbose: bool = False, **kwargs: object) -> None:
        """Write the image to ``filename``; see :func:`atomic_path` for what may be raised."""
        with atomic_path(filename) as temporary:
            super().write(temporary, verbose=verbose, **kwargs)


class AtomicPILWriter(PILWriter):
    """PNG writer of MONAI that leaves no half-written file."""

    def write(self, filename: PathLike, verbose: bool = False, **kwargs: object) -> None:
        """Write the image to ``filename``; see :func:`atomic_path` for what may be raised."""
        with atomic_path(filename) as temporary:
            super().write(temporary, verbose=verbose, **kwargs)


_WRITERS: dict[str, type[ImageWriter]] = {
    ".nii": AtomicNibabelWriter,
    ".nii.gz": AtomicNibabelWriter,
    ".png": AtomicPILWriter,
}


def _free_space(path: Path) -> str:
    existing = next((folder for folder in path.absolute().parents if folder.is_dir()), None)
    return f", {shutil.disk_usage(existing).free / 2**20:.0f} MiB free there" if existing else ""
