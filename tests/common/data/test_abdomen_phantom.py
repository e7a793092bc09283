"""Generated Synapse and AMOS: laid out as the real ones, with the organs where they are in a patient."""

import nibabel as nib
import numpy as np
import pytest

from common.data.abdomen import AMOS_CLASSES, SYNAPSE_CLASSES, amos, synapse
from common.data.abdomen_phantom import write_amos, write_synapse
from common.data.case_streams import published_split
from common.data.checks import check_cases


@pytest.fixture(scope="module")
def synapse_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synapse")
    write_synapse(folder, num_cases=3)
    return folder


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


def middle(labels, classes, name):
    """Mean index of an organ along each axis, the volume taken as 0 to 1."""
    return np.argwhere(labels == classes.index(name) + 1).mean(axis=0) / labels.shape


def test_synapse_has_all_organs_of_very_different_size(synapse_dir):
    cases = synapse(str(synapse_dir))
    assert [case["id"] for case in cases] == ["0001", "0002", "0003"]
    check_cases(cases, 14)
    for case in cases:
        counts = np.bincount(voxels(case["label"]).ravel(), minlength=14)
        assert (counts > 0).all()
        assert counts[6] > 100 * counts[12]


def test_organs_lie_where_they_do_in_a_patient(synapse_dir):
    case = synapse(str(synapse_dir))[0]
    labels = voxels(case["label"])
    assert labels.shape == (40, 40, 24)
    assert nib.aff2axcodes(nib.load(case["image"]).affine) == ("L", "A", "S")
    place = {name: middle(labels, SYNAPSE_CLASSES, name) for name in SYNAPSE_CLASSES}
    for right, left in (
        ("liver", "spleen"),
        ("right kidney", "left kidney"),
        ("inferior vena cava", "aorta"),
    ):
        assert place[right][0] < 0.5 < place[left][0]
    assert place["stomach"][1] > place["right kidney"][1]
    assert place["esophagus"][2] > place["pancreas"][2]


def test_ct_is_in_hounsfield_units(synapse_dir):
    case = synapse(str(synapse_dir))[0]
    image, labels = voxels(case["image"]), voxels(case["label"])
    assert image.dtype == np.int16
    assert image[..., 0].min() < -900
    assert image[labels == 6].mean() == pytest.approx(100, abs=2)


def test_equal_arguments_write_equal_files_and_cases_differ(synapse_dir, tmp_path):
    write_synapse(tmp_path, num_cases=2)
    first, second = (f"imagesTr/img000{number}.nii.gz" for number in (1, 2))
    assert np.array_equal(voxels(synapse_dir / second), voxels(tmp_path / second))
    assert not np.array_equal(voxels(synapse_dir / first), voxels(synapse_dir / second))


def test_amos_has_mr_scans_and_scans_without_pelvis(tmp_path):
    write_amos(tmp_path, training=(1, 3, 507), test=(8, 544))
    cases = amos(str(tmp_path))
    assert [case["id"] for case in cases] == [f"amos_{n:04d}" for n in (1, 3, 8, 507, 544)]
    assert "imagesVa" in cases[2]["image"]
    check_cases(cases, 16)
    for case in cases:
        is_mr = case["modality"] == "MR"
        assert (voxels(case["image"]).min() >= 0) == is_mr
        absent = {14, 15} if int(case["id"][-4:]) % 3 == 0 else set()
        assert set(np.unique(voxels(case["label"]))) == set(range(16)) - absent
    labels = voxels(cases[0]["label"])
    assert nib.aff2axcodes(nib.load(cases[0]["image"]).affine) == ("L", "P", "S")
    assert middle(labels, AMOS_CLASSES, "bladder")[2] < 0.3 < middle(labels, AMOS_CLASSES, "liver")[2]


def test_published_splits_of_synapse_apply(repository, tmp_path):
    write_synapse(tmp_path, size=(10, 10, 8))
    split = repository / "bundles" / "skc_synapse" / "splits" / "synapse_20.json"
    streams = published_split(synapse(str(tmp_path)), split, tmp_path / "split.json")
    assert [len(cases) for cases in streams.values()] == [4, 16, 4, 6, 0]


@pytest.mark.slow
def test_published_splits_of_amos_apply(repository, tmp_path):
    split = repository / "bundles" / "skc_synapse" / "splits" / "amos_5.json"
    write_amos(tmp_path, split)
    cases = amos(str(tmp_path))
    streams = published_split(cases, split, tmp_path / "split.json")
    assert [len(cases) for cases in streams.values()] == [10, 206, 24, 120, 0]
    assert {case["id"] for case in cases if "imagesVa" in case["image"]} == {
        case["id"] for case in streams["test"]
    }
