"""Coded terms for the classes of the bundles: what a DICOM segmentation says about its segments.

Codes are those of the DICOM context groups for segmentation (PS3.16, CID 7150, 7151 and 7159), as pydicom
lists them. Left and right are modifiers, because DICOM does not use the codes that contain a side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from common.errors import InputError, raise_problems


@dataclass(frozen=True)
class SegmentTerm:
    """What a segment shows, in codes.

    Attributes:
        category: what kind of thing it is, as "anatomical structure".
        kind: the thing itself, as "kidney".
        side: "left" or "right"; None if the thing has none or both are meant.
        regions: where in the body it lies, for things that do not say it themselves.
    """

    category: Code
    kind: Code
    side: Code | None = None
    regions: tuple[Code, ...] = ()


_SCT = codes.SCT


def _anatomy(kind: Code, side: Code | None = None, regions: tuple[Code, ...] = ()) -> SegmentTerm:
    return SegmentTerm(_SCT.AnatomicalStructure, kind, side, regions)


def _abnormal(kind: Code, *regions: Code) -> SegmentTerm:
    return SegmentTerm(_SCT.MorphologicallyAbnormalStructure, kind, regions=regions)


_TERMS = {
    # heart
    "lv": _anatomy(_SCT.LeftVentricle),
    "rv": _anatomy(_SCT.RightVentricle),
    "la": _anatomy(_SCT.LeftAtrium),
    "ra": _anatomy(_SCT.RightAtrium),
    "myo": _anatomy(_SCT.LeftVentricleMyocardium),
    # Labels end at different heights of the vessel: the code of the whole of it is never false.
    "ao": _anatomy(_SCT.Aorta),
    "pa": _anatomy(_SCT.PulmonaryArtery),
    # kidneys and tumors
    "kidney": _anatomy(_SCT.Kidney),
    "kidney or tumor": _anatomy(_SCT.Kidney),
    "kidney tumor": _abnormal(_SCT.Neoplasm, _SCT.Kidney),
    "tumor": _abnormal(_SCT.Neoplasm),
    # pictures and lungs
    "polyp": _abnormal(_SCT.PolypOfColon),
    "lesion": _abnormal(_SCT.Lesion),
    "infection": _abnormal(_SCT.Lesion, _SCT.Lung),
    "lung": _anatomy(_SCT.Lung),
    # abdomen
    "liver": _anatomy(_SCT.Liver),
    "spleen": _anatomy(_SCT.Spleen),
    "right kidney": _anatomy(_SCT.Kidney, _SCT.Right),
    "left kidney": _anatomy(_SCT.Kidney, _SCT.Left),
    "gallbladder": _anatomy(_SCT.Gallbladder),
    "esophagus": _anatomy(_SCT.Esophagus),
    "stomach": _anatomy(_SCT.Stomach),
    "aorta": _anatomy(_SCT.Aorta),
    "inferior vena cava": _anatomy(_SCT.InferiorVenaCava),
    "portal and splenic veins": _anatomy(_SCT.Vein, regions=(_SCT.PortalVein, _SCT.SplenicVein)),
    "pancreas": _anatomy(_SCT.Pancreas),
    "right adrenal gland": _anatomy(_SCT.AdrenalGland, _SCT.Right),
    "left adrenal gland": _anatomy(_SCT.AdrenalGland, _SCT.Left),
    "duodenum": _anatomy(_SCT.Duodenum),
    "bladder": _anatomy(_SCT.Bladder),
    "prostate or uterus": _anatomy(_SCT.Organ, regions=(_SCT.Prostate, _SCT.Uterus)),
}
_ALIASES = {
    "tumour": "tumor",
    "kidney tumour": "kidney tumor",
    "oesophagus": "esophagus",
    "gall bladder": "gallbladder",
    "postcava": "inferior vena cava",
    "portal vein and splenic vein": "portal and splenic veins",
    "portal & splenic veins": "portal and splenic veins",
    "right adrenal": "right adrenal gland",
    "left adrenal": "left adrenal gland",
    "prostate/uterus": "prostate or uterus",
}


def terms_of(
    class_names: Sequence[str], extra: Mapping[str, Mapping[str, Any]] | None = None
) -> list[SegmentTerm]:
    """Coded term of every class.

    Args:
        class_names: foreground classes; case, ``_`` and ``-`` do not matter.
        extra: terms of further classes, or others for known ones: name ->
            ``{"category": code, "kind": code}``, optionally with ``"side": code`` and
            ``"regions": [code, ...]``; a code is ``[value, scheme, meaning]``, as in
            ``["10200004", "SCT", "Liver"]``.

    Returns:
        Terms in the order of ``class_names``.

    Raises:
        InputError: classes without a term, all of them named; or ``extra`` is not of this form.
    """
    own = {_plain(name): _parsed(name, entry) for name, entry in (extra or {}).items()}
    known = _TERMS | own
    keys = [plain if plain in own else _ALIASES.get(plain, plain) for plain in map(_plain, class_names)]
    raise_problems(
        "DICOM segmentation: expected classes with a coded term; give theirs as the setting segment_terms "
        "(see docs/dicom.md), or add them to common/data/segment_terms.py",
        [f"{name}: no term" for name, key in zip(class_names, keys) if key not in known],
    )
    return [known[key] for key in keys]


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _parsed(name: str, entry: object) -> SegmentTerm:
    allowed = {"category", "kind", "side", "regions"}
    if not isinstance(entry, Mapping) or not {"category", "kind"} <= set(entry) <= allowed:
        raise InputError(
            f"segment_terms: expected category and kind, and perhaps side and regions, for {name!r}, "
            f"found {entry!r}"
        )
    side = _code(name, entry["side"]) if entry.get("side") else None
    regions = tuple(_code(name, code) for code in entry.get("regions") or ())
    return SegmentTerm(_code(name, entry["category"]), _code(name, entry["kind"]), side, regions)


def _code(name: str, parts: object) -> Code:
    is_list = isinstance(parts, Sequence) and not isinstance(parts, str)
    if not is_list or len(parts) != 3 or not all(isinstance(part, str) and part for part in parts):
        raise InputError(
            f"segment_terms: expected codes as three texts [value, scheme, meaning] for {name!r}, "
            f"found {parts!r}"
        )
    return Code(*parts)
