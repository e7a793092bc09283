"""CHAOS, and other data sets whose cases come from several domains (modalities, scanners, sources).

A case is a dict of strings as in :mod:`common.data.layouts`, with two more entries: ``domain``, which
transforms and the batch sampler read, and ``stratum``, the same name, so that a split holds the same share of
every domain.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from common.data.image_files import existing_folder, joined, list_images
from common.data.layouts import msd
from common.data.mask_stack import mask_of_slice
from common.data.pairing import Case, by_id, paired, refuse_repeats
from common.errors import InputError, raise_problems

MODALITIES = ("CT", "MR")
_PHASE_FOLDERS = {"in": "InPhase", "out": "OutPhase"}
_COVID_SOURCES = ("coronacases", "radiopaedia")

# Gray values of the organs in MR masks: 63, 126, 189 and 252, and what the organizers accept around them.
_MR_GRAY = {
    "liver": range(56, 71),
    "right kidney": range(111, 136),
    "left kidney": range(176, 201),
    "spleen": range(241, 256),
}


def _mr_table(class_of: dict[str, int]) -> dict[int, int]:
    return {0: 0} | {value: class_of.get(name, 0) for name, gray in _MR_GRAY.items() for value in gray}


# For ``DomainLabelCodesd``. Liver only, K = 2: CT masks hold nothing but liver; MR masks hold four organs, of
# which "everything above 0" would make one.
CHAOS_LIVER_CODES = {"CT": {0: 0} | dict.fromkeys(range(1, 256), 1), "MR": _mr_table({"liver": 1})}
# The four organs, K = 5; for MR only, as other organs are background in CT masks.
CHAOS_ORGAN_CODES = {"MR": _mr_table({name: index for index, name in enumerate(_MR_GRAY, start=1)})}
# Lung (left and right in one) and infection, K = 3, in ``Lung_and_Infection_Mask`` of COVID-19-CT-Seg.
COVID_LUNG_CODES = [[1, 2], 3]


def chaos(
    dataset_dir: str,
    modalities: Sequence[str] | None = None,
    mr_sequence: str = "T1DUAL",
    mr_phase: str = "in",
) -> list[Case]:
    """The labeled cases of CHAOS as downloaded: DICOM series with one PNG mask per slice.

    In ``Train_Sets``: ``CT/1/DICOM_anon`` and ``CT/1/Ground``; ``MR/1/T1DUAL/DICOM_anon/InPhase``,
    ``.../OutPhase`` and ``MR/1/T1DUAL/Ground``; ``MR/1/T2SPIR/DICOM_anon`` and ``MR/1/T2SPIR/Ground``; ...
    Equal numbers in CT and MR are different patients. Masks and slices are counted here; what else has to
    hold for a series is checked when it is read.

    Args:
        dataset_dir: the folder that contains ``Train_Sets``, or ``Train_Sets`` itself.
        modalities: which of ``CT`` and ``MR``; None: those that are there.
        mr_sequence: ``T1DUAL`` or ``T2SPIR``, which the paper does not use.
        mr_phase: of ``T1DUAL``: ``in``, ``out``, or ``both`` as two cases of one patient with the same masks.
            The paper does not tell; ``in`` is our choice.

    Returns:
        Cases by modality and number (``CT_1``, ``MR_1``; with both phases ``MR_1_in`` and ``MR_1_out``):
        ``image`` is the folder of the DICOM series and ``label`` that of the masks; with ``domain`` and
        ``stratum`` (the modality) and ``group`` (the patient).

    Raises:
        InputError: no such folders, an unknown modality, sequence or phase, no cases of a modality, a case
            without slices, or with another number of masks.
    """
    root = existing_folder(dataset_dir)
    if (root / "Train_Sets").is_dir():
        root = root / "Train_Sets"
    series = _mr_series(mr_sequence, mr_phase)
    cases: list[Case] = []
    for modality in _present(root, modalities):
        folders = [path for path in (root / modality).iterdir() if path.is_dir() and path.name[0] != "."]
        if not folders:
            raise InputError(f"{root / modality}: expected one folder for each case, found none")
        for folder in sorted(folders, key=lambda path: (len(path.name), path.name)):
            cases += _series_of(
                folder, modality, {"": ("DICOM_anon", "Ground")} if modality == "CT" else series
            )
    problems = []
    for case in cases:
        try:
            mask_of_slice(case["image"], case["label"])
        except InputError as error:
            problems.append(str(error))
    raise_problems(f"{root}: every slice needs a mask", problems)
    return cases


def domain_folders(dataset_dir: str, modalities: Sequence[str] | None = None) -> list[Case]:
    """Volumes of several domains as NIfTI: a subfolder per domain, in the layout of :func:`layouts.msd`.

    ``CT/dataset.json``, ``CT/imagesTr/...``, ``MR/dataset.json``, ...; a domain is called like its subfolder.

    Args:
        dataset_dir: the folder that contains the subfolders.
        modalities: which of them; None: all.

    Returns:
        Cases by domain and id, with ids ``<domain>_<file name>``, ``domain`` and ``stratum``.

    Raises:
        InputError: no subfolders, or one that :func:`common.data.layouts.msd` refuses.
    """
    root = existing_folder(dataset_dir)
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise InputError(f"{root}: expected one subfolder with dataset.json for each domain, found none")
    if modalities is not None:
        folders = [existing_folder(root / name) for name in modalities]
    cases = [
        {**case, "id": f"{folder.name}_{case['id']}", "domain": folder.name, "stratum": folder.name}
        for folder in folders
        for case in msd(str(folder))
    ]
    refuse_repeats(root, [case["id"] for case in cases])
    return cases


def covid19_ct_20(dataset_dir: str, mask_dir: str = "Lung_and_Infection_Mask") -> list[Case]:
    """The 20 labeled scans of COVID-19-CT-Seg (Zenodo record 3757476), whose two sources are the domains.

    ``COVID-19-CT-Seg_20cases/coronacases_001.nii.gz``, ``.../radiopaedia_4_85506_1.nii.gz`` and masks of the
    same names in ``Lung_and_Infection_Mask``.

    Args:
        dataset_dir: the folder that contains both.
        mask_dir: ``Lung_and_Infection_Mask`` (values: :data:`COVID_LUNG_CODES`), ``Lung_Mask`` or
            ``Infection_Mask``.

    Returns:
        Cases by id, with ``domain`` and ``stratum`` (``coronacases`` or ``radiopaedia``) and ``group``:
        Radiopaedia's first number is one patient, who may have several scans.

    Raises:
        InputError: no such folders, a file of neither source, a scan without mask or the reverse.
    """
    root = existing_folder(dataset_dir)
    folder = existing_folder(root / "COVID-19-CT-Seg_20cases")
    masks = by_id(list_images(existing_folder(root / mask_dir)), [])
    cases = paired(folder, by_id(list_images(folder), []), masks)
    strange = [case["image"] for case in cases if not case["id"].startswith(_COVID_SOURCES)]
    raise_problems(f"{folder}: expected names that begin with {' or '.join(_COVID_SOURCES)}", strange)
    found = []
    for case in cases:
        source = next(name for name in _COVID_SOURCES if case["id"].startswith(name))
        patient = re.match(r"radiopaedia_(\d+)_", case["id"])
        group = f"radiopaedia_{patient[1]}" if patient else case["id"]
        found.append({**case, "domain": source, "stratum": source, "group": group})
    return found


def _present(root: Path, modalities: Sequence[str] | None) -> list[str]:
    """Modalities to list, in the usual order."""
    present = [name for name in MODALITIES if (root / name).is_dir()]
    if modalities is None and present:
        return present
    wanted = list(MODALITIES if modalities is None else modalities)
    if not wanted or any(name not in MODALITIES for name in wanted):
        raise InputError(
            f"modalities: expected some of {joined(MODALITIES)}, found {joined(wanted) or 'none'}"
        )
    missing = [name for name in wanted if name not in present]
    if missing:
        raise InputError(
            f"{root}: expected the folder(s) {joined(missing)} of the labeled part of CHAOS, "
            f"found {joined(sorted(path.name for path in root.iterdir())) or 'an empty folder'}"
        )
    return [name for name in MODALITIES if name in wanted]


def _mr_series(sequence: str, phase: str) -> dict[str, tuple[str, str]]:
    """What is added to an id -> folders of series and masks below that of the MR case."""
    if sequence not in ("T1DUAL", "T2SPIR") or phase not in (*_PHASE_FOLDERS, "both"):
        raise InputError(
            "expected mr_sequence T1DUAL or T2SPIR and mr_phase in, out or both, "
            f"found {sequence!r} and {phase!r}"
        )
    if sequence == "T2SPIR":
        return {"": ("T2SPIR/DICOM_anon", "T2SPIR/Ground")}
    phases = list(_PHASE_FOLDERS) if phase == "both" else [phase]
    return {
        f"_{name}" if phase == "both" else "": (f"T1DUAL/DICOM_anon/{_PHASE_FOLDERS[name]}", "T1DUAL/Ground")
        for name in phases
    }


def _series_of(folder: Path, modality: str, series: dict[str, tuple[str, str]]) -> list[Case]:
    patient = f"{modality}_{folder.name}"
    shared = {"domain": modality, "stratum": modality, "group": patient}
    return [
        {"id": patient + ending, "image": str(folder / image), "label": str(folder / label), **shared}
        for ending, (image, label) in series.items()
    ]
