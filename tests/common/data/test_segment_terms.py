import json

import pytest
from pydicom.sr.codedict import codes

from common.data.segment_terms import terms_of
from common.errors import InputError

OWN = {
    "category": ["49755003", "SCT", "Morphologically Abnormal Structure"],
    "kind": ["367643001", "SCT", "Cyst"],
    "side": ["7771000", "SCT", "Left"],
    "regions": [["64033007", "SCT", "Kidney"]],
}
ORGANS = "spleen,right kidney,left kidney,gallbladder,esophagus,liver,stomach,aorta,postcava,pancreas"


@pytest.mark.parametrize("bundle", ["crossdomain_liver", "dmnet_kits", "kcbac_mmwhs", "m2snet_polyp"])
def test_classes_of_the_bundles_have_terms(repository, bundle):
    config = json.loads((repository / "bundles" / bundle / "configs" / "inference.json").read_text())
    assert len(terms_of(config["class_names"])) == len(config["class_names"])


def test_abdominal_organs_have_terms():
    names = [*ORGANS.split(","), "right adrenal gland", "left adrenal gland", "duodenum", "bladder"]
    terms = terms_of([*names, "prostate/uterus", "portal & splenic veins"])
    assert len({(term.kind, term.side) for term in terms}) == len(terms)


def test_known_codes():
    # Values as in PS3.16, CID 7150, 7151 and 244.
    right, myocardium, tumor = terms_of(["Right_Kidney", "Myo", "kidney tumour"])
    assert (right.category.value, right.kind.value, right.side.value) == ("91723000", "64033007", "24028007")
    assert myocardium.kind.value == "49848007"
    assert (tumor.category.value, tumor.kind.value) == ("49755003", "108369006")
    assert tumor.regions == (codes.SCT.Kidney,)


def test_kinds_are_those_of_dicom_except_two():
    listed = {code.value for cid in (7151, 7166) for code in getattr(codes, f"cid{cid}").concepts.values()}
    names = [
        *ORGANS.split(","),
        "LV",
        "RV",
        "LA",
        "RA",
        "AO",
        "PA",
        "lung",
        "tumor",
        "lesion",
        "polyp",
        "Myo",
    ]
    others = [name for name, term in zip(names, terms_of(names)) if term.kind.value not in listed]
    assert others == ["polyp", "Myo"]  # DICOM lists them elsewhere: for colonography and for stress tests


def test_unknown_classes_are_all_named_with_the_way_out():
    with pytest.raises(InputError, match=r"segment_terms .*common/data/segment_terms\.py") as error:
        terms_of(["liver", "object", "cyst"])
    assert "object: no term" in str(error.value)
    assert "cyst: no term" in str(error.value)
    assert "liver: no" not in str(error.value)


def test_own_terms_add_and_replace():
    cyst, liver = terms_of(["Cyst", "liver"], {"cyst": OWN, "Liver": OWN | {"side": None}})
    assert (cyst.kind.value, cyst.side.meaning, cyst.regions[0].meaning) == ("367643001", "Left", "Kidney")
    assert (liver.kind.value, liver.side) == ("367643001", None)


def test_own_term_for_another_spelling_of_a_known_class():
    (term,) = terms_of(["tumour"], {"tumour": OWN})
    assert term.kind.meaning == "Cyst"


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": OWN["kind"]},
        OWN | {"color": "red"},
        OWN | {"kind": "Cyst"},
        OWN | {"kind": ["367643001", "SCT"]},
        OWN | {"kind": [367643001, "SCT", "Cyst"]},
        "Cyst",
    ],
)
def test_own_terms_of_another_form(entry):
    with pytest.raises(InputError, match="segment_terms: expected .* 'cyst', found"):
        terms_of(["cyst"], {"cyst": entry})
