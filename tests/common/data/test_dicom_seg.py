import logging
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest

from common.data.dicom import single_series
from common.data.dicom_seg import Algorithm, Segment, slices_of_mask, write_dicom_seg
from common.data.image_files import read_image
from common.data.mask_stack import read_mask_stack
from common.data.segment_terms import terms_of
from common.data.writers import write_nifti
from common.errors import InputError
from tests.helpers.dicom import write_series, write_slice
from tests.helpers.dicom_seg import NO_HIGHDICOM, group, referenced, seg_on_grid

ALGORITHM = Algorithm("crossdomain_liver", "0.1.0")
NAMES = ["liver", "left kidney", "kidney tumor"]
SEGMENTS = [Segment(value, name, term) for value, name, term in zip((1, 2, 3), NAMES, terms_of(NAMES))]


def axial(folder):
    write_series(folder, FrameOfReferenceUID="1.9")


def axial_from_head_to_foot(folder):
    write_series(folder, (6.0, 4.0, 2.0, 0.0), FrameOfReferenceUID="1.9")


def rounded_positions(folder):
    write_series(folder, (0.0, 1.67, 3.33, 5.0), FrameOfReferenceUID="1.9")


def oblique(folder):
    """Rows and columns turned about two axes; slices shuffled."""
    row = np.array([0.96, 0.28, 0.0])
    column = np.array([-0.28 * 0.6, 0.96 * 0.6, 0.8])
    normal = np.cross(row, column)
    for index in (2, 0, 3, 1):
        position = tuple(np.round(np.array([-10.0, 20.0, 5.0]) + 2.5 * index * normal, 6))
        write_slice(
            folder,
            f"{index % 2}{index}",
            position,
            np.full((4, 6), index),
            (*row, *column),
            number=9 - index,
            FrameOfReferenceUID="1.9",
        )


def case(folder, write=axial):
    """A series, and a mask of three classes on its grid as MONAI loads it."""
    pytest.importorskip("highdicom", reason=NO_HIGHDICOM)
    write(folder)
    affine = read_image(folder).affine.numpy()
    mask = np.random.default_rng(3).choice(4, (6, 4, 4), p=(0.4, 0.3, 0.2, 0.1)).astype(np.uint8)
    mask[..., 1] = 0
    return mask, affine


@pytest.mark.parametrize("write", [axial, axial_from_head_to_foot, rounded_positions, oblique])
def test_equal_to_the_nifti_mask_voxel_by_voxel(tmp_path, write):
    mask, affine = case(tmp_path / "scan", write)
    write_nifti(mask, affine, tmp_path / "seg.nii.gz")
    assert write_dicom_seg(mask, affine, tmp_path / "scan", SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    nifti = nib.load(tmp_path / "seg.nii.gz")
    found = seg_on_grid(tmp_path / "seg.dcm", nifti.affine, nifti.shape)
    assert list(found) == NAMES
    for segment in SEGMENTS:
        assert np.array_equal(found[segment.name], np.asarray(nifti.dataobj) == segment.value)


@pytest.mark.parametrize("axcodes", ["RAS", "LPI", "SPL", "AIR"])
def test_mask_may_be_turned_if_its_affine_says_so(tmp_path, axcodes):
    mask, affine = case(tmp_path)
    headers = [pydicom.dcmread(path) for path in single_series(tmp_path)]
    turned = nib.Nifti1Image(mask, affine).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axcodes))
    )
    frames = slices_of_mask(np.asarray(turned.dataobj), turned.affine, headers[::-1])
    # axis 0 of the loaded series is the columns, axis 1 the rows; headers were given in reversed order
    assert np.array_equal(frames, mask.T[::-1])


def test_frames_refer_to_the_slices_they_lie_on(tmp_path):
    mask, affine = case(tmp_path / "scan", oblique)
    write_dicom_seg(mask, affine, tmp_path / "scan", SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    headers = [pydicom.dcmread(path) for path in single_series(tmp_path / "scan")]
    slices = {header.SOPInstanceUID: header for header in headers}
    # one frame per class and slice; those without voxels are left out
    assert seg.NumberOfFrames == sum((mask == value).any((0, 1)).sum() for value in (1, 2, 3))
    for frame in range(seg.NumberOfFrames):
        source = slices[referenced(seg, frame)]
        assert group(seg, frame, "PlanePositionSequence").ImagePositionPatient == source.ImagePositionPatient
    orientation = group(seg, 0, "PlaneOrientationSequence").ImageOrientationPatient
    assert np.allclose(orientation, source.ImageOrientationPatient)
    assert seg.FrameOfReferenceUID == "1.9"
    assert seg.StudyInstanceUID == source.StudyInstanceUID
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == set(slices)


def test_segments_say_what_they_are(tmp_path):
    mask, affine = case(tmp_path / "scan")
    mask[mask == 1] = 0
    write_dicom_seg(mask, affine, tmp_path / "scan", SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.Modality == "SEG"
    assert seg.SegmentationType == "BINARY"
    kidney, tumor = seg.SegmentSequence  # the liver has no voxels
    assert (kidney.SegmentNumber, tumor.SegmentNumber) == (1, 2)
    assert (kidney.SegmentLabel, kidney.SegmentDescription[:8]) == ("left kidney", "value 2 ")
    kind = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("64033007", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert tumor.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert tumor.AnatomicRegionSequence[0].CodeValue == "64033007"
    assert (tumor.SegmentAlgorithmType, tumor.SegmentAlgorithmName) == (
        "AUTOMATIC",
        "crossdomain_liver 0.1.0",
    )
    assert (seg.ManufacturerModelName, seg.SoftwareVersions[0]) == ("crossdomain_liver", "0.1.0")


def test_empty_mask_gives_no_file_and_says_so(tmp_path, caplog):
    mask, affine = case(tmp_path / "scan")
    with caplog.at_level(logging.WARNING):
        assert not write_dicom_seg(
            mask * 0, affine, tmp_path / "scan", SEGMENTS, ALGORITHM, tmp_path / "s.dcm"
        )
    assert "the mask is empty" in caplog.text
    assert not (tmp_path / "s.dcm").exists()


def test_values_without_a_class_are_refused(tmp_path):
    mask, affine = case(tmp_path / "scan")
    with pytest.raises(InputError, match="a mask of the values 1, 2, found also 3"):
        write_dicom_seg(mask, affine, tmp_path / "scan", SEGMENTS[:2], ALGORITHM, tmp_path / "s.dcm")


@pytest.mark.parametrize(
    "change",
    [
        lambda mask, affine: (mask[:, :, 1:], affine),
        lambda mask, affine: (mask[:, :-1], affine),
        lambda mask, affine: (mask, affine + np.outer([1, 0, 0, 0], [0, 0, 0, 0.2])),
        lambda mask, affine: (mask, affine @ np.diag([1.05, 1, 1, 1])),
        lambda mask, affine: (mask, affine @ np.diag([1, 1, 1.5, 1])),
        lambda mask, affine: (mask, affine + np.outer([0, 0, 1, 0], [0, 0, 0, 3.0])),
    ],
    ids=["slice lost", "row lost", "shifted 0.2 mm", "stretched", "steps of 3 mm", "a slice too high"],
)
def test_mask_on_another_grid_is_refused(tmp_path, change):
    mask, affine = change(*case(tmp_path / "scan"))
    with pytest.raises(InputError, match=r"expected the grid of its DICOM series, 6 x 4 pixels in 4 slices"):
        write_dicom_seg(mask, affine, tmp_path / "scan", SEGMENTS, ALGORITHM, tmp_path / "s.dcm")


def test_series_without_frame_of_reference_is_refused(tmp_path):
    mask, affine = case(tmp_path / "scan", write_series)
    with pytest.raises(InputError, match="needs FrameOfReferenceUID, found nothing"):
        write_dicom_seg(mask, affine, tmp_path / "scan", SEGMENTS, ALGORITHM, tmp_path / "s.dcm")


def test_failed_writing_leaves_nothing(tmp_path, monkeypatch):
    mask, affine = case(tmp_path / "scan")

    def save_half(self, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", save_half)
    with pytest.raises(InputError, match="No space left"):
        write_dicom_seg(mask, affine, tmp_path / "scan", SEGMENTS, ALGORITHM, tmp_path / "out" / "s.dcm")
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(
        InputError, match=r'highdicom: expected this package.*"\.\[dicom\]".*install highdicom -c req'
    ):
        write_dicom_seg(np.ones((2, 2, 2), int), np.eye(4), tmp_path, SEGMENTS, ALGORITHM, tmp_path / "s.dcm")


def test_reader_of_dcmqi_agrees(tmp_path):
    if shutil.which("segimage2itkimage") is None:
        pytest.skip("segimage2itkimage of dcmqi is not on the path (pip install dcmqi)")
    mask, affine = case(tmp_path / "scan", oblique)
    mask[0, 0, [0, -1]] = 1  # dcmqi cuts off slices without any segment
    write_dicom_seg(mask, affine, tmp_path / "scan", SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    command = ["segimage2itkimage", "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path]
    subprocess.run([*map(str, command), "--outputType", "nii", "--mergeSegments"], check=True)
    (path,) = tmp_path.glob("*.nii.gz")
    found = nib.as_closest_canonical(nib.load(path))
    expected = nib.as_closest_canonical(nib.Nifti1Image(mask, affine))
    assert np.allclose(found.affine, expected.affine, atol=1e-3)
    assert np.array_equal(found.dataobj, expected.dataobj)


@pytest.mark.data
def test_real_series(real_data, tmp_path):
    pytest.importorskip("highdicom", reason=NO_HIGHDICOM)
    folder = real_data / "chaos_ct_case3" / "DICOM_anon"
    image = read_image(folder)
    mask = read_mask_stack(folder.parent / "Ground", folder, image.shape[1:3]) > 0
    affine = image.affine.numpy()
    write_dicom_seg(mask.astype(np.uint8), affine, folder, SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    found = seg_on_grid(tmp_path / "seg.dcm", affine, mask.shape)
    assert found["liver"].sum() == 1_342_595
    assert np.array_equal(found["liver"], mask)
