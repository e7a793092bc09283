"""Pictures as color, gray or label values: each kind of file is read right, or refused by its name."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from monai.config import PathLike
from monai.data import PILReader
from monai.utils import ensure_tuple
from PIL import ExifTags, Image, ImageChops, ImageOps

from common.data.image_files import PICTURE_SUFFIXES, reason
from common.errors import InputError

_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}
_EXPECTED = {
    1: "a gray picture without transparency",
    3: "a picture with 8 bits per channel (color, gray or palette) without transparency",
    None: "label values in gray, palette or RGB",
}


class PictureReader(PILReader):
    """Reader of pictures for ``LoadImaged``, which leaves NIfTI and DICOM to the other readers.

    A picture is turned upright as its EXIF data say. Several files of one case become channels.

    Args:
        channels: 3 for RGB: color, gray, black-and-white (0 and 255) and palette pictures; 1 for gray: the
            same as long as no pixel is colored, and 16 or 32 bits unchanged; None for labels: the stored
            values, such as palette indices, 0 and 1 of a black-and-white picture, any alpha as a channel.

    Raises:
        InputError: ``channels`` is something else. ``get_data`` raises it, with the name of the file, for a
            file that is damaged, absent or no picture in spite of its name, for several pictures in one file,
            CMYK and other color spaces, transparency and color where none may be, 16 bits per channel where
            they would be cut, and files of one case that differ in size or number of channels.

    Source: our choice. Pillow itself reads many of these as something else than they show.
    """

    def __init__(self, channels: int | None) -> None:
        if channels not in _EXPECTED:
            raise InputError(f"channels: expected 1, 3 or None (labels), found {channels!r}")
        super().__init__()
        self.channels = channels

    def __repr__(self) -> str:
        return f"{type(self).__name__}(channels={self.channels})"

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether all names end like those of pictures, TIFF included."""
        return all(str(name).lower().endswith(PICTURE_SUFFIXES) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **_: object) -> tuple[PathLike, ...]:
        """Decide whether to take the files; nothing is decoded.

        MONAI tries its next reader, and in the end its own one for pictures, on whatever is raised here. So
        every refusal waits for :meth:`get_data`.

        Args:
            data: one path or several.

        Returns:
            The paths.

        Raises:
            Exception: as Pillow does, for a file that is neither named like a picture nor one.
        """
        files = ensure_tuple(data)
        for file in files:
            if not self.verify_suffix(file):
                Image.open(file).close()
        return files

    def get_data(self, img: Sequence[PathLike] | PathLike) -> tuple[np.ndarray, dict]:
        """Decode the files.

        Args:
            img: paths, as :meth:`read` returns them.

        Returns:
            Pixels as of ``PILReader``: (W, H) or (W, H, C) of one file, (number of files, W, H) of several
            with one channel; and metadata.

        Raises:
            InputError: see the class.
        """
        files = ensure_tuple(img)
        pictures = [self._decoded(file) for file in files]
        first = pictures[0]
        for file, picture in zip(files, pictures):
            if (picture.size, picture.getbands()) != (first.size, first.getbands()):
                raise InputError(
                    f"{file}: expected {_shown(first)} as in {files[0]}, found {_shown(picture)}"
                )
        return super().get_data(pictures)

    def _decoded(self, path: PathLike) -> Image.Image:
        try:
            with Image.open(path) as picture:
                problem = _header_problem(picture, self.channels)
                if problem is not None:
                    raise InputError(f"{path}: {problem}")
                upright = ImageOps.exif_transpose(picture)
                return upright if self.channels is None else _shown_values(upright, self.channels)
        except _RefusedPixelsError as error:
            raise InputError(f"{path}: expected {_EXPECTED[self.channels]}, found {error}") from None
        except InputError:
            raise
        except Exception as error:  # Pillow raises OS, syntax, struct, zlib and value errors alike
            raise InputError(f"{path}: expected a readable picture, found {reason(error)}") from error


def picture_problem(path: PathLike, channels: int) -> str | None:
    """What a :class:`PictureReader` would refuse a picture for, as far as its header tells.

    Args:
        path: picture file.
        channels: 1 or 3. Colored or transparent pixels are seen by reading only.

    Returns:
        One line that begins with ``path``; None if there is no problem.
    """
    try:
        with Image.open(path) as picture:
            problem = _header_problem(picture, channels)
    except Exception as error:  # as above
        problem = f"expected a picture, found {reason(error)}"
    return None if problem is None else f"{path}: {problem}"


class _RefusedPixelsError(Exception):
    """The pixels show what the header did not tell."""


def _header_problem(picture: Image.Image, channels: int | None) -> str | None:
    """What is wrong with a picture that is open but not decoded."""
    num_frames = getattr(picture, "n_frames", 1)
    if num_frames > 1 and picture.format != "MPO":  # further pictures of a camera's MPO are previews
        return f"expected one picture, found {num_frames} in one file"
    if picture.mode in _EIGHT_BIT_MODES:
        return f"expected {_EXPECTED[channels]}, found more than 8 bits" if _would_be_cut(picture) else None
    has_values = picture.mode in ("I", "F") or picture.mode.startswith("I;16")
    if has_values and channels != 3:
        return None
    depths = {"I;16": "16 bits per pixel", "I": "32 bits per pixel", "F": "floating-point pixels"}
    return f"expected {_EXPECTED[channels]}, found {depths.get(picture.mode[:4], f'mode {picture.mode}')}"


def _would_be_cut(picture: Image.Image) -> bool:
    """Whether Pillow would keep 8 of the 16 bits of each channel, or mistake them, without a word."""
    bits = getattr(picture, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, (8,))
    is_16_bit_png = picture.format == "PNG" and re.search(";16", str(picture.tile[:1])) is not None
    return is_16_bit_png or max(ensure_tuple(bits)) > 8


def _shown_values(picture: Image.Image, channels: int) -> Image.Image:
    """The picture as RGB or gray."""
    if picture.mode not in _EIGHT_BIT_MODES:
        transparent = picture.info.get("transparency")
        if transparent is not None and (np.asarray(picture) == transparent).any():
            raise _RefusedPixelsError("transparent pixels")
        return picture
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema()[0] < 255:
            raise _RefusedPixelsError("transparent pixels")
        picture = picture.convert("RGB")
    if channels == 3:
        return picture.convert("RGB")
    if picture.mode in ("1", "L"):
        return picture.convert("L")
    red, green, blue = picture.convert("RGB").split()
    if any(ImageChops.difference(red, other).getbbox() for other in (green, blue)):
        raise _RefusedPixelsError("colored pixels")
    return red


def _shown(picture: Image.Image) -> str:
    return f"{picture.width} x {picture.height} pixels and {len(picture.getbands())} channel(s)"
