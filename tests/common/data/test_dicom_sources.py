import stat
import zipfile

import numpy as np
import pydicom
import pytest

from common.data import dicom_sources
from common.data.dicom import single_series
from common.data.dicom_sources import extract_series, local_path
from common.data.image_files import read_image
from common.data.inputs import find_images
from common.errors import InputError
from tests.helpers.dicom import write_series, write_slice

PIXELS = np.zeros((4, 6), int)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders go; nothing else in ``tmp_path`` may change."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(dicom_sources.tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def zipped(folder, path, prefix="study/ct/", compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "a", compression) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, prefix + file.name)
    return path


def archive_of(path, name, content=b"x", mode=None):
    """A ZIP file with one entry, written with a name that no careful program would give it."""
    entry = zipfile.ZipInfo("placeholder")
    entry.filename = name
    if mode is not None:
        entry.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, content)
    return path


def test_zip_is_read_like_the_folder_it_was_made_of(tmp_path, temporary):
    write_series(tmp_path / "scan")
    (tmp_path / "scan" / "notes.txt").write_text("hello")
    (tmp_path / "scan" / "._1.dcm").write_bytes(b"\0" * 128 + b"DICM of macOS")
    (found,) = find_images(zipped(tmp_path / "scan", tmp_path / "patient.1.ZIP"))
    assert found["id"] == "patient_1"
    expected = read_image(tmp_path / "scan")
    image = read_image(found["image"])
    assert np.array_equal(image, expected)
    assert np.array_equal(image.affine, expected.affine)


def test_extracted_files_are_private_and_numbered(tmp_path, temporary):
    write_series(tmp_path / "scan")
    folder = extract_series(zipped(tmp_path / "scan", tmp_path / "a.zip", prefix="Jane Doe/"))
    assert folder.is_relative_to(temporary)
    assert folder.parent.stat().st_mode & 0o077 == 0
    assert all(path.stem.isdecimal() for path in folder.iterdir())


def test_several_series_are_named_or_chosen(tmp_path):
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", (0.0, 1.0), series="9.9", SeriesDescription="liver 1 mm")
    zipped(tmp_path / "a", tmp_path / "study.zip", "study/1/")
    archive = zipped(tmp_path / "b", tmp_path / "study.zip", "study/2/deep/er/")
    with pytest.raises(InputError, match=r"study\.zip: expected one series") as error:
        find_images(archive)
    assert "1.2.3 (CT, series 1.2.3, 4 slices), 9.9 (CT, liver 1 mm, 2 slices)" in str(error.value)
    (found,) = find_images(archive, series_uid="9.9")
    assert len(single_series(found["image"])) == 2
    with pytest.raises(InputError, match=r"expected the series 7\.7, found 1\.2\.3 \(CT"):
        extract_series(archive, "7.7")


def test_segmentations_and_the_table_of_contents_are_left_aside(tmp_path):
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", (0.0,), series="9.9", Modality="SEG")
    path = write_slice(tmp_path / "b", "DICOMDIR", (0, 0, 0), PIXELS, series="8.8")
    archive = zipped(tmp_path / "b", zipped(tmp_path / "a", tmp_path / "s.zip"))
    with pytest.raises(InputError, match=r"8\.8 \(CT"):
        extract_series(archive)
    directory = pydicom.dcmread(path)
    directory.file_meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    directory.SOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    directory.save_as(path)
    archive.unlink()
    archive = zipped(tmp_path / "b", zipped(tmp_path / "a", archive))
    assert len(single_series(extract_series(archive))) == 4


@pytest.mark.parametrize(
    ("name", "mode", "what"),
    [
        ("../../escaped.dcm", None, "leads out of the archive"),
        ("study/../../escaped.dcm", None, "leads out of the archive"),
        ("study\\..\\..\\escaped.dcm", None, "leads out of the archive"),
        ("/escaped.dcm", None, "absolute name"),
        ("\\\\server\\escaped.dcm", None, "absolute name"),
        ("C:\\escaped.dcm", None, "absolute name"),
        ("study/link", stat.S_IFLNK | 0o777, "link or device"),
        ("study/pipe", stat.S_IFIFO | 0o777, "link or device"),
    ],
)
def test_entries_that_lead_out_are_refused_by_name(tmp_path, temporary, name, mode, what):
    archive = archive_of(tmp_path / "evil.zip", name, b"/etc/passwd", mode)
    write_series(tmp_path / "scan")
    zipped(tmp_path / "scan", archive)
    before = sorted(tmp_path.rglob("*.dcm"))
    with pytest.raises(InputError, match=r"evil\.zip: not extracted because of unsafe entries: 1 ") as error:
        find_images(archive)
    assert f"{name!r}: {what}" in str(error.value)
    assert sorted(tmp_path.rglob("*.dcm")) == before


def test_archive_without_images(tmp_path):
    with pytest.raises(InputError, match="expected one series of DICOM images, found none"):
        extract_series(archive_of(tmp_path / "a.zip", "notes.txt"))


def test_no_zip_file(tmp_path):
    (tmp_path / "text.zip").write_text("not a ZIP file")
    with pytest.raises(InputError, match=r"text\.zip: expected a readable ZIP file, found BadZipFile"):
        find_images(tmp_path / "text.zip")
    with pytest.raises(InputError, match="no such file or folder"):
        find_images(tmp_path / "absent.zip")


def test_damaged_and_encrypted_content(tmp_path):
    write_series(tmp_path / "scan")
    archive = zipped(tmp_path / "scan", tmp_path / "a.zip", compression=zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    content[600] ^= 1
    archive.write_bytes(content)
    with pytest.raises(InputError, match="expected a readable ZIP file, found BadZipFile: Bad CRC-32"):
        extract_series(archive)
    content[600] ^= 1
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + offset] |= 1
    archive.write_bytes(content)
    with pytest.raises(InputError, match="encrypted"):
        extract_series(archive)


def test_more_content_than_room(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr(dicom_sources.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"expected at most 1 MiB, .* found 2 MiB of content"):
        extract_series(archive_of(tmp_path / "a.zip", "zeros", bytes(2 * 2**20)))


def test_series_chosen_from_a_mixed_folder(tmp_path):
    write_series(tmp_path / "study")
    write_series(tmp_path / "study" / "deep", (0.0, 1.0), series="9.9")
    folder = local_path(tmp_path / "study", "9.9")
    assert len(single_series(folder)) == 2
    assert folder.name == "study"
    assert np.array_equal(read_image(folder), read_image(tmp_path / "study" / "deep"))
    with pytest.raises(InputError, match="expected a folder, found a file"):
        local_path(next((tmp_path / "study").glob("*.dcm")), "9.9")


def test_other_paths_stay_as_they_are(tmp_path):
    assert local_path(tmp_path / "scan.nii.gz") == tmp_path / "scan.nii.gz"
    assert local_path(str(tmp_path)) == tmp_path
