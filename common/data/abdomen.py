"""From the downloaded folders of Synapse (BTCV) and AMOS, scans of the abdomen, to lists of cases.

Cases are as in :mod:`common.data.layouts`, with ``modality``, CT or MR.
"""

from __future__ import annotations

import re
from pathlib import Path

from common.data.image_files import NIFTI_SUFFIXES, existing_folder, image_id, list_images
from common.data.pairing import Case, by_id, paired, refuse_repeats
from common.errors import InputError, raise_problems

# In the order of the label values, which are the classes.
SYNAPSE_CLASSES = (
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal and splenic veins",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)
AMOS_CLASSES = (
    *SYNAPSE_CLASSES[:9],
    *SYNAPSE_CLASSES[10:],
    "duodenum",
    "bladder",
    "prostate or uterus",
)
# The scans of the challenge's training part; the numbers between are those of its test part.
SYNAPSE_NUMBERS = (*range(1, 11), *range(21, 41))
# Numbers above it are MR scans.
AMOS_LAST_CT = 500

_SYNAPSE_FOLDERS = (("imagesTr", "labelsTr"), ("img", "label"))


def synapse(dataset_dir: str) -> list[Case]:
    """Synapse multi-atlas abdomen (BTCV), training part: 30 CT scans with labels of 13 organs.

    Files are ``img0001.nii.gz`` and ``label0001.nii.gz``, in ``imagesTr`` and ``labelsTr`` or, as unpacked
    from the download ``RawData.zip``, in ``img`` and ``label``.

    Args:
        dataset_dir: the folder that contains both, or ``RawData`` or ``Training`` above them.

    Returns:
        Cases sorted by id (``0001``, ...), ``modality`` CT.

    Raises:
        InputError: no such folders, no images, an image without label or the reverse, or a NIfTI file of
            another name.
    """
    root = existing_folder(dataset_dir)
    roots = [root, root / "Training", root / "RawData" / "Training"]
    found = [(at / images, at / labels) for at in roots for images, labels in _SYNAPSE_FOLDERS]
    found = [(images, labels) for images, labels in found if images.is_dir()]
    if not found:
        raise InputError(f"{root}: expected the folders imagesTr and labelsTr, or img and label, found none")
    images, labels = found[0]
    cases = paired(images, _numbered(images, "img0001", ""), _numbered(labels, "label0001", ""))
    return [{**case, "modality": "CT"} for case in cases]


def amos(dataset_dir: str) -> list[Case]:
    """AMOS 2022: 240 scans of the training part and 120 of the validation part, with labels of 15 organs.

    Files are ``imagesTr/amos_0001.nii.gz``, ``labelsTr/amos_0001.nii.gz`` and the same in ``imagesVa`` and
    ``labelsVa``, which papers use as test set and which may be absent. Scans without published labels
    (``imagesTs``) are left out.

    Args:
        dataset_dir: the folder that contains them, or the one above, where it is called ``amos22``.

    Returns:
        Cases sorted by id (``amos_0001``, ...); ``modality`` is MR if the number is above 500, else CT.

    Raises:
        InputError: no such folders, no images, an image without label or the reverse, a NIfTI file of another
            name, or an id in both parts.
    """
    root = existing_folder(dataset_dir)
    root = root / "amos22" if (root / "amos22").is_dir() else root
    cases: list[Case] = []
    for part in ("Tr", "Va"):
        images, labels = root / f"images{part}", root / f"labels{part}"
        if part == "Tr" or images.is_dir() or labels.is_dir():
            cases += paired(
                images, _numbered(images, "amos_0001", "amos_"), _numbered(labels, "amos_0001", "amos_")
            )
    refuse_repeats(root, [case["id"] for case in cases])
    cases.sort(key=lambda case: case["id"])
    return [{**case, "modality": "MR" if int(case["id"][-4:]) > AMOS_LAST_CT else "CT"} for case in cases]


def _numbered(folder: Path, example: str, kept: str) -> dict[str, Path]:
    """NIfTI files of a folder whose names are as ``example``, by ``kept`` and their number of four digits."""
    files = list_images(existing_folder(folder), NIFTI_SUFFIXES)
    name = re.compile(re.escape(example[:-4]) + r"\d{4}")
    raise_problems(
        f"{folder}: expected files named as {example}.nii.gz",
        [f"{path}: found another name" for path in files if not name.fullmatch(image_id(path))],
    )
    found = by_id(files, [])
    return {kept + stem[-4:]: path for stem, path in found.items()}
