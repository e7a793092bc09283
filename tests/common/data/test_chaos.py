"""Folders of CHAOS and other data sets of several domains, as lists of cases."""

import shutil
from pathlib import Path

import pytest

from common.data import phantoms
from common.data.chaos import (
    CHAOS_LIVER_CODES,
    CHAOS_ORGAN_CODES,
    COVID_LUNG_CODES,
    chaos,
    covid19_ct_20,
    domain_folders,
)
from common.data.chaos_phantom import write_chaos, write_covid19_ct_20
from common.data.label_codes import class_of_code
from common.data.splits import seeded_split
from common.errors import InputError


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos")
    write_chaos(folder, num_ct=2, num_mr=1, size=16, ct_slices=4, mr_slices=3)
    # CT cases 1 and 10 sort as numbers, and a hidden folder of macOS is no case.
    (folder / "Train_Sets/CT/2").rename(folder / "Train_Sets/CT/10")
    shutil.copytree(folder / "Train_Sets/CT/1", folder / "Train_Sets/CT/9")
    (folder / "Train_Sets/CT/.hidden").mkdir()
    return folder


@pytest.fixture
def copy(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "copy"))


def test_cases_of_both_modalities(original):
    cases = chaos(str(original))
    assert [case["id"] for case in cases] == ["CT_1", "CT_9", "CT_10", "MR_1"]
    train = original / "Train_Sets"
    assert cases[0] == {
        "id": "CT_1",
        "image": str(train / "CT/1/DICOM_anon"),
        "label": str(train / "CT/1/Ground"),
        "domain": "CT",
        "stratum": "CT",
        "group": "CT_1",
    }
    assert cases[3]["image"] == str(train / "MR/1/T1DUAL/DICOM_anon/InPhase")
    assert cases[3]["label"] == str(train / "MR/1/T1DUAL/Ground")
    assert {case["group"] for case in cases if case["id"].endswith("_1")} == {"CT_1", "MR_1"}


def test_folder_itself_and_single_modalities(copy):
    assert chaos(str(copy / "Train_Sets")) == chaos(str(copy))
    assert [case["id"] for case in chaos(str(copy), modalities=["MR"])] == ["MR_1"]
    shutil.rmtree(copy / "Train_Sets/CT")
    assert [case["id"] for case in chaos(str(copy))] == ["MR_1"]
    with pytest.raises(InputError, match=r"Train_Sets: expected the folder\(s\) CT .*found MR"):
        chaos(str(copy), modalities=("CT", "MR"))
    with pytest.raises(InputError, match=r"expected the folder\(s\) CT, MR"):
        chaos(str(copy / "Train_Sets/MR/1"))


def test_phases_and_sequences(original):
    both = chaos(str(original), ["MR"], mr_phase="both")
    assert [(case["id"], case["group"]) for case in both] == [("MR_1_in", "MR_1"), ("MR_1_out", "MR_1")]
    assert both[0]["label"] == both[1]["label"]
    assert both[1]["image"].endswith("OutPhase")
    assert chaos(str(original), ["MR"], mr_phase="out")[0]["id"] == "MR_1"
    (t2,) = chaos(str(original), ["MR"], mr_sequence="T2SPIR")
    assert t2["image"].endswith("MR/1/T2SPIR/DICOM_anon")
    assert t2["label"].endswith("MR/1/T2SPIR/Ground")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modalities": ["PET"]}, "modalities: expected some of CT, MR, found PET"),
        ({"modalities": []}, "modalities: expected some of CT, MR, found none"),
        ({"mr_phase": "middle"}, "mr_phase in, out or both, found 'T1DUAL' and 'middle'"),
        ({"mr_sequence": "T1"}, "expected mr_sequence T1DUAL or T2SPIR"),
    ],
)
def test_unknown_names(original, arguments, message):
    with pytest.raises(InputError, match=message):
        chaos(str(original), **arguments)


def test_every_case_with_wrong_counts_is_named(copy):
    train = copy / "Train_Sets"
    next((train / "CT/10/Ground").glob("*.png")).unlink()
    shutil.rmtree(train / "MR/1/T1DUAL/Ground")
    with pytest.raises(InputError, match="2 problem") as error:
        chaos(str(copy))
    assert f"{train}/CT/10/Ground: expected one PNG mask" in str(error.value)
    assert f"{train}/CT/10/DICOM_anon, found 3 masks and 4 DICOM files" in str(error.value)
    assert f"{train}/MR/1/T1DUAL/Ground: expected a folder, found nothing" in str(error.value)


def test_modality_without_cases(tmp_path):
    (tmp_path / "CT").mkdir()
    with pytest.raises(InputError, match="CT: expected one folder for each case, found none"):
        chaos(str(tmp_path))


def test_split_keeps_the_share_of_both_modalities(original, tmp_path):
    cases = chaos(str(original), mr_phase="both")
    second = [{**case, "id": f"{case['id']}b", "group": "MR_2"} for case in cases if case["domain"] == "MR"]
    split = seeded_split(cases + second, tmp_path / "split.json", num_folds=2)
    held_out = [case["domain"] for case in split["validation"]]
    # Fold 0 of 2 has 2 of the 3 CT patients, and one of the 2 MR patients with both phases.
    assert sorted(held_out) == ["CT", "CT", "MR", "MR"]
    assert len({case["group"] for case in split["validation"] if case["domain"] == "MR"}) == 1


def test_liver_codes_keep_the_other_organs_out():
    """MR: 55 < v <= 70 is liver, 0 and the ranges around 126, 189 and 252 are not, all else means nothing."""
    mr = class_of_code(CHAOS_LIVER_CODES["MR"], 2)
    assert {value for value, index in mr.items() if index == 1} == set(range(56, 71))
    assert all(mr[value] == 0 for value in (0, 111, 126, 135, 176, 189, 200, 241, 252, 255))
    assert not {1, 55, 71, 110, 136, 175, 201, 240} & mr.keys()
    ct = class_of_code(CHAOS_LIVER_CODES["CT"], 2)
    assert [ct[value] for value in (0, 1, 63, 255)] == [0, 1, 1, 1]


def test_organ_codes_are_four_classes_of_mr_only():
    assert list(CHAOS_ORGAN_CODES) == ["MR"]
    table = class_of_code(CHAOS_ORGAN_CODES["MR"], 5)
    assert [table[value] for value in (0, 63, 126, 189, 252)] == [0, 1, 2, 3, 4]


def test_domain_folders(tmp_path):
    for name in ("MR", "CT"):
        phantoms.write_msd(tmp_path / name, num_cases=2, size=(8, 8, 6))
    cases = domain_folders(str(tmp_path))
    assert [case["id"] for case in cases] == ["CT_blobs_000", "CT_blobs_001", "MR_blobs_000", "MR_blobs_001"]
    assert all(case["domain"] == case["stratum"] == case["id"][:2] for case in cases)
    assert cases[0]["image"] == str(tmp_path / "CT/imagesTr/blobs_000.nii.gz")
    assert domain_folders(str(tmp_path), ["CT"]) == cases[:2]
    with pytest.raises(InputError, match="US: expected a folder"):
        domain_folders(str(tmp_path), ["US"])
    (tmp_path / "PET").mkdir()
    with pytest.raises(InputError, match=r"PET/dataset\.json"):
        domain_folders(str(tmp_path))


def test_no_domain_folders(tmp_path):
    with pytest.raises(InputError, match="expected one subfolder with dataset.json for each domain"):
        domain_folders(str(tmp_path))


def test_covid_sources_are_domains_and_scans_of_a_patient_stay_together(tmp_path):
    write_covid19_ct_20(tmp_path, num_per_source=2, size=(8, 8, 4))
    for folder in ("COVID-19-CT-Seg_20cases", "Lung_and_Infection_Mask"):
        first = tmp_path / folder / "radiopaedia_1_85001_1.nii.gz"
        shutil.copy(first, first.with_name("radiopaedia_1_85001_3.nii.gz"))
    cases = covid19_ct_20(str(tmp_path))
    assert [(case["id"], case["domain"], case["group"]) for case in cases] == [
        ("coronacases_001", "coronacases", "coronacases_001"),
        ("coronacases_002", "coronacases", "coronacases_002"),
        ("radiopaedia_1_85001_1", "radiopaedia", "radiopaedia_1"),
        ("radiopaedia_1_85001_3", "radiopaedia", "radiopaedia_1"),
        ("radiopaedia_2_85002_1", "radiopaedia", "radiopaedia_2"),
    ]
    assert all(case["stratum"] == case["domain"] for case in cases)
    assert class_of_code(COVID_LUNG_CODES, 3) == {0: 0, 1: 1, 2: 1, 3: 2}
    with pytest.raises(InputError, match="Infection_Mask: expected a folder"):
        covid19_ct_20(str(tmp_path), "Infection_Mask")


def test_covid_scan_of_no_known_source(tmp_path):
    write_covid19_ct_20(tmp_path, num_per_source=1, size=(8, 8, 4))
    for folder in ("COVID-19-CT-Seg_20cases", "Lung_and_Infection_Mask"):
        (tmp_path / folder / "coronacases_001.nii.gz").rename(tmp_path / folder / "mine.nii.gz")
    with pytest.raises(InputError, match="begin with coronacases or radiopaedia"):
        covid19_ct_20(str(tmp_path))
