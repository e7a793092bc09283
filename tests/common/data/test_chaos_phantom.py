"""The generated CHAOS and COVID-19-CT-Seg have the layout, codes and geometry that the real ones have."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from monai.transforms import Orientation
from PIL import Image

from common.data.chaos import chaos, covid19_ct_20
from common.data.chaos_phantom import MASK_GRAY, MEAN_INTENSITY, write_chaos, write_covid19_ct_20
from common.data.dicom import single_series
from common.data.image_files import read_image
from common.data.mask_stack import in_name_order, mask_files, read_mask_stack


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos")
    write_chaos(folder, num_ct=1, num_mr=1, size=32, ct_slices=10, mr_slices=6)
    found = chaos(str(folder), mr_phase="both") + chaos(str(folder), ["MR"], mr_sequence="T2SPIR")
    return dict(zip(("CT", "InPhase", "OutPhase", "T2SPIR"), found))


@pytest.mark.parametrize("name", ["CT", "InPhase", "OutPhase", "T2SPIR"])
def test_masks_lie_on_the_organs(cases, name):
    case = cases[name]
    image = read_image(case["image"])[0].numpy()
    gray = read_mask_stack(case["label"], case["image"], image.shape[:2])
    organs = {"liver": 255} if name == "CT" else MASK_GRAY
    assert set(np.unique(gray)) == {0, *organs.values()}
    for organ, value in organs.items():
        assert image[gray == value].mean() == pytest.approx(MEAN_INTENSITY[name][organ], abs=15)
        assert image[gray == value].std() < 30


@pytest.mark.parametrize(("name", "is_descending"), [("CT", True), ("InPhase", False)])
def test_file_names_run_as_in_the_original(cases, name, is_descending):
    ordered = single_series(cases[name]["image"])
    names = in_name_order(ordered)
    assert ordered == (names[::-1] if is_descending else names)


def test_liver_is_on_the_right_and_spacing_is_not_the_slice_thickness(cases):
    for name, step_mm in (("CT", 16.0), ("InPhase", 160 / 6)):
        image = Orientation("RAS", labels=None)(read_image(cases[name]["image"]))
        assert np.allclose(image.pixdim, [11.25, 11.25, step_mm])
        gray = read_mask_stack(cases[name]["label"], cases[name]["image"], (32, 32))
        affine = read_image(cases[name]["image"]).affine.numpy()
        liver = np.argwhere(gray == (255 if name == "CT" else 63)).mean(axis=0)
        assert (affine @ [*liver, 1])[0] > 30


def test_mask_files_are_of_the_kinds_of_the_original(cases):
    assert mask_files(cases["CT"]["label"])[0].name == "liver_GT_000.png"
    assert Image.open(mask_files(cases["CT"]["label"])[0]).mode == "1"
    assert Image.open(mask_files(cases["InPhase"]["label"])[0]).mode == "L"
    header = pydicom.dcmread(single_series(cases["CT"]["image"])[0])
    assert (header.RescaleIntercept, header.SliceThickness) == (-1000, 3.0)


def test_equal_arguments_write_equal_files(tmp_path):
    for name in ("a", "b"):
        write_chaos(tmp_path / name, num_ct=1, num_mr=1, size=16, ct_slices=3, mr_slices=3)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 3 * 2 + 3 * 5
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_covid_sources_differ_in_scale_only(tmp_path):
    write_covid19_ct_20(tmp_path, num_per_source=1, size=(40, 32, 12))
    for case in covid19_ct_20(str(tmp_path)):
        image = np.asarray(nib.load(Path(case["image"])).dataobj, float)
        labels = np.asarray(nib.load(Path(case["label"])).dataobj)
        assert image.shape == labels.shape == (40, 32, 12)
        assert set(np.unique(labels)) == {0, 1, 2, 3}
        # By hand: -820 HU lie at (-820 + 1250) / 1500 x 255 = 73.1 of the window.
        expected = -820 if case["domain"] == "coronacases" else 73.1
        assert image[labels == 2].mean() == pytest.approx(expected, abs=1)
