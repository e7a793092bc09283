"""From the downloaded folders of KiTS19 and BraTS 2018 to lists of cases.

Cases are as in :mod:`common.data.layouts`, with ``group``, the patient; ``image`` may be a list of files that
become channels, and a case without label has no ``label``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from common.data.image_files import NIFTI_SUFFIXES, existing_folder, joined
from common.data.image_layouts import ImageCase
from common.data.pairing import refuse_repeats
from common.errors import InputError, raise_problems

logger = logging.getLogger(__name__)

# What the networks are to find in KiTS19 (``label_codes``): kidney and tumor as one, K = 2; the tumor alone,
# K = 2; both apart, K = 3. The paper does not tell; the first fits its numbers.
KITS19_CODES = {"union": [[1, 2]], "tumor": {0: 0, 1: 0, 2: 1}, "multi": [1, 2]}
# Necrosis, edema and enhancing tumor as one, K = 2, as in the paper.
BRATS18_CODES = [[1, 2, 4]]

_SECOND_PHASE = "a second contrast phase without labels is appended"
_RELABELED = "label corrected by the organizers after the challenge"
# Reported for the release of 2019; in later ones some of this is mended.
KITS19_FAULTY = {
    "case_00015": f"{_RELABELED} (fluid beside the spleen marked as kidney); {_SECOND_PHASE}",
    "case_00023": _RELABELED,
    "case_00025": _SECOND_PHASE,
    "case_00037": _RELABELED,
    "case_00061": _SECOND_PHASE,
    "case_00117": _SECOND_PHASE,
    "case_00125": _RELABELED,
    "case_00133": "label suspected to be wrong",
    "case_00160": "slices of 512 x 796 instead of 512 x 512 voxels",
}

_MODALITIES = ("t1", "t1ce", "t2")


def kits19(dataset_dir: str, exclude: Sequence[str] = (), with_unlabeled: bool = False) -> list[ImageCase]:
    """KiTS19: ``data/case_00000/imaging.nii.gz`` and ``segmentation.nii.gz``, 0 to 209 with labels.

    The files may be unpacked (``.nii``), which makes reading faster; of both the unpacked one is taken. Their
    array axes run to foot, back and left, so slices lie across axis 0, as their affine says.

    Args:
        dataset_dir: the folder that contains ``data``, or the one with the folders of the cases.
        exclude: ids to leave out. None is by default; those in :data:`KITS19_FAULTY` are warned of.
        with_unlabeled: also list the cases without label (210 to 299), without ``label``.

    Returns:
        Cases by id, with ``group``.

    Raises:
        InputError: no such folder, no labeled cases, a label whose image was not downloaded, or an unknown id
            in ``exclude``.
    """
    root = existing_folder(dataset_dir)
    root = root / "data" if (root / "data").is_dir() else root
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and re.match(r"case_\d+$", path.name)]
    cases, problems = [], []
    for folder in folders:
        image, label = _nifti(folder / "imaging"), _nifti(folder / "segmentation")
        if label and not image:
            problems.append(f"{label}: no imaging.nii.gz found for this label; was it downloaded?")
        if image and (label or with_unlabeled):
            files = {"image": image} | ({"label": label} if label else {})
            cases.append({"id": folder.name, **files, "group": folder.name})
    raise_problems(f"{root}: every label needs an image", problems)
    unknown = sorted(set(exclude) - {folder.name for folder in folders})
    if unknown:
        raise InputError(f"exclude: expected ids of cases in {root}, found {joined(unknown)}")
    cases = [case for case in cases if case["id"] not in exclude]
    if not any("label" in case for case in cases):
        raise InputError(
            f"{root}: expected folders such as case_00000 with imaging.nii.gz and segmentation.nii.gz, "
            "found none"
        )
    faulty = [f"{c['id']} ({KITS19_FAULTY[c['id']]})" for c in cases if c["id"] in KITS19_FAULTY]
    if faulty:
        logger.warning("%s: cases with known faults, see exclude: %s", root, "; ".join(faulty))
    return cases


def brats18(dataset_dir: str) -> list[ImageCase]:
    """BraTS 2018, training part: ``{HGG,LGG}/Brats18_X/Brats18_X_{t1,t1ce,t2,seg}.nii.gz``.

    The official part has 285 cases, where the paper says 385. FLAIR is left out, as in the paper.

    Args:
        dataset_dir: the folder that contains ``HGG`` and ``LGG``, or one level above, where it is called
            ``MICCAI_BraTS_2018_Data_Training``.

    Returns:
        Cases by id; ``image`` lists T1, T1 with contrast agent and T2, ``group`` is the id without the number
        of the visit at its end.

    Raises:
        InputError: no such folders, no cases, a case without one of the files, or an id in both.
    """
    root = existing_folder(dataset_dir)
    official = root / "MICCAI_BraTS_2018_Data_Training"
    root = official if official.is_dir() else root
    folders = [path for grade in ("HGG", "LGG") for path in (root / grade).glob("Brats18_*") if path.is_dir()]
    cases, problems = [], []
    for folder in sorted(folders, key=lambda path: path.name):
        files = {kind: _nifti(folder / f"{folder.name}_{kind}") for kind in (*_MODALITIES, "seg")}
        missing = [f"{folder.name}_{kind}.nii.gz" for kind, file in files.items() if not file]
        if missing:
            problems.append(f"{folder}: no {joined(missing)} found")
            continue
        image = [files[kind] for kind in _MODALITIES]
        patient = re.sub(r"_\d+$", "", folder.name)
        cases.append({"id": folder.name, "image": image, "label": files["seg"], "group": patient})
    raise_problems(f"{root}: every case needs its images and label", problems)
    if not cases:
        raise InputError(f"{root}: expected folders such as HGG/Brats18_2013_2_1, found none")
    refuse_repeats(root, [case["id"] for case in cases])
    return cases


def _nifti(stem: Path) -> str | None:
    """Path of a NIfTI file, unpacked if there is a choice, or None."""
    files = (stem.with_name(stem.name + suffix) for suffix in reversed(NIFTI_SUFFIXES))
    return next((str(file) for file in files if file.is_file()), None)
