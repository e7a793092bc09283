"""Generated KiTS19 and BraTS 2018: laid out as the real ones, and usable from the folder to the slices."""

import nibabel as nib
import numpy as np
import pytest
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureTyped, Resized

from common.data.checks import check_cases
from common.data.kits_brats import BRATS18_CODES, KITS19_CODES, brats18, kits19
from common.data.kits_phantom import write_brats18, write_kits19
from common.data.semi_supervised import patient_split, slice_streams
from common.data.slice_index import slice_index
from common.transforms.label_codes import MapLabelCodesd
from common.transforms.slice_of_volume import LoadSliced, NormalizeByVolumed


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kits")
    write_kits19(folder, num_cases=6)
    return folder


@pytest.fixture(scope="module")
def brats(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brats")
    write_brats18(folder, num_hgg=3, num_lgg=3)
    return folder


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


def test_kits19_has_its_axes_and_codes(kits):
    cases = kits19(str(kits), with_unlabeled=True)
    assert [case["id"] for case in cases] == [*(f"case_{n:05d}" for n in range(6)), "case_00210"]
    image = nib.load(cases[0]["image"])
    assert nib.aff2axcodes(image.affine) == ("I", "P", "L")
    assert image.shape == (20, 40, 40)
    for case in cases[:6]:
        assert set(np.unique(voxels(case["label"]))) == {0, 1, 2}
    check_cases(cases[:6], 3)


def test_kits19_organs_lie_where_they_do_in_a_patient(kits):
    case = kits19(str(kits))[0]
    image, labels = voxels(case["image"]), voxels(case["label"])
    organ, tumor, body = image[labels == 1], image[labels == 2], np.median(image[image > -500])
    assert organ.mean() > tumor.mean() > body
    # Two kidneys, one on either side of the spine, whose last array axis runs to the left; tumor on the left.
    columns = np.argwhere(labels == 1)[:, 2]
    assert min((columns < 20).sum(), (columns > 20).sum()) > 30
    assert np.argwhere(labels == 2)[:, 2].mean() > 20


def test_brats18_has_its_axes_codes_and_no_skull(brats):
    cases = brats18(str(brats))
    assert len(cases) == 6
    assert (brats / "HGG" / "Brats18_P0_1" / "Brats18_P0_1_flair.nii.gz").is_file()
    for case in cases:
        labels = voxels(case["label"])
        assert set(np.unique(labels)) == {0, 1, 2, 4}
        images = [voxels(path) for path in case["image"]]
        assert all(((image != 0) == (images[0] != 0)).all() for image in images)
        assert (images[0][labels > 0] > 0).all()
        assert 0.1 < (images[0] != 0).mean() < 0.4
    assert nib.aff2axcodes(nib.load(cases[0]["label"]).affine) == ("L", "P", "S")
    check_cases(cases, 2, in_channels=3, label_codes=BRATS18_CODES)


def test_equal_arguments_write_equal_files(kits, tmp_path):
    write_kits19(tmp_path, num_cases=2, num_unlabeled=0)
    for name in ("case_00001/imaging.nii.gz", "case_00001/segmentation.nii.gz"):
        assert np.array_equal(voxels(kits / "data" / name), voxels(tmp_path / "data" / name))
    assert not np.array_equal(
        voxels(kits / "data/case_00000/imaging.nii.gz"), voxels(kits / "data/case_00001/imaging.nii.gz")
    )


def test_kits19_from_the_folder_to_batches(kits, tmp_path):
    cases = kits19(str(kits), with_unlabeled=True)
    index = slice_index(cases, 2, KITS19_CODES["union"], tmp_path / "index.json")
    streams = slice_streams(patient_split(cases, tmp_path / "split.json"), index)
    # 4 training patients with two unlabeled slices each, and two of the image without label.
    assert {role: len(items) for role, items in streams.items()} == {
        "labeled": 4,
        "unlabeled": 10,
        "validation": 1,
        "test": 1,
    }
    both = ["image", "label"]
    chain = Compose(
        [
            LoadSliced(both, allow_missing_keys=True),
            MapLabelCodesd("label", KITS19_CODES["union"], 2, allow_missing_keys=True),
            Resized(both, (32, 32), mode=["bilinear", "nearest"], allow_missing_keys=True),
            EnsureTyped(both, track_meta=False, allow_missing_keys=True),
        ]
    )
    batch = next(iter(DataLoader(Dataset(streams["labeled"], chain), batch_size=4)))
    assert batch["image"].shape == batch["label"].shape == (4, 1, 32, 32)
    assert batch["label"].unique().tolist() == [0, 1]
    item = streams["labeled"][0]
    area = voxels(item["label"])[::-1].astype(bool).sum(axis=(1, 2))  # from foot to head
    assert item["slice"] == area.argmax()
    assert int(LoadSliced(both)(item)["label"].astype(bool).sum()) == area.max()
    assert "label" not in next(iter(DataLoader(Dataset(streams["unlabeled"], chain), batch_size=4)))


def test_brats18_from_the_folder_to_z_scores(brats, tmp_path):
    cases = brats18(str(brats))
    index = slice_index(cases, 2, BRATS18_CODES, with_intensities=True)
    streams = slice_streams(patient_split(cases, tmp_path / "split.json"), index)
    chain = Compose([LoadSliced("image"), NormalizeByVolumed("image")])
    image = chain(streams["unlabeled"][0])["image"]
    assert image.shape == (3, 40, 40)
    inside = image[:, image[0] != 0]
    assert inside.mean().abs() < 0.5
    assert 0.5 < inside.std() < 1.6
