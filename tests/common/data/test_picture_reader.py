import pickle
import struct
import zlib

import nibabel as nib
import numpy as np
import pytest
import tifffile
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, LoadImage, LoadImaged
from PIL import Image

from common.data.image_files import read_image
from common.data.picture_reader import PictureReader, picture_problem
from common.engines.input_errors import find_input_error
from common.errors import InputError
from tests.helpers.dicom import write_series

# 2 rows, 3 columns; MONAI puts the columns first.
GRAY = np.array([[0, 50, 255], [255, 0, 50]], np.uint8)
COLOR = np.stack([GRAY, GRAY[::-1], np.full_like(GRAY, 7)], axis=-1)
OPAQUE = np.full_like(GRAY, 255)
HALF = np.array([[255, 255, 255], [255, 128, 255]], np.uint8)
INDICES = np.array([[2, 0, 1], [1, 2, 0]], np.uint8)
GRAY_PALETTE = np.array([[9, 9, 9], [200, 200, 200], [30, 30, 30]], np.uint8)
COLOR_PALETTE = np.array([[9, 9, 9], [200, 0, 0], [30, 30, 30]], np.uint8)
DEEP = np.array([[0, 256, 65535], [1, 2, 3]], np.uint16)


def read(path, channels):
    """(rows, columns) or (rows, columns, C) as stored above."""
    pixels = read_image(path, PictureReader(channels)).numpy().transpose(2, 1, 0)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def palette_picture(palette):
    picture = Image.fromarray(INDICES)
    picture.putpalette(palette.tobytes())
    return picture


def as_rgb(gray):
    return np.dstack([gray, gray, gray])


def deep_png(pixels):
    """A PNG with 16 bits per channel, which Pillow does not write: (rows, columns, 3)."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


RGBA, OPAQUE_RGBA = np.dstack([COLOR, HALF]), np.dstack([COLOR, OPAQUE])
GRAY_RGBA, LA, OPAQUE_LA = (
    np.dstack([as_rgb(GRAY), OPAQUE]),
    np.dstack([GRAY, HALF]),
    np.dstack([GRAY, OPAQUE]),
)
IN_GRAY, IN_COLOR = palette_picture(GRAY_PALETTE), palette_picture(COLOR_PALETTE)
SHADES, COLORS, MASK = GRAY_PALETTE[INDICES], COLOR_PALETTE[INDICES], GRAY > 0
CMYK = Image.fromarray(COLOR).convert("CMYK")
INTEGERS, FLOATS = DEEP.astype(np.int32) * -2, DEEP.astype(np.float32) / 2
# suffix, picture, options of saving, then what is expected for channels 3, 1 and None; None is a refusal
PICTURES = {
    "color": (".png", COLOR, {}, COLOR, None, COLOR),
    "gray": (".png", GRAY, {}, as_rgb(GRAY), GRAY, GRAY),
    "gray as RGB": (".bmp", as_rgb(GRAY), {}, as_rgb(GRAY), GRAY, as_rgb(GRAY)),
    "1 bit": (".png", MASK, {}, as_rgb(MASK * 255), MASK * 255, MASK * 1),
    "gray palette": (".png", IN_GRAY, {}, SHADES, SHADES[..., 0], INDICES),
    "color palette": (".png", IN_COLOR, {}, COLORS, None, INDICES),
    # Pillow warns when a palette with one alpha per entry becomes RGB.
    "opaque palette": (".png", IN_GRAY, {"transparency": b"\xff" * 3}, SHADES, SHADES[..., 0], INDICES),
    "transparent palette": (".png", IN_GRAY, {"transparency": 0}, None, None, INDICES),
    "opaque RGBA": (".png", OPAQUE_RGBA, {}, COLOR, None, OPAQUE_RGBA),
    "gray opaque RGBA": (".tif", GRAY_RGBA, {}, as_rgb(GRAY), GRAY, GRAY_RGBA),
    "transparent RGBA": (".png", RGBA, {}, None, None, RGBA),
    "opaque LA": (".png", OPAQUE_LA, {}, as_rgb(GRAY), GRAY, OPAQUE_LA),
    "transparent LA": (".png", LA, {}, None, None, LA),
    "transparent gray value": (".png", GRAY, {"transparency": 50}, None, None, GRAY),
    "unused transparent value": (".png", GRAY, {"transparency": 51}, as_rgb(GRAY), GRAY, GRAY),
    "16 bits": (".png", DEEP, {}, None, DEEP, DEEP),
    "16 bits, transparent value": (".png", DEEP, {"transparency": 256}, None, None, DEEP),
    "32 bits": (".tiff", INTEGERS, {}, None, INTEGERS, INTEGERS),
    "floating": (".tiff", FLOATS, {}, None, FLOATS, FLOATS),
    "CMYK": (".jpg", CMYK, {}, None, None, None),
    "two pages": (
        ".tif",
        GRAY,
        {"save_all": True, "append_images": [Image.fromarray(GRAY)]},
        None,
        None,
        None,
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_kind_is_read_right_or_refused_by_name(tmp_path, name):
    suffix, picture, options, *expected = PICTURES[name]
    path = tmp_path / f"a{suffix}"
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(path, **options)
    for channels, pixels in zip((3, 1, None), expected):
        if pixels is not None:
            np.testing.assert_array_equal(read(path, channels), pixels)
            assert picture_problem(path, channels) is None
        else:
            with pytest.raises(InputError, match=f"^{path}: expected .*, found "):
                read(path, channels)


@pytest.mark.parametrize("channels", [1, 3, None])
@pytest.mark.parametrize("kind", ["png", "tif", "planar"])
def test_channels_of_16_bits_are_refused_where_pillow_would_cut_them(tmp_path, kind, channels):
    path = tmp_path / ("a.png" if kind == "png" else "a.tif")
    if kind == "png":
        path.write_bytes(deep_png(as_rgb(DEEP)))
    elif kind == "tif":
        tifffile.imwrite(path, as_rgb(DEEP), photometric="rgb")
    else:
        tifffile.imwrite(path, np.stack([DEEP] * 3), photometric="rgb", planarconfig="separate")
    assert Image.open(path).mode == "RGB"
    with pytest.raises(InputError, match=f"^{path}: expected .*, found more than 8 bits"):
        read(path, channels)


def test_big_endian_values_are_unchanged(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", DEEP, byteorder=">")
    np.testing.assert_array_equal(read(tmp_path / "a.tif", 1), DEEP)


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".jpg", 3)])
@pytest.mark.parametrize("channels", [1, 3, None])
def test_picture_is_turned_upright(tmp_path, suffix, tolerance, channels):
    stored = np.kron(np.array([[0, 80, 160], [200, 240, 40]], np.uint8), np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored row 0 is the right edge, stored column 0 the top: upright = a clockwise turn
    Image.fromarray(stored).save(tmp_path / f"a{suffix}", exif=exif, quality=100)
    upright = read(tmp_path / f"a{suffix}", channels)
    expected = stored[::-1].T  # the upper left is 200, the upper right 0
    assert upright.shape[:2] == (48, 32)
    assert np.abs(upright - (as_rgb(expected) if channels == 3 else expected)).max() <= tolerance


def damaged(folder):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for suffix in (".jpg", ".png", ".bmp"):
        Image.fromarray(pixels).save(folder / f"whole{suffix}")
        content = (folder / f"whole{suffix}").read_bytes()
        (folder / f"truncated{suffix}").write_bytes(content[: len(content) // 2])
    (folder / "text.png").write_text("not an image")
    (folder / "empty.tif").touch()
    return [*folder.glob("truncated*"), folder / "text.png", folder / "empty.tif", folder / "absent.png"]


def test_damaged_files_are_named_from_within_a_chain(tmp_path):
    for channels in (1, 3, None):
        chain = Compose([LoadImaged("image", reader=PictureReader(channels))])
        for path in damaged(tmp_path):
            with pytest.raises(RuntimeError) as error:
                chain({"image": path})
            found = find_input_error(error.value)
            assert found is not None
            assert str(found).startswith(f"{path}: expected a readable picture, found ")


def test_refusal_does_not_fall_back_to_another_reader(tmp_path):
    Image.fromarray(COLOR).convert("CMYK").save(tmp_path / "a.jpg")
    assert LoadImage(reader="PILReader")(tmp_path / "a.jpg").shape[-1] == 4
    with pytest.raises(InputError, match="found mode CMYK"):
        LoadImage(reader=PictureReader(3))(tmp_path / "a.jpg")
    # An animation is a picture, whatever its name; MONAI's own reader would take it.
    Image.fromarray(GRAY).save(tmp_path / "b.gif", save_all=True, append_images=[Image.fromarray(COLOR)])
    with pytest.raises(InputError, match="found 2 in one file"):
        LoadImage(reader=PictureReader(3))(tmp_path / "b.gif")


def test_preview_in_a_photograph_is_left_out(tmp_path):
    pictures = [Image.new("L", size, 128) for size in ((16, 8), (8, 8))]
    pictures[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=pictures[1:])
    assert Image.open(tmp_path / "a.jpg").n_frames == 2
    np.testing.assert_array_equal(read(tmp_path / "a.jpg", 1), np.full((8, 16), 128))


def test_refusal_survives_a_loader_worker(tmp_path):
    Image.fromarray(np.dstack([COLOR, HALF])).save(tmp_path / "a.png")
    chain = LoadImaged("image", reader=pickle.loads(pickle.dumps(PictureReader(3))))
    loader = DataLoader(Dataset([{"image": tmp_path / "a.png"}], chain), num_workers=1)
    with pytest.raises(RuntimeError) as error:
        next(iter(loader))
    assert str(find_input_error(error.value)).endswith("without transparency, found transparent pixels")


def test_volumes_and_series_are_left_to_the_other_readers(tmp_path):
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    for name in ("a.nii", "a.nii.gz"):
        nib.save(nib.Nifti1Image(np.arange(24.0).reshape(2, 3, 4), affine), tmp_path / name)
    write_series(tmp_path / "series")
    for name in ("a.nii", "a.nii.gz", "series"):
        for channels in (1, 3, None):
            found = read_image(tmp_path / name, PictureReader(channels))
            expected = read_image(tmp_path / name)
            np.testing.assert_array_equal(found.numpy(), expected.numpy())
            np.testing.assert_array_equal(found.affine, expected.affine)


def test_several_files_become_channels(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    Image.fromarray(GRAY == 50).save(tmp_path / "b.png")
    image = LoadImage(reader=PictureReader(1), ensure_channel_first=True)(
        [tmp_path / "a.png", tmp_path / "b.png"]
    )
    np.testing.assert_array_equal(image.numpy(), np.stack([GRAY.T, (GRAY.T == 50) * 255]))


@pytest.mark.parametrize("other", [GRAY[:, :2], COLOR])
def test_several_files_of_different_size_or_channels(tmp_path, other):
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    Image.fromarray(other).save(tmp_path / "b.png")
    with pytest.raises(
        InputError, match=rf"^{tmp_path / 'b.png'}: expected 3 x 2 pixels and 1 channel\(s\) as in"
    ):
        read_image([tmp_path / "a.png", tmp_path / "b.png"], PictureReader(None))


def test_header_is_enough_for_what_it_tells(tmp_path):
    Image.fromarray(COLOR).convert("CMYK").save(tmp_path / "a.jpg")
    assert picture_problem(tmp_path / "a.jpg", 3).endswith("without transparency, found mode CMYK")
    (tmp_path / "b.png").write_text("not an image")
    assert picture_problem(tmp_path / "b.png", 1).startswith(
        f"{tmp_path / 'b.png'}: expected a picture, found"
    )


def test_other_channels():
    with pytest.raises(InputError, match=r"^channels: expected 1, 3 or None \(labels\), found 4"):
        PictureReader(4)
    assert repr(PictureReader(None)) == "PictureReader(channels=None)"
