"""Generated abdomens and brains in the folder layouts of KiTS19 and BraTS 2018, for trials and tests.

Equal arguments write equal images. Nothing in them comes from a patient.
Axes: array axes of the files run to foot, back and left (KiTS19), and to left, back and head (BraTS); points
are in patient millimeters, RAS, around the middle of the volume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from monai.config import PathLike

from common.data.cardiac_phantom import Ellipsoid, voxel_centers
from common.data.writers import write_nifti

# Center and radii in mm; those painted later take the voxels of earlier ones.
_ABDOMEN = {
    "body": ((0, 0, 0), (150, 105, 1000)),
    "bone": ((0, -65, 0), (18, 18, 1000)),
    "right kidney": ((58, -45, -8), (28, 25, 48)),
    "left kidney": ((-58, -42, 6), (28, 25, 48)),
    "tumor": ((-72, -25, 20), (20, 20, 20)),
}
_HU = {"air": -1000, "body": 20, "bone": 420, "right kidney": 170, "left kidney": 170, "tumor": 85}
_KITS_CODES = {"right kidney": 1, "left kidney": 1, "tumor": 2}
_BRAIN = {
    "brain": ((0, 0, 0), (62, 80, 58)),
    "edema": ((25, 15, 10), (26, 26, 24)),
    "enhancing": ((25, 15, 10), (16, 16, 15)),
    "necrosis": ((25, 15, 10), (8, 8, 8)),
}
_BRAIN_GRAY = {
    "t1": {"brain": 500, "edema": 420, "enhancing": 400, "necrosis": 330},
    "t1ce": {"brain": 520, "edema": 440, "enhancing": 900, "necrosis": 350},
    "t2": {"brain": 300, "edema": 620, "enhancing": 520, "necrosis": 700},
    "flair": {"brain": 280, "edema": 700, "enhancing": 540, "necrosis": 400},
}
_BRATS_CODES = {"edema": 2, "enhancing": 4, "necrosis": 1}


def write_kits19(
    dataset_dir: PathLike,
    num_cases: int = 6,
    num_unlabeled: int = 1,
    size: Sequence[int] = (20, 40, 40),
    seed: int = 0,
) -> None:
    """Write abdomens with two kidneys and a tumor in the layout of KiTS19.

    Args:
        dataset_dir: folder to write ``data`` into; made if absent.
        num_cases: labeled cases, ``case_00000`` and on.
        num_unlabeled: cases with images only, ``case_00210`` and on.
        size: slices, rows and columns, over 160, 320 and 320 mm.
        seed: case ``n`` depends on ``seed`` and ``n`` only.
    """
    for number in [*range(num_cases), *range(210, 210 + num_unlabeled)]:
        rng = np.random.default_rng((seed, number))
        edges_mm = np.divide((160, 320, 320), size)
        affine = np.zeros((4, 4))
        affine[[2, 1, 0, 3], [0, 1, 2, 3]] = [*-edges_mm, 1]
        parts = _painted(rng, _ABDOMEN, affine, size)
        folder = Path(dataset_dir) / f"data/case_{number:05d}"
        image = _gray(rng, parts, _HU, "air", 15).astype(np.int16)
        write_nifti(image, affine, folder / "imaging.nii.gz")
        if number < num_cases:
            write_nifti(_labels(parts, _KITS_CODES), affine, folder / "segmentation.nii.gz")
        print(folder)


def write_brats18(
    dataset_dir: PathLike,
    num_hgg: int = 4,
    num_lgg: int = 2,
    size: Sequence[int] = (40, 40, 31),
    seed: int = 0,
) -> None:
    """Write skull-stripped brains with a tumor in the layout of BraTS 2018, FLAIR included.

    Args:
        dataset_dir: folder to write ``HGG`` and ``LGG`` into; made if absent.
        num_hgg: cases ``HGG/Brats18_P0_1`` and on.
        num_lgg: cases ``LGG/Brats18_P<num_hgg>_1`` and on.
        size: voxels along left-right, front-back and foot-head, over 240, 240 and 155 mm.
        seed: case ``n`` depends on ``seed`` and ``n`` only.
    """
    for number in range(num_hgg + num_lgg):
        rng = np.random.default_rng((seed, number))
        edges_mm = np.divide((240, 240, 155), size)
        affine = np.diag([-edges_mm[0], -edges_mm[1], edges_mm[2], 1])
        affine[1, 3] = 239
        parts = _painted(rng, _BRAIN, affine, size)
        name = f"Brats18_P{number}_1"
        folder = Path(dataset_dir) / ("HGG" if number < num_hgg else "LGG") / name
        for modality, gray in _BRAIN_GRAY.items():
            image = _gray(rng, parts, {"air": 0, **gray}, "air", 20) * parts["brain"]
            write_nifti(image.astype(np.int16), affine, folder / f"{name}_{modality}.nii.gz")
        write_nifti(_labels(parts, _BRATS_CODES), affine, folder / f"{name}_seg.nii.gz")
        print(folder)


WRITERS = (write_kits19, write_brats18)


def _painted(
    rng: np.random.Generator, anatomy: Mapping[str, tuple], affine: np.ndarray, shape: Sequence[int]
) -> dict[str, np.ndarray]:
    """Bool masks of the parts; all move together by up to 12 mm, and each changes by up to 8 percent."""
    points = voxel_centers(affine, shape)
    points = points - points.reshape(-1, 3).mean(axis=0) - rng.uniform(-12, 12, 3).astype(np.float32)
    return {
        name: Ellipsoid(center, np.multiply(radii, rng.uniform(0.92, 1.08))).contains(points)
        for name, (center, radii) in anatomy.items()
    }


def _gray(
    rng: np.random.Generator,
    parts: Mapping[str, np.ndarray],
    gray: Mapping[str, float],
    surroundings: str,
    noise: float,
) -> np.ndarray:
    image = np.full(next(iter(parts.values())).shape, gray[surroundings], dtype=np.float32)
    for name, mask in parts.items():
        image[mask] = gray[name]
    return np.rint(image + rng.normal(0, noise, image.shape))


def _labels(parts: Mapping[str, np.ndarray], codes: Mapping[str, int]) -> np.ndarray:
    labels = np.zeros(next(iter(parts.values())).shape, dtype=np.uint8)
    for name, code in codes.items():
        labels[parts[name]] = code
    return labels
