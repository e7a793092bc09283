"""The folders of KiTS19 and BraTS 2018, and what may be wrong with them."""

import logging

import pytest

from common.data.kits_brats import KITS19_CODES, KITS19_FAULTY, brats18, kits19
from common.data.label_codes import class_of_code
from common.errors import InputError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def kits_case(number, *kinds):
    return [f"data/case_{number:05d}/{kind}.nii.gz" for kind in kinds or ("imaging", "segmentation")]


def test_kits19(tmp_path):
    touch(
        tmp_path,
        *kits_case(1),
        *kits_case(0),
        *kits_case(210, "imaging"),
        "data/kits.json",
        "data/other/imaging.nii.gz",
    )
    folder = tmp_path / "data" / "case_00000"
    cases = kits19(str(tmp_path))
    assert [case["id"] for case in cases] == ["case_00000", "case_00001"]
    assert cases[0] == {
        "id": "case_00000",
        "image": str(folder / "imaging.nii.gz"),
        "label": str(folder / "segmentation.nii.gz"),
        "group": "case_00000",
    }
    assert kits19(str(tmp_path / "data")) == cases
    bare = kits19(str(tmp_path), with_unlabeled=True)[-1]
    assert (bare["id"], "label" in bare, bare["group"]) == ("case_00210", False, "case_00210")
    touch(tmp_path, "data/case_00000/imaging.nii")
    assert kits19(str(tmp_path))[0]["image"] == str(folder / "imaging.nii")


def test_kits19_faulty_cases_are_warned_of_unless_excluded(tmp_path, caplog):
    touch(tmp_path, *kits_case(14), *kits_case(15), *kits_case(160))
    with caplog.at_level(logging.WARNING):
        assert len(kits19(str(tmp_path))) == 3
    assert "case_00015 (label corrected" in caplog.text
    assert "case_00160 (slices of 512 x 796" in caplog.text
    assert "case_00014" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        cases = kits19(str(tmp_path), exclude=["case_00015", "case_00160"])
    assert [case["id"] for case in cases] == ["case_00014"]
    assert caplog.text == ""
    with pytest.raises(InputError, match="exclude: expected ids of cases in .*, found case_00016"):
        kits19(str(tmp_path), exclude=["case_00014", "case_00016"])


def test_kits19_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="expected a folder, found nothing"):
        kits19(str(tmp_path / "none"))
    touch(tmp_path, *kits_case(0, "imaging"), "data/case_00003/notes.txt")
    with pytest.raises(InputError, match="expected folders such as case_00000 .*, found none"):
        kits19(str(tmp_path), with_unlabeled=True)
    touch(tmp_path, *kits_case(1, "segmentation"), *kits_case(2, "segmentation"))
    with pytest.raises(
        InputError, match=r"2 problem\(s\)\n.*case_00001/segmentation.nii.gz: no imaging.nii.gz"
    ):
        kits19(str(tmp_path))


@pytest.mark.parametrize(
    ("target", "num_classes", "classes"),
    [("union", 2, [0, 1, 1]), ("tumor", 2, [0, 0, 1]), ("multi", 3, [0, 1, 2])],
)
def test_targets_of_kits19(target, num_classes, classes):
    table = class_of_code(KITS19_CODES[target], num_classes)
    assert [table[value] for value in (0, 1, 2)] == classes


def test_faulty_cases_have_ids_of_labeled_cases():
    assert all(name in [f"case_{number:05d}" for number in range(210)] for name in KITS19_FAULTY)


def brats_case(name, kinds=("t1", "t1ce", "t2", "flair", "seg")):
    return [f"{name}/{name.split('/')[-1]}_{kind}.nii.gz" for kind in kinds]


def test_brats18(tmp_path):
    root = tmp_path / "MICCAI_BraTS_2018_Data_Training"
    touch(
        root,
        *brats_case("HGG/Brats18_TCIA01_131_1"),
        *brats_case("LGG/Brats18_2013_0_1"),
        "survival_data.csv",
    )
    cases = brats18(str(tmp_path))
    assert [case["id"] for case in cases] == ["Brats18_2013_0_1", "Brats18_TCIA01_131_1"]
    stem = str(root / "LGG" / "Brats18_2013_0_1" / "Brats18_2013_0_1")
    assert cases[0] == {
        "id": "Brats18_2013_0_1",
        "image": [f"{stem}_{kind}.nii.gz" for kind in ("t1", "t1ce", "t2")],
        "label": f"{stem}_seg.nii.gz",
        "group": "Brats18_2013_0",
    }
    assert brats18(str(root)) == cases


def test_brats18_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="expected folders such as HGG/Brats18_2013_2_1, found none"):
        brats18(str(tmp_path))
    touch(
        tmp_path,
        *brats_case("HGG/Brats18_A_1", ("t1", "t2", "flair", "seg")),
        *brats_case("LGG/Brats18_B_1", ("t1",)),
    )
    with pytest.raises(InputError, match=r"2 problem\(s\)") as caught:
        brats18(str(tmp_path))
    assert "Brats18_A_1: no Brats18_A_1_t1ce.nii.gz found" in str(caught.value)
    assert "Brats18_B_1_t1ce.nii.gz, Brats18_B_1_t2.nii.gz, Brats18_B_1_seg.nii.gz" in str(caught.value)


def test_brats18_case_of_both_grades(tmp_path):
    touch(tmp_path, *brats_case("HGG/Brats18_A_1"), *brats_case("LGG/Brats18_A_1"))
    with pytest.raises(InputError, match="Brats18_A_1"):
        brats18(str(tmp_path))
