"""The folders of Synapse and AMOS, and what may be wrong with them."""

import pytest

from common.data.abdomen import AMOS_CLASSES, SYNAPSE_CLASSES, SYNAPSE_NUMBERS, amos, synapse
from common.errors import InputError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def synapse_case(number, images="imagesTr", labels="labelsTr"):
    return [f"{images}/img{number:04d}.nii.gz", f"{labels}/label{number:04d}.nii.gz"]


def amos_case(number, part="Tr"):
    return [f"{kind}{part}/amos_{number:04d}.nii.gz" for kind in ("images", "labels")]


def test_synapse(tmp_path):
    touch(tmp_path, *synapse_case(21), *synapse_case(1), "imagesTs/img0061.nii.gz", "dataset.json")
    touch(tmp_path, "imagesTr/._img0001.nii.gz", "imagesTr/notes.txt")
    cases = synapse(str(tmp_path))
    assert [case["id"] for case in cases] == ["0001", "0021"]
    assert cases[0] == {
        "id": "0001",
        "image": str(tmp_path / "imagesTr/img0001.nii.gz"),
        "label": str(tmp_path / "labelsTr/label0001.nii.gz"),
        "modality": "CT",
    }


@pytest.mark.parametrize("above", ["", "Training/", "RawData/Training/"])
def test_synapse_as_unpacked(tmp_path, above):
    touch(tmp_path, *synapse_case(7, f"{above}img", f"{above}label"))
    assert synapse(str(tmp_path))[0]["label"] == str(tmp_path / f"{above}label/label0007.nii.gz")


def test_synapse_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="expected a folder, found nothing"):
        synapse(str(tmp_path / "none"))
    with pytest.raises(
        InputError, match="expected the folders imagesTr and labelsTr, or img and label, found"
    ):
        synapse(str(tmp_path))
    touch(tmp_path, *synapse_case(1), "imagesTr/img0002.nii.gz", "labelsTr/label0003.nii")
    with pytest.raises(InputError, match=r"2 problem\(s\)") as caught:
        synapse(str(tmp_path))
    assert "img0002.nii.gz: no label found" in str(caught.value)
    assert "label0003.nii: no image found" in str(caught.value)
    touch(tmp_path, "imagesTr/img00022.nii.gz", "imagesTr/scan0002.nii.gz")
    with pytest.raises(InputError, match=r"expected files named as img0001.nii.gz: 2 problem\(s\)"):
        synapse(str(tmp_path))


def test_synapse_without_its_labels(tmp_path):
    touch(tmp_path, "imagesTr/img0001.nii.gz")
    with pytest.raises(InputError, match="labelsTr: expected a folder, found nothing"):
        synapse(str(tmp_path))


@pytest.mark.parametrize("above", ["", "amos22/"])
def test_amos(tmp_path, above):
    root = tmp_path / above
    touch(root, *amos_case(507), *amos_case(500), *amos_case(8, "Va"), "imagesTs/amos_0002.nii.gz")
    cases = amos(str(tmp_path))
    found = [(case["id"], case["modality"]) for case in cases]
    assert found == [("amos_0008", "CT"), ("amos_0500", "CT"), ("amos_0507", "MR")]
    assert cases[0]["image"] == str(root / "imagesVa/amos_0008.nii.gz")
    assert cases[2]["label"] == str(root / "labelsTr/amos_0507.nii.gz")


def test_amos_without_its_validation_part(tmp_path):
    touch(tmp_path, *amos_case(1))
    assert len(amos(str(tmp_path))) == 1


def test_amos_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="imagesTr: expected a folder, found nothing"):
        amos(str(tmp_path))
    touch(tmp_path, *amos_case(1), "imagesVa/amos_0008.nii.gz")
    with pytest.raises(InputError, match="labelsVa: expected a folder, found nothing"):
        amos(str(tmp_path))
    touch(tmp_path, *amos_case(1, "Va"), "labelsVa/amos_0008.nii.gz")
    with pytest.raises(InputError, match="expected every id in one role only"):
        amos(str(tmp_path))
    touch(tmp_path, "labelsTr/amos_1.nii.gz")
    with pytest.raises(InputError, match="expected files named as amos_0001.nii.gz"):
        amos(str(tmp_path))


def test_classes_are_those_of_the_label_values():
    assert (len(SYNAPSE_CLASSES), len(AMOS_CLASSES), len(SYNAPSE_NUMBERS)) == (13, 15, 30)
    assert SYNAPSE_CLASSES[:9] == AMOS_CLASSES[:9]
    assert SYNAPSE_CLASSES[9] == "portal and splenic veins"
    assert (
        AMOS_CLASSES[9:12]
        == SYNAPSE_CLASSES[10:]
        == ("pancreas", "right adrenal gland", "left adrenal gland")
    )
