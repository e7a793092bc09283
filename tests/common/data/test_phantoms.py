"""The generated data sets have the layouts, codes and geometry that the real ones have."""

import json

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion

from common.data import layouts, phantoms
from common.data.cardiac_phantom import LABEL_CODES, MEAN_HU, Ellipsoid, Tube, cardiac_case, grid

MM_WHS_CODES = {205, 420, 500, 550, 600, 820, 850}


@pytest.fixture(scope="module")
def heart():
    return cardiac_case(np.random.default_rng(3), (96, 96, 64), "LPS")


def unit_grid(size, center):
    return np.stack(np.meshgrid(*[np.arange(size) - center] * 3, indexing="ij"), axis=-1).astype(np.float32)


def test_ellipsoid_has_the_volume_of_its_formula():
    """By hand: 4/3 pi 10 x 8 x 6 = 2010.6."""
    inside = Ellipsoid((0, 0, 0), (10, 8, 6)).contains(unit_grid(25, 12))
    assert inside.sum() == pytest.approx(2010.6, rel=0.02)


def test_straight_tube_is_a_cylinder_with_round_ends():
    """By hand: pi 25 x 10 + 4/3 pi 125 = 1309."""
    inside = Tube(((0, 0, -5), (0, 0, 5)), 5).contains(unit_grid(31, 15))
    assert inside.sum() == pytest.approx(1309, rel=0.03)


def test_heart_has_exactly_the_challenge_codes_and_integer_types(heart):
    image, labels, _ = heart
    assert image.dtype == labels.dtype == np.int16
    assert set(np.unique(labels)) == {0, *MM_WHS_CODES} == {0, *LABEL_CODES.values()}


@pytest.mark.parametrize("name", LABEL_CODES)
def test_gray_values_of_each_structure_are_its_own(heart, name):
    image, labels, _ = heart
    core = binary_erosion(labels == LABEL_CODES[name])
    assert image[core].mean() == pytest.approx(MEAN_HU[name], rel=0.08)


def test_every_structure_survives_two_erosions_so_it_is_at_least_four_voxels_thick(heart):
    """Along the 2 mm axis erosion by one voxel takes 2 mm from each side; the muscle is a shell of 8.5 mm."""
    labels = heart[1]
    for name, code in LABEL_CODES.items():
        if name != "Myo":
            assert binary_erosion(labels == code, iterations=2).any(), name
    inner, outer = labels == LABEL_CODES["LV"], np.isin(labels, (LABEL_CODES["LV"], LABEL_CODES["Myo"]))
    lengths = [outer.any(axis=(0, 1)).sum(), inner.any(axis=(0, 1)).sum()]
    assert lengths[0] - lengths[1] >= 8  # 4 voxels of 2 mm above and 4 below the chamber


def test_ventricle_touches_only_the_muscle_and_the_vessel_that_leaves_it(heart):
    labels = heart[1]
    chamber = labels == LABEL_CODES["LV"]
    around = labels[binary_dilation(chamber) & ~chamber]
    assert np.isin(around, (LABEL_CODES["Myo"], LABEL_CODES["AO"])).all()
    assert (around == LABEL_CODES["Myo"]).mean() > 0.75


@pytest.mark.parametrize("codes", ["LPS", "PSR", "SAL"])
def test_grid_has_the_orientation_spacing_and_tilt_it_promises(codes):
    affine, shape = grid(np.random.default_rng(0), (20, 22, 12), codes)
    assert nib.aff2axcodes(affine) == tuple(codes)
    spacing = nib.affines.voxel_sizes(affine)
    assert shape == tuple({"L": 20, "R": 20, "P": 22, "A": 22, "S": 12}[code] for code in codes)
    assert 1.9 <= spacing[shape.index(12)] <= 2.1
    assert 2 <= np.degrees(nib.affines.obliquity(affine)).max() <= 6.01


def test_anatomy_is_the_same_in_every_orientation():
    """The aorta leaves the heart towards the head, and the right atrium lies to the patient's right."""
    for codes in ("LPS", "SAL"):
        _, labels, affine = cardiac_case(np.random.default_rng(1), (48, 48, 64), codes)
        centers = {
            name: nib.affines.apply_affine(affine, np.argwhere(labels == code).mean(axis=0))
            for name, code in LABEL_CODES.items()
        }
        assert centers["AO"][2] > centers["LV"][2]
        assert centers["RA"][0] > centers["LA"][0]
        assert centers["RV"][1] > centers["LA"][1]


def test_mmwhs_files_are_read_by_the_layout_and_differ_in_orientation(tmp_path, capsys):
    phantoms.write_mmwhs(tmp_path, num_cases=3, num_test=1, size=(24, 24, 16))
    cases = layouts.mmwhs_ct(str(tmp_path))
    assert [case["id"] for case in cases] == ["ct_train_1001", "ct_train_1002", "ct_train_1003"]
    images = [nib.load(case["image"]) for case in cases]
    assert len({nib.aff2axcodes(image.affine) for image in images}) == 3
    assert all(image.get_data_dtype() == np.int16 for image in images)
    np.testing.assert_allclose(images[0].affine, nib.load(cases[0]["label"]).affine)
    assert [path.name for path in (tmp_path / "ct_test").iterdir()] == ["ct_test_2001_image.nii.gz"]
    assert len(capsys.readouterr().out.splitlines()) == 7


def test_equal_seeds_give_equal_images_and_others_do_not(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        phantoms.write_mmwhs(tmp_path / name, num_cases=1, num_test=0, seed=seed, size=(16, 16, 8))
    first, again, other = (
        nib.load(tmp_path / name / "ct_train" / "ct_train_1001_image.nii.gz").get_fdata() for name in "abc"
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def test_msd_layout(tmp_path):
    phantoms.write_msd(tmp_path, num_cases=2, num_classes=4, size=(24, 16, 16))
    assert [case["id"] for case in layouts.msd(str(tmp_path))] == ["blobs_000", "blobs_001"]
    assert layouts.msd_class_names(str(tmp_path)) == ["blob 1", "blob 2", "blob 3"]
    labels = nib.load(tmp_path / "labelsTr" / "blobs_000.nii.gz").get_fdata()
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    assert json.loads((tmp_path / "dataset.json").read_text())["test"] == ["./imagesTs/blobs_002.nii.gz"]
    assert (tmp_path / "imagesTs" / "blobs_002.nii.gz").is_file()
