"""Masks are compared voxel by voxel on one grid, and a SEG against the slices themselves."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from common.data.dicom_seg import Algorithm, Segment, write_dicom_seg
from common.data.image_files import read_image
from common.data.segment_terms import terms_of
from common.errors import InputError
from tests.helpers.dicom import write_series
from tests.helpers.dicom_seg import NO_HIGHDICOM, seg_on_grid
from tools.mask_check import check_seg, compare_masks, dice_to_reference, read_mask


def save(path, values, affine=None):
    nib.save(nib.Nifti1Image(values.astype(np.uint8), np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def segmented(tmp_path):
    """A series, its mask and the SEG of both."""
    pytest.importorskip("highdicom", reason=NO_HIGHDICOM)
    series, mask_path = tmp_path / "series", tmp_path / "mask.nii.gz"
    write_series(series, FrameOfReferenceUID="1.9", PatientID="1", StudyID="1")
    affine = read_image(series).affine.numpy()
    mask = np.random.default_rng(0).integers(0, 3, (6, 4, 4)).astype(np.uint8)
    mask[:, :, 1] = 0  # a slice without a frame
    names = ["liver", "spleen"]
    segments = [Segment(v, n, t) for v, (n, t) in enumerate(zip(names, terms_of(names)), start=1)]
    write_dicom_seg(mask, affine, series, segments, Algorithm("test", "1"), tmp_path / "seg.dcm")
    return tmp_path / "seg.dcm", save(mask_path, mask, affine), series


def test_seg_is_the_mask_and_lies_on_its_slices(segmented):
    seg, mask_path, series = segmented
    found = check_seg(seg, mask_path, series)
    mask = nib.load(mask_path)
    voxels = int((np.asarray(mask.dataobj) > 0).sum())
    assert (found.voxels, found.different) == (voxels, 0)
    # Two segments on three of four slices.
    assert found.lines == [
        "segment liver: Liver (SCT 10200004)",
        "segment spleen: Spleen (SCT 78961009)",
        f"{voxels} voxels in 6 frames came back, 0 differ",
        "6 of 6 frames lie where the slice lies that they refer to",
    ]
    other_reader = seg_on_grid(seg, mask.affine, mask.shape)
    assert sum(int(voxels.sum()) for voxels in other_reader.values()) == found.voxels


def test_every_voxel_that_differs_is_counted(segmented, tmp_path):
    seg, mask_path, series = segmented
    mask = nib.load(mask_path)
    values = np.asarray(mask.dataobj).copy()
    values[0, 0, 0], values[5, 3, 3] = (values[0, 0, 0] + 1) % 3, (values[5, 3, 3] + 1) % 3
    assert check_seg(seg, save(tmp_path / "x.nii.gz", values, mask.affine), series).different == 2


def shift_frame(seg):
    # A tenth of a millimeter: rounding to voxels would not show it.
    plane = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    plane.ImagePositionPatient = [float(value) + 0.1 for value in plane.ImagePositionPatient]


def refer_to_unknown_slice(seg):
    frame = seg.PerFrameFunctionalGroupsSequence[0]
    frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "9.9"


@pytest.mark.parametrize("spoil", [shift_frame, refer_to_unknown_slice])
def test_frame_that_is_not_on_its_slice_is_refused(segmented, spoil):
    path, mask_path, series = segmented
    seg = pydicom.dcmread(path)
    spoil(seg)
    seg.save_as(path)
    with pytest.raises(InputError, match="expected 6 frames where the slices lie .* found 5"):
        check_seg(path, mask_path, series)


def test_masks_stored_in_other_directions_are_the_same(tmp_path):
    values = np.random.default_rng(1).integers(0, 3, (3, 4, 5))
    first = save(tmp_path / "a.nii.gz", values)
    # By hand: x turned around, so voxel (0, 0, 0) lies where (2, 0, 0) was.
    turned = np.diag([-1.0, 1, 1, 1])
    turned[0, 3] = 2
    second = save(tmp_path / "b.nii", values[::-1], turned)
    found = compare_masks(first, second)
    assert (found.voxels, found.different) == (int((values > 0).sum()), 0)
    values[0, 0, 0] = (values[0, 0, 0] + 1) % 3
    assert compare_masks(save(tmp_path / "c.nii", values), second).lines[0].endswith("voxels, 1 differ")


@pytest.mark.parametrize("change", ["shape", "affine"])
def test_masks_on_two_grids_are_refused(tmp_path, change):
    affine = np.diag([1.0, 1, 1, 1]) if change == "shape" else np.diag([1.0, 1, 2, 1])
    shape = (2, 2, 3) if change == "shape" else (2, 2, 2)
    first = save(tmp_path / "a.nii", np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match=r"b\.nii: expected the grid of .*a\.nii, shape \(2, 2, 2\)"):
        compare_masks(first, save(tmp_path / "b.nii", np.zeros(shape), affine))


@pytest.mark.parametrize("bright", [1, 255])
def test_pictures_count_as_object_or_not(tmp_path, bright):
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 255
    Image.fromarray(mask).save(tmp_path / "a.png")
    Image.fromarray((mask > 0).astype(np.uint8) * bright).save(tmp_path / "b.png")
    found = compare_masks(tmp_path / "a.png", tmp_path / "b.png")
    assert (found.voxels, found.different) == (6, 0)


def test_empty_pictures_are_equal_and_differ_from_others(tmp_path):
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((4, 6), 255, np.uint8)).save(tmp_path / "b.png")
    assert compare_masks(tmp_path / "a.png", tmp_path / "a.png").different == 0
    assert compare_masks(tmp_path / "a.png", tmp_path / "b.png").different == 24


def test_dice_of_each_class(tmp_path):
    mask = np.zeros((2, 2, 2))
    reference = mask.copy()
    mask[0, 0], mask[1, 1] = 1, 2
    reference[0] = 1
    scores = dice_to_reference(
        save(tmp_path / "a.nii", mask), save(tmp_path / "b.nii", reference), ["one", "two", "three"]
    )
    # By hand: one: 2 * 2 / (2 + 4); two: no reference; three: in neither.
    assert scores == pytest.approx({"one": 2 / 3, "two": 0.0, "three": 1.0})


def test_picture_has_no_affine(tmp_path):
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "a.png")
    values, affine = read_mask(tmp_path / "a.png")
    assert values.shape == (4, 6)
    assert affine is None
