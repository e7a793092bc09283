import gzip
import logging

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from common.data.inputs import find_images
from common.errors import InputError
from tests.helpers.dicom import write_series


def write_volume(path, shape=(6, 5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), np.eye(4)), path)
    return path


def write_picture(path, shape=(4, 5)):
    Image.fromarray(np.zeros(shape, np.uint8)).save(path)
    return path


def test_single_file(tmp_path):
    path = write_volume(tmp_path / "scan.1.nii.gz")
    assert find_images(path) == [{"id": "scan.1", "image": str(path)}]


def test_folder_of_volumes(tmp_path):
    for name in ("b.nii", "a.nii.gz"):
        write_volume(tmp_path / name)
    (tmp_path / "._a.nii.gz").write_text("macOS")
    (tmp_path / "table.csv").write_text("1,2")
    assert [found["id"] for found in find_images(str(tmp_path))] == ["a", "b"]


def test_folder_of_pictures(tmp_path):
    write_picture(tmp_path / "a.png", (4, 5, 3))
    write_picture(tmp_path / "b.jpg", (4, 5, 3))
    assert [found["id"] for found in find_images(tmp_path, in_channels=3, spatial_dims=2)] == ["a", "b"]


def test_dicom_folder(tmp_path):
    write_series(tmp_path / "scan")
    assert find_images(tmp_path / "scan") == [{"id": "scan", "image": str(tmp_path / "scan")}]


def test_folder_of_series(tmp_path, caplog):
    for name in ("p2", "p1"):
        write_series(tmp_path / name)
    (tmp_path / "reports").mkdir()
    with caplog.at_level(logging.WARNING):
        assert [found["image"] for found in find_images(tmp_path)] == [
            str(tmp_path / name) for name in ("p1", "p2")
        ]
    assert "left out: reports" in caplog.text


def test_series_are_checked(tmp_path):
    write_series(tmp_path / "p1", (0.0, 2.0, 6.0, 8.0, 10.0))
    write_series(tmp_path / "p2", (0.0,))
    with pytest.raises(InputError, match=r"2 problem\(s\)"):
        find_images(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        find_images(tmp_path / "absent")
    with pytest.raises(InputError, match="found none"):
        find_images(tmp_path)


def test_other_kind_of_file(tmp_path):
    (tmp_path / "scan.mha").touch()
    with pytest.raises(InputError, match="for DICOM, the folder of the series"):
        find_images(tmp_path / "scan.mha")


def test_images_and_dicom_together(tmp_path):
    write_series(tmp_path)
    write_picture(tmp_path / "preview.png")
    with pytest.raises(InputError, match="found both"):
        find_images(tmp_path)


def test_images_that_would_overwrite_each_other(tmp_path):
    write_volume(tmp_path / "a.nii")
    write_volume(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"a\.nii\.gz: same name as a\.nii"):
        find_images(tmp_path)
    for name in ("1.2.3", "1.2.4"):
        write_series(tmp_path / "series" / name)
    with pytest.raises(InputError, match=r"1\.2\.4: same name as 1\.2\.3"):
        find_images(tmp_path / "series")


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4, 2)])
def test_volume_with_other_axes_or_channels(tmp_path, shape):
    with pytest.raises(InputError, match=r"expected 3 spatial axes and 1 channel\(s\), found \(6, 5"):
        find_images(write_volume(tmp_path / "a.nii.gz", shape))


def test_volume_with_channels(tmp_path):
    path = write_volume(tmp_path / "a.nii.gz", (6, 5, 4, 2))
    assert find_images(path, in_channels=2)
    with pytest.raises(InputError, match="found"):
        find_images(path, in_channels=3)


@pytest.mark.parametrize(("in_channels", "spatial_dims"), [(2, 2), (1, 3), (3, 3)])
def test_picture_with_other_axes_or_channels(tmp_path, in_channels, spatial_dims):
    with pytest.raises(InputError, match="found 1 and 2"):
        find_images(write_picture(tmp_path / "a.png"), in_channels, spatial_dims)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_pictures_that_reading_makes_gray_or_color_pass(tmp_path, in_channels, mode):
    Image.fromarray(np.zeros((4, 5), np.uint8)).convert(mode).save(tmp_path / "a.png")
    assert find_images(tmp_path, in_channels, spatial_dims=2)


def test_pictures_of_other_kinds_are_listed(tmp_path):
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(tmp_path / "deep.png")
    Image.new("CMYK", (4, 5)).save(tmp_path / "print.tif")
    Image.new("RGB", (4, 5)).save(tmp_path / "good.png")
    with pytest.raises(InputError, match=r"2 problem\(s\)") as error:
        find_images(tmp_path, in_channels=3, spatial_dims=2)
    assert f"{tmp_path / 'deep.png'}: expected a picture with 8 bits per channel" in str(error.value)
    assert "found mode CMYK" in str(error.value)


def test_dicom_for_a_network_of_pictures(tmp_path):
    write_series(tmp_path)
    with pytest.raises(InputError, match="found DICOM"):
        find_images(tmp_path, in_channels=3, spatial_dims=2)


def test_all_unreadable_files_are_listed(tmp_path):
    content = write_volume(tmp_path / "good.nii.gz").read_bytes()
    (tmp_path / "truncated.nii.gz").write_bytes(content[: len(content) // 2])
    (tmp_path / "cut.nii").write_bytes(gzip.decompress(content)[:-10])
    (tmp_path / "text.nii.gz").write_text("not an image")
    (tmp_path / "text2.png").write_text("not an image")
    (tmp_path / "empty.nii").touch()
    with pytest.raises(InputError, match=r"5 problem\(s\)") as error:
        find_images(tmp_path)
    assert "good" not in str(error.value)


def test_gzip_of_several_members_is_not_taken_for_truncated(tmp_path):
    content = gzip.decompress(write_volume(tmp_path / "a.nii.gz").read_bytes())
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:600]) + gzip.compress(content[600:]))
    assert len(find_images(tmp_path)) == 1
