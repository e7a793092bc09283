"""Generated abdomens with many organs in the folder layouts of Synapse (BTCV) and AMOS, for trials and tests.

Equal arguments write equal images. Nothing in them comes from a patient.
Axes: array axes of the files run to left, front and head (Synapse), and to left, back and head (AMOS); points
are in patient millimeters, RAS, around the middle of the volume.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from monai.config import PathLike

from common.data.abdomen import AMOS_CLASSES, AMOS_LAST_CT, SYNAPSE_CLASSES, SYNAPSE_NUMBERS
from common.data.cardiac_phantom import Ellipsoid, voxel_centers
from common.data.writers import write_nifti

# Center and radii in mm, and Hounsfield units. Volumes range over a factor of 250, as in a patient.
_ORGANS = {
    "spleen": ((-95, -35, 55), (32, 30, 38), 125),
    "right kidney": ((66, -45, -30), (24, 22, 40), 185),
    "left kidney": ((-66, -45, -20), (24, 22, 40), 185),
    "gallbladder": ((72, 50, -8), (13, 14, 18), 0),
    "esophagus": ((-12, -5, 92), (9, 9, 24), 60),
    "liver": ((66, 12, 52), (70, 60, 50), 100),
    "stomach": ((-58, 42, 45), (35, 28, 38), 15),
    "aorta": ((-10, -38, 0), (11, 11, 1000), 250),
    "inferior vena cava": ((18, -30, 0), (12, 11, 1000), 160),
    "portal and splenic veins": ((0, 2, 15), (34, 9, 10), 205),
    "pancreas": ((-15, 26, -18), (42, 11, 13), 80),
    "right adrenal gland": ((44, -50, 30), (10, 7, 12), 70),
    "left adrenal gland": ((-44, -50, 35), (10, 7, 12), 70),
    "duodenum": ((40, 20, -48), (16, 16, 26), 45),
    "bladder": ((0, 38, -140), (34, 28, 26), 10),
    "prostate or uterus": ((0, -5, -150), (22, 14, 18), 65),
}
_PELVIS = ("bladder", "prostate or uterus")
_BODY = Ellipsoid((0, 0, 0), (152, 108, 1000))
_SPINE = Ellipsoid((0, -78, 0), (18, 18, 1000))
_AIR_HU, _FAT_HU, _BONE_HU, _NOISE_HU = -1000, -60, 400, 12


def write_synapse(
    dataset_dir: PathLike, num_cases: int = 30, size: Sequence[int] = (40, 40, 24), seed: int = 0
) -> None:
    """Write CT scans with 13 organs in the layout of Synapse (BTCV): ``imagesTr/img0001.nii.gz`` etc.

    Args:
        dataset_dir: folder to write ``imagesTr`` and ``labelsTr`` into; made if absent.
        num_cases: the first so many of the 30 numbers; published splits need all.
        size: voxels along left-right, front-back and foot-head, over 320, 240 and 240 mm.
        seed: case ``n`` depends on ``seed`` and ``n`` only.
    """
    root = Path(dataset_dir)
    for number in SYNAPSE_NUMBERS[:num_cases]:
        rng = np.random.default_rng((seed, number))
        affine = np.diag([*np.divide((-320, 240, 240), size), 1])
        image, labels = _abdomen(rng, affine, size, SYNAPSE_CLASSES, SYNAPSE_CLASSES)
        write_nifti(image, affine, root / f"imagesTr/img{number:04d}.nii.gz")
        write_nifti(labels, affine, root / f"labelsTr/label{number:04d}.nii.gz")
    print(root)


def write_amos(
    dataset_dir: PathLike,
    split_file: PathLike | None = None,
    training: Sequence[int] = (1, 4, 5, 6, 507, 508),
    test: Sequence[int] = (8, 544),
    size: Sequence[int] = (16, 16, 12),
    seed: int = 0,
) -> None:
    """Write CT and MR scans with 15 organs in the layout of AMOS: ``imagesTr/amos_0001.nii.gz`` etc.

    Numbers above 500 are MR scans, without values below 0. Scans with a number that 3 divides end above the
    pelvis, so that they lack bladder and prostate or uterus.

    Args:
        dataset_dir: folder to write ``imagesTr``, ``labelsTr``, ``imagesVa`` and ``labelsVa`` into; made if
            absent.
        split_file: published split, whose 360 cases are written in place of the next two.
        training: numbers in ``imagesTr``.
        test: numbers in ``imagesVa``.
        size: voxels along left-right, front-back and foot-head, over 320, 240 and 360 mm.
        seed: case ``n`` depends on ``seed`` and ``n`` only.
    """
    root = Path(dataset_dir)
    parts = {"Tr": training, "Va": test}
    if split_file is not None:
        split = json.loads(Path(split_file).read_text(encoding="utf-8"))
        parts["Tr"] = [int(i[-4:]) for role in ("labeled", "unlabeled", "validation") for i in split[role]]
        parts["Va"] = [int(case_id[-4:]) for case_id in split["test"]]
    affine = np.diag([*np.divide((-320, -240, 360), size), 1])
    for part, numbers in parts.items():
        for number in numbers:
            rng = np.random.default_rng((seed, number))
            visible = [name for name in AMOS_CLASSES if number % 3 or name not in _PELVIS]
            image, labels = _abdomen(rng, affine, size, AMOS_CLASSES, visible)
            if number > AMOS_LAST_CT:
                image = np.maximum(2 * (image + 100), 0)
            write_nifti(image, affine, root / f"images{part}/amos_{number:04d}.nii.gz")
            write_nifti(labels, affine, root / f"labels{part}/amos_{number:04d}.nii.gz")
    print(root)


WRITERS = (write_synapse, write_amos)


def _abdomen(
    rng: np.random.Generator,
    affine: np.ndarray,
    shape: Sequence[int],
    classes: Sequence[str],
    visible: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """int16 image in Hounsfield units and uint8 labels; all move by up to 6 mm and change by up to 6 percent.

    Every visible organ has one voxel at least, however coarse the grid.
    """
    points = voxel_centers(affine, shape)
    points = points - points.reshape(-1, 3).mean(axis=0) - rng.uniform(-6, 6, 3).astype(np.float32)
    hounsfield = np.full(tuple(shape), _AIR_HU, dtype=np.float32)
    hounsfield[_BODY.contains(points)] = _FAT_HU
    hounsfield[_SPINE.contains(points)] = _BONE_HU
    labels = np.zeros(tuple(shape), dtype=np.uint8)
    # Small organs are painted last, over large ones.
    for name in sorted(visible, key=lambda name: -np.prod(_ORGANS[name][1])):
        center, radii, mean_hu = _ORGANS[name]
        inside = Ellipsoid(center, np.multiply(radii, rng.uniform(0.94, 1.06))).contains(points)
        offsets = points - np.asarray(center, dtype=np.float32)
        nearest = np.einsum("...i,...i->...", offsets, offsets).argmin()
        inside[np.unravel_index(nearest, inside.shape)] = True
        labels[inside] = classes.index(name) + 1
        hounsfield[inside] = mean_hu
    return np.rint(hounsfield + rng.normal(0, _NOISE_HU, hounsfield.shape)).astype(np.int16), labels
