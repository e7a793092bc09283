"""Generated data sets in the exact folder layouts of the real ones, for the tutorial and the tests.

Volumes are here, pictures in :mod:`common.data.picture_phantoms`.
``python -m common.data.phantoms write_mmwhs --dataset_dir demo/mmwhs --num_cases 8``. Equal arguments write
equal images. Nothing in them comes from a patient.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from monai.config import PathLike

from common.data import abdomen_phantom, chaos_phantom, kits_phantom
from common.data import picture_phantoms as pictures
from common.data.cardiac_phantom import AXIS_CODES, cardiac_case
from common.data.writers import atomic_path, write_nifti


def write_mmwhs(
    dataset_dir: PathLike,
    num_cases: int = 8,
    num_test: int = 1,
    seed: int = 0,
    size: Sequence[int] = (96, 96, 64),
) -> None:
    """Write hearts in the layout of MM-WHS 2017: ``ct_train/ct_train_1001_image.nii.gz`` etc.

    Images are int16 in Hounsfield units, labels carry the codes of the challenge. The files differ in
    orientation, tilt and spacing as real ones do.

    Args:
        dataset_dir: folder to write into; made if absent.
        num_cases: labeled cases.
        num_test: cases without label.
        seed: case ``n`` depends on ``seed`` and ``n`` only, so more cases leave the first ones as they are.
        size: voxels along left-right, front-back and foot-head; fewer than the default cut the field of view.
    """
    names = [f"ct_train/ct_train_{1001 + n}" for n in range(num_cases)]
    names += [f"ct_test/ct_test_{2001 + n}" for n in range(num_test)]
    for name in names:
        number = int(name[-4:])
        rng = np.random.default_rng((seed, number))
        image, labels, affine = cardiac_case(rng, size, AXIS_CODES[number % len(AXIS_CODES)])
        _write_nifti(image, affine, Path(dataset_dir) / f"{name}_image.nii.gz")
        if name.startswith("ct_train"):
            _write_nifti(labels, affine, Path(dataset_dir) / f"{name}_label.nii.gz")


def write_msd(
    dataset_dir: PathLike,
    num_cases: int = 4,
    num_classes: int = 3,
    size: Sequence[int] = (32, 32, 24),
    seed: int = 0,
) -> None:
    """Write 3D blobs in the layout of the Medical Segmentation Decathlon, ``dataset.json`` included.

    Args:
        dataset_dir: folder to write into; made if absent.
        num_cases: labeled cases; one more without label goes to ``imagesTs``.
        num_classes: including background.
        size: shape of each volume.
        seed: of all random choices.
    """
    root = Path(dataset_dir)
    affine = np.diag([-1.5, -1.5, 2.0, 1.0])
    for number in range(num_cases + 1):
        rng = np.random.default_rng((seed, number))
        image, labels = _blobs(rng, size, num_classes)
        if number < num_cases:
            _write_nifti(image, affine, root / f"imagesTr/blobs_{number:03d}.nii.gz")
            _write_nifti(labels, affine, root / f"labelsTr/blobs_{number:03d}.nii.gz")
        else:
            _write_nifti(image, affine, root / f"imagesTs/blobs_{number:03d}.nii.gz")
    names = [f"blobs_{number:03d}.nii.gz" for number in range(num_cases)]
    description = {
        "name": "Blobs",
        "description": "generated",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(k): f"blob {k}" for k in range(1, num_classes)}},
        "numTraining": num_cases,
        "numTest": 1,
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [f"./imagesTs/blobs_{num_cases:03d}.nii.gz"],
    }
    with atomic_path(root / "dataset.json") as path:
        path.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _blobs(rng: np.random.Generator, size: Sequence[int], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """int16 image and uint8 labels: one ellipsoid per class side by side along the first axis."""
    position = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij"), axis=-1)
    labels = np.zeros(size, dtype=np.uint8)
    for k in range(1, num_classes):
        center = np.array([2 * (k - 0.5) / (num_classes - 1) - 1, 0, 0]) + rng.uniform(-0.1, 0.1, 3)
        radii = np.array([0.8 / (num_classes - 1), 0.6, 0.6]) * rng.uniform(0.8, 1.0, 3)
        labels[(((position - center) / radii) ** 2).sum(axis=-1) <= 1] = k
    image = 200.0 * labels + rng.normal(0, 30, size)
    return np.rint(image).astype(np.int16), labels


def _write_nifti(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    write_nifti(array, affine, path)
    print(path)


if __name__ == "__main__":
    import fire

    others = (pictures, chaos_phantom, kits_phantom, abdomen_phantom)
    writers = [writer for module in others for writer in module.WRITERS]
    fire.Fire({f.__name__: f for f in (write_mmwhs, write_msd, *writers)})
