"""Masks belong to slices by the rank of their names, and lie where the slices lie."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from common.data.image_files import read_image
from common.data.mask_stack import in_name_order, mask_of_slice, read_mask, read_mask_stack
from common.errors import InputError
from tests.helpers.dicom import AXIAL, write_slice

OBLIQUE = (1.0, 0.0, 0.0, 0.0, 0.6, 0.8)
REVERSED = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ROWS, COLUMNS, SLICES = 4, 6, 5


def write_case(folder, orientation=AXIAL, is_descending=False, size=(ROWS, COLUMNS)):
    """Slices of 0.5 mm x 0.75 mm pixels whose HU are 100 more than the gray values of their masks.

    All gray values of the volume are different, so that any turn or swap shows.
    """
    rows, columns = size
    normal = np.cross(orientation[:3], orientation[3:])
    for rank in range(SLICES):
        step = SLICES - 1 - rank if is_descending else rank
        gray = (rank * rows * columns + np.arange(rows * columns)).reshape(rows, columns)
        position = tuple(2.0 * step * normal + (1.0, 2.0, 3.0))
        # Numbers of the images and of the masks do not agree, nor do instance numbers run with the names.
        write_slice(
            folder / "series", f"i{7 + 2 * rank:04d}.dcm", position, gray + 100, orientation, number=9 - rank
        )
        write_mask(folder / "masks", f"mask_{rank:03d}.png", gray)
    return folder / "masks", folder / "series"


def write_mask(folder, name, gray, mode="L"):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(gray, np.uint8)).convert(mode).save(folder / name)


@pytest.mark.parametrize("is_descending", [False, True])
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE, REVERSED])
def test_masks_fit_the_loaded_series_in_any_order_and_orientation(tmp_path, orientation, is_descending):
    masks, series = write_case(tmp_path, orientation, is_descending)
    image = read_image(series)[0].numpy()
    stack = read_mask_stack(masks, series, image.shape[:2])
    assert stack.dtype == np.uint8
    assert np.array_equal(stack + 100, image)


def test_order_along_the_normal_by_hand(tmp_path):
    """Files from head to foot: the last file lies lowest and comes first, its first pixel is 4 x 24 = 96."""
    masks, series = write_case(tmp_path, is_descending=True)
    stack = read_mask_stack(masks, series, (COLUMNS, ROWS))
    assert stack[0, 0].tolist() == [96, 72, 48, 24, 0]
    assert stack[:, 0, 0].tolist() == [96, 97, 98, 99, 100, 101]


def test_pairs_go_by_rank_and_not_by_number(tmp_path):
    masks, series = write_case(tmp_path)
    names = {image.name: mask.name for image, mask in mask_of_slice(series, masks).items()}
    assert names["i0007.dcm"] == "mask_000.png"
    assert names["i0015.dcm"] == "mask_004.png"


def test_unpadded_numbers_are_numbers_and_padded_names_are_text(tmp_path):
    unpadded = [tmp_path / name for name in ("i10.png", "i9.png", "i1.png")]
    assert [path.name for path in in_name_order(unpadded)] == ["i1.png", "i9.png", "i10.png"]
    # As text, hexadecimal numbers of equal length are in order too.
    padded = [tmp_path / name for name in ("i0a.png", "i10.png", "i09.png")]
    assert [path.name for path in in_name_order(padded)] == ["i09.png", "i0a.png", "i10.png"]


def test_wrong_number_of_masks_names_both_folders(tmp_path):
    masks, series = write_case(tmp_path)
    (masks / "mask_004.png").unlink()
    (masks / "._mask_004.png").write_text("not a mask")
    with pytest.raises(InputError, match="found 4 masks and 5 DICOM files") as error:
        read_mask_stack(masks, series, (COLUMNS, ROWS))
    assert str(masks) in str(error.value)
    assert str(series) in str(error.value)


def test_missing_slice_and_its_mask_leave_a_gap_that_is_refused(tmp_path):
    masks, series = write_case(tmp_path)
    (series / "i0011.dcm").unlink()
    (masks / "mask_002.png").unlink()
    with pytest.raises(InputError, match=r"about 1 slice\(s\) missing"):
        read_mask_stack(masks, series, (COLUMNS, ROWS))


def test_two_series_in_one_folder_are_refused(tmp_path):
    masks, series = write_case(tmp_path)
    write_slice(series, "z.dcm", (0.0, 0.0, 50.0), np.zeros((ROWS, COLUMNS), int), series="9.9")
    write_mask(masks, "mask_005.png", np.zeros((ROWS, COLUMNS)))
    with pytest.raises(InputError, match="expected one DICOM series, found 2"):
        read_mask_stack(masks, series, (COLUMNS, ROWS))


def test_mask_of_another_size_is_named(tmp_path):
    masks, series = write_case(tmp_path)
    write_mask(masks, "mask_002.png", np.zeros((COLUMNS, ROWS)))
    with pytest.raises(
        InputError, match=r"mask_002\.png: expected 6 x 4 pixels as in .*i0011\.dcm, found 4 x 6"
    ):
        read_mask_stack(masks, series, (COLUMNS, ROWS))


def test_folders_without_dicom_or_masks(tmp_path):
    masks, series = write_case(tmp_path)
    with pytest.raises(InputError, match="found 5 masks and 0 DICOM files"):
        mask_of_slice(masks, masks)
    with pytest.raises(InputError, match="expected a folder, found nothing"):
        mask_of_slice(series, tmp_path / "Ground")


def test_one_bit_masks_are_0_and_255_and_16_bits_stay(tmp_path):
    write_mask(tmp_path, "bit.png", [[0, 255, 0], [0, 0, 0]], mode="1")
    assert read_mask(tmp_path / "bit.png").tolist() == [[0, 0], [255, 0], [0, 0]]
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(tmp_path / "deep.png")
    assert read_mask(tmp_path / "deep.png").tolist() == [[0], [300]]
    assert read_mask(tmp_path / "deep.png").dtype == np.int32


def test_colored_and_damaged_masks_are_refused_by_name(tmp_path):
    Image.fromarray(np.array([[[255, 0, 0]]], np.uint8)).save(tmp_path / "red.png")
    with pytest.raises(InputError, match=r"red\.png: .*found colored pixels"):
        read_mask(tmp_path / "red.png")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"torn\.png: expected a readable picture"):
        read_mask(tmp_path / "torn.png")


@pytest.mark.data
def test_real_masks_lie_on_the_liver(real_data):
    """The arrays are those of the method's page, slices in the order of the files, which is head to foot."""
    case = real_data / "chaos_ct_case3"
    if not case.is_dir():
        pytest.skip("no CHAOS case")
    image = read_image(case / "DICOM_anon")[0].numpy()
    liver = read_mask_stack(case / "Ground", case / "DICOM_anon", image.shape[:2]) > 0
    assert image[liver].mean() == pytest.approx(141.0, abs=0.05)
    assert image[liver].std() == pytest.approx(34.1, abs=0.05)
    flipped = liver[
        ..., ::-1
    ]  # what masks in the order of names would be on slices in the order of positions
    assert image[flipped].mean() == pytest.approx(35.6, abs=0.05)
    assert image[flipped].std() == pytest.approx(248.1, abs=0.05)
    hashes = [
        hashlib.sha256(np.ascontiguousarray(volume[..., ::-1].T).astype(dtype).tobytes()).hexdigest()
        for volume, dtype in ((image, "<i2"), (liver, "u1"))
    ]
    assert hashes == [
        "3482a916e874614e35d1569e3a3dab001b777956bc0d150aeb421df03acb8411",
        "795e8ac81dd57f0d0eadea2ae3dae88658c7f76bcda33535e5969a96ed4fd93c",
    ]
