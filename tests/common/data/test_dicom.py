import numpy as np
import pydicom
import pytest

from common.data.dicom import single_series
from common.data.image_files import read_image
from common.errors import InputError
from tests.helpers.dicom import write_series, write_slice

PIXELS = np.zeros((4, 6), int)


def test_slices_are_ordered_by_position_whatever_their_names_say(tmp_path):
    write_series(tmp_path)
    assert [path.name for path in single_series(tmp_path)] == [f"1.2.3_{n:03d}.dcm" for n in (4, 3, 2, 1)]


def test_loaded_volume_has_the_values_and_geometry_of_the_series(tmp_path):
    volume = write_series(tmp_path)
    image = read_image(tmp_path)
    assert np.array_equal(image[0].numpy(), volume)
    # The first pixel, (-10, 20, 0) in LPS, is (10, -20, 0) in RAS; columns are 0.75 mm apart, rows 0.5 mm.
    expected = [[-0.75, 0, 0, 10], [0, -0.5, 0, -20], [0, 0, 2, 0], [0, 0, 0, 1]]
    assert np.allclose(image.affine, expected)


def test_oblique_series_is_measured_along_its_normal(tmp_path):
    # rows along (1, 0, 0), columns along (0, 0.6, 0.8): the normal is (0, -0.8, 0.6), steps of 2.5 mm
    for index in range(3):
        position = (0.0, -0.8 * 2.5 * index, 0.6 * 2.5 * index)
        write_slice(tmp_path, f"{index}", position, PIXELS, (1, 0, 0, 0, 0.6, 0.8), number=9 - index)
    assert [path.name for path in single_series(tmp_path)] == ["0", "1", "2"]


def test_tilted_gantry_is_refused(tmp_path):
    for index in range(3):
        write_slice(tmp_path, f"{index}", (0.0, 0.3 * index, 2.0 * index), PIXELS)
    with pytest.raises(InputError, match="found a shift of 0.60 mm"):
        single_series(tmp_path)


def test_other_and_hidden_files_are_ignored(tmp_path):
    write_series(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "._1.dcm").write_text("hello")
    assert len(single_series(tmp_path)) == 4


def test_folder_without_dicom(tmp_path):
    (tmp_path / "a.dcm").write_text("not DICOM")
    with pytest.raises(InputError, match="expected DICOM files, found none"):
        single_series(tmp_path)


def test_two_series_are_named(tmp_path):
    write_series(tmp_path)
    write_series(tmp_path, (0.0, 1.0), series="9.9")
    with pytest.raises(InputError, match="found 2") as error:
        single_series(tmp_path)
    assert "series 1.2.3 (4 slices" in str(error.value)
    assert "series 9.9 (2 slices" in str(error.value)


def test_missing_slice_is_located(tmp_path):
    write_series(tmp_path, (0.0, 2.0, 4.0, 8.0, 10.0))
    with pytest.raises(InputError, match="1 problem") as error:
        single_series(tmp_path)
    assert "at 4.00 mm" in str(error.value)
    assert "expected steps of 2.00 mm, found 4.00 mm, about 1 slice(s) missing" in str(error.value)


def test_slice_thickness_is_not_taken_for_spacing(tmp_path):
    write_series(tmp_path, (0.0, 2.0, 4.0), SliceThickness=99.0)
    assert len(single_series(tmp_path)) == 3


def test_uneven_spacing(tmp_path):
    write_series(tmp_path, (0.0, 2.0, 4.0, 5.0, 7.0))
    with pytest.raises(InputError, match="found 1.00 mm"):
        single_series(tmp_path)


def test_rounded_positions_pass(tmp_path):
    write_series(tmp_path, (0.0, 1.67, 3.33, 5.0))
    assert len(single_series(tmp_path)) == 4


def test_two_slices_at_one_position(tmp_path):
    write_series(tmp_path, (0.0, 2.0, 2.0, 4.0))
    with pytest.raises(InputError, match=r"1\.2\.3_00\d\.dcm and 1\.2\.3_00\d\.dcm: both at 2\.00 mm"):
        single_series(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ImageOrientationPatient", {"orientation": (0, 1, 0, 1, 0, 0)}),
        ("PixelSpacing", {"PixelSpacing": [0.5, 0.5]}),
        ("Rows", {"values_hu": np.zeros((5, 6), int)}),
        ("Columns", {"values_hu": np.zeros((4, 7), int)}),
    ],
)
def test_slice_with_another_grid(tmp_path, name, changes):
    write_series(tmp_path)
    write_slice(tmp_path, "z.dcm", (-10.0, 20.0, 8.0), **{"values_hu": PIXELS} | changes)
    with pytest.raises(InputError, match=rf"z\.dcm: expected {name} "):
        single_series(tmp_path)


@pytest.mark.parametrize("name", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_slices_without_geometry(tmp_path, name):
    write_series(tmp_path, **{name: None})
    with pytest.raises(InputError, match=f"expected {name}, found nothing") as error:
        single_series(tmp_path)
    assert "4 problem(s)" in str(error.value)


def test_single_slice_and_several_frames(tmp_path):
    write_series(tmp_path / "one", (0.0,))
    with pytest.raises(InputError, match="at least 2 slices"):
        single_series(tmp_path / "one")
    write_series(tmp_path / "many", (0.0, 1.0), NumberOfFrames=3)
    with pytest.raises(InputError, match="one slice per file, found 3 frames"):
        single_series(tmp_path / "many")


def test_compression_that_cannot_be_decoded_names_the_packages(tmp_path):
    write_series(tmp_path, TransferSyntaxUID=pydicom.uid.HTJ2KLossless)
    with pytest.raises(InputError, match=r"High-Throughput JPEG 2000.*pylibjpeg"):
        single_series(tmp_path)
    write_series(tmp_path, TransferSyntaxUID=pydicom.uid.MPEG2MPML)
    with pytest.raises(InputError, match="MPEG2"):
        single_series(tmp_path)


def test_slices_that_the_loader_would_leave_out(tmp_path):
    volume = write_series(tmp_path)
    write_slice(tmp_path, "z.dcm", (-10.0, 20.0, 8.0), volume[:, :, 0].T, SliceThickness=3.0)
    with pytest.raises(InputError, match="expected 5 slices that agree in slice thickness"):
        single_series(tmp_path)


def test_damaged_header(tmp_path):
    write_series(tmp_path)
    path = tmp_path / "1.2.3_002.dcm"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError):
        single_series(tmp_path)


@pytest.mark.data
def test_real_series_agrees_with_pydicom(real_data):
    folder = real_data / "chaos_ct_case3" / "DICOM_anon"
    slices = [pydicom.dcmread(path) for path in single_series(folder)]
    image = read_image(folder)
    assert image.shape == (1, 512, 512, 78)
    for index in (0, 40, 77):
        header = slices[index]
        hu = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
        assert np.array_equal(image[0, :, :, index].numpy(), hu.T)
    first, last = (np.array(slices[index].ImagePositionPatient, float) for index in (0, -1))
    row, column = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    expected = np.eye(4)
    expected[:3, 0] = row * slices[0].PixelSpacing[1]
    expected[:3, 1] = column * slices[0].PixelSpacing[0]
    expected[:3, 2] = (last - first) / 77
    expected[:3, 3] = first
    assert np.allclose(image.affine, np.diag([-1, -1, 1, 1]) @ expected)
    assert np.allclose(image.pixdim, [0.7265625, 0.7265625, 2.0])
