"""Generated abdomens and chests in the folder layouts of CHAOS and COVID-19-CT-Seg, for trials and tests.

``python -m common.data.phantoms write_chaos --dataset_dir demo/chaos``. Equal arguments write equal
images. Nothing in them comes from a patient.
Axes: X Y Z are voxels along LPS (to the left, the back, the head); points are in patient millimeters, RAS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from monai.config import PathLike
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from common.data.cardiac_phantom import Ellipsoid, voxel_centers
from common.data.writers import atomic_path, write_nifti

FIELD_MM = 360.0
MASK_GRAY = {"liver": 63, "right kidney": 126, "left kidney": 189, "spleen": 252}
# Center and radii in mm; those painted later take the voxels of earlier ones.
_ABDOMEN = {
    "body": ((0, 0, 0), (155, 110, 1000)),
    "bone": ((0, -70, 0), (20, 20, 1000)),
    "spleen": ((-95, -35, 25), (30, 40, 38)),
    "left kidney": ((-55, -55, -30), (24, 24, 42)),
    "right kidney": ((50, -62, -42), (24, 24, 40)),
    "liver": ((68, 20, 12), (72, 62, 55)),
}
# Hounsfield units, and arbitrary units of the MR sequences: the liver is brighter than what surrounds it in
# CT and darker in T1, so that a network of one modality fails on the other.
MEAN_INTENSITY = {
    "CT": {
        "air": -1000,
        "body": 20,
        "bone": 420,
        "spleen": 120,
        "left kidney": 190,
        "right kidney": 190,
        "liver": 110,
    },
    "InPhase": {
        "air": 8,
        "body": 520,
        "bone": 90,
        "spleen": 160,
        "left kidney": 200,
        "right kidney": 200,
        "liver": 300,
    },
    "OutPhase": {
        "air": 8,
        "body": 430,
        "bone": 90,
        "spleen": 170,
        "left kidney": 190,
        "right kidney": 190,
        "liver": 230,
    },
    "T2SPIR": {
        "air": 8,
        "body": 160,
        "bone": 60,
        "spleen": 420,
        "left kidney": 480,
        "right kidney": 480,
        "liver": 90,
    },
}
_CHEST = {
    "body": ((0, 0, 0), (155, 110, 1000)),
    "left lung": ((-70, 5, 0), (55, 80, 90)),
    "right lung": ((70, 5, 0), (55, 80, 90)),
    "infection": ((75, -35, -25), (22, 20, 24)),
}
_CHEST_HU = {"air": -1000, "body": 30, "left lung": -820, "right lung": -820, "infection": -250}
_CHEST_CODES = {"left lung": 1, "right lung": 2, "infection": 3}


def write_chaos(
    dataset_dir: PathLike,
    num_ct: int = 4,
    num_mr: int = 4,
    size: int = 64,
    ct_slices: int = 24,
    mr_slices: int = 12,
    seed: int = 0,
) -> None:
    """Write abdomens in the layout of the labeled part of CHAOS: DICOM series and one PNG mask per slice.

    As in the original, the file names of CT run from head to foot and those of MR from foot to head, CT masks
    have one bit and only the liver, MR masks four gray values, and both phases of T1-DUAL, whose numbers
    alternate, share their masks.

    Args:
        dataset_dir: folder to write ``Train_Sets`` into; made if absent.
        num_ct: cases in ``CT``, numbered from 1.
        num_mr: cases in ``MR``, numbered from 1, with ``T1DUAL`` and ``T2SPIR``.
        size: rows and columns of each slice, over 360 mm.
        ct_slices: slices of the CT cases, over 160 mm.
        mr_slices: slices of the MR cases, over 160 mm.
        seed: case ``n`` of a modality depends on ``seed`` and ``n`` only.
    """
    train = Path(dataset_dir) / "Train_Sets"
    for number in range(1, num_ct + 1):
        rng = np.random.default_rng((seed, 0, number))
        affine, shape = _grid(rng, size, ct_slices)
        parts = _painted(rng, _ABDOMEN, affine, shape)
        volume = _with_noise(rng, parts, MEAN_INTENSITY["CT"], 15)
        folder, order = train / f"CT/{number}", range(ct_slices)[::-1]
        names = [f"i{index:04d},0000b.dcm" for index in range(ct_slices)]
        _write_series(folder / "DICOM_anon", names, volume[..., ::-1], affine @ _flipped_z(ct_slices), "CT")
        for index, z in enumerate(order):
            mask = Image.fromarray((parts["liver"][..., z].T * 255).astype(np.uint8)).convert(
                "1", dither=Image.Dither.NONE
            )
            _write_png(mask, folder / f"Ground/liver_GT_{index:03d}.png")
        print(folder)
    for number in range(1, num_mr + 1):
        rng = np.random.default_rng((seed, 1, number))
        affine, shape = _grid(rng, size, mr_slices)
        parts = _painted(rng, _ABDOMEN, affine, shape)
        _write_mr(rng, train / f"MR/{number}", parts, affine)
        print(train / f"MR/{number}")


def write_covid19_ct_20(
    dataset_dir: PathLike, num_per_source: int = 4, size: Sequence[int] = (64, 64, 24), seed: int = 0
) -> None:
    """Write chests in the layout of COVID-19-CT-Seg: Coronacases in HU, Radiopaedia windowed to 0 .. 255.

    Args:
        dataset_dir: folder to write into; made if absent.
        num_per_source: scans of each of the two sources.
        size: voxels along X, Y and Z.
        seed: of all random choices.
    """
    root = Path(dataset_dir)
    names = [f"coronacases_{number:03d}" for number in range(1, num_per_source + 1)]
    names += [f"radiopaedia_{number}_{85000 + number}_1" for number in range(1, num_per_source + 1)]
    for index, name in enumerate(names):
        rng = np.random.default_rng((seed, index))
        affine, shape = _grid(rng, size[0], size[2], size[1])
        parts = _painted(rng, _CHEST, affine, shape)
        volume = _with_noise(rng, parts, _CHEST_HU, 20)
        if name.startswith("radiopaedia"):
            volume = np.clip((volume + 1250.0) / 1500.0, 0, 1) * 255
        labels = np.zeros(shape, np.uint8)
        for part, code in _CHEST_CODES.items():
            labels[parts[part]] = code
        write_nifti(np.rint(volume).astype(np.int16), affine, root / f"COVID-19-CT-Seg_20cases/{name}.nii.gz")
        write_nifti(labels, affine, root / f"Lung_and_Infection_Mask/{name}.nii.gz")
        print(root / f"COVID-19-CT-Seg_20cases/{name}.nii.gz")


def _grid(
    rng: np.random.Generator, size_x: int, size_z: int, size_y: int | None = None
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine (4, 4) from LPS voxels to RAS millimeters, somewhere around the isocenter, and the shape."""
    shape = (size_x, size_y or size_x, size_z)
    spacing_mm = np.array([FIELD_MM / shape[0], FIELD_MM / shape[1], 160.0 / shape[2]])
    affine = np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[:3, 3] += rng.uniform(-8, 8, 3).round(2)
    return affine, shape


def _painted(
    rng: np.random.Generator, anatomy: Mapping[str, tuple], affine: np.ndarray, shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """Bool (X, Y, Z) of each part without what a later one covers; sizes and places vary a little."""
    points = voxel_centers(affine, shape)
    parts: dict[str, np.ndarray] = {}
    for name, (center_mm, radii_mm) in anatomy.items():
        moved_mm = np.add(center_mm, rng.uniform(-5, 5, 3))
        inside = Ellipsoid(moved_mm, np.multiply(radii_mm, rng.uniform(0.92, 1.08, 3))).contains(points)
        parts = {earlier: voxels & ~inside for earlier, voxels in parts.items()} | {name: inside}
    return parts


def _with_noise(
    rng: np.random.Generator, parts: Mapping[str, np.ndarray], means: Mapping[str, float], noise: float
) -> np.ndarray:
    """int16 (X, Y, Z)."""
    volume = np.full(next(iter(parts.values())).shape, float(means["air"]))
    for name, voxels in parts.items():
        volume[voxels] = means[name]
    volume += rng.normal(0, noise, volume.shape)
    return np.rint(np.clip(volume, -1000 if means["air"] < 0 else 0, 3000)).astype(np.int16)


def _write_mr(
    rng: np.random.Generator, folder: Path, parts: Mapping[str, np.ndarray], affine: np.ndarray
) -> None:
    gray = np.zeros(parts["liver"].shape, np.uint8)
    for name, value in MASK_GRAY.items():
        gray[parts[name]] = value
    count = gray.shape[-1]
    # Echoes alternate: the numbers of one phase are odd, those of the other even.
    numbers = {
        "OutPhase": range(1, 2 * count, 2),
        "InPhase": range(2, 2 * count + 1, 2),
        "T2SPIR": range(1, count + 1),
    }
    for sequence, running in numbers.items():
        volume = _with_noise(rng, parts, MEAN_INTENSITY[sequence], 18)
        is_t2 = sequence == "T2SPIR"
        images = folder / ("T2SPIR/DICOM_anon" if is_t2 else f"T1DUAL/DICOM_anon/{sequence}")
        names = [f"IMG-{'0002' if is_t2 else '0004'}-{number:05d}" for number in running]
        _write_series(images, [f"{name}.dcm" for name in names], volume, affine, "MR")
        if sequence != "OutPhase":
            for z, name in enumerate(names):
                _write_png(
                    Image.fromarray(gray[..., z].T),
                    folder / f"{'T2SPIR' if is_t2 else 'T1DUAL'}/Ground/{name}.png",
                )


def _flipped_z(size_z: int) -> np.ndarray:
    """(4, 4) that counts the slices from the other end."""
    flip = np.diag([1.0, 1.0, -1.0, 1.0])
    flip[2, 3] = size_z - 1
    return flip


def _write_series(
    folder: Path, names: Sequence[str], volume: np.ndarray, affine: np.ndarray, modality: str
) -> None:
    """One DICOM file per slice, in the order of Z; ``affine`` leads from LPS voxels to RAS millimeters."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing_mm = np.linalg.norm(lps[:3, :3], axis=0)
    directions = (lps[:3, :3] / spacing_mm).T
    series = generate_uid(
        entropy_srcs=[str(part) for part in (modality, *names, *volume[:, :, 0].ravel()[:64])]
    )
    for z, name in enumerate(names):
        dataset = _header(modality, series, z)
        dataset.ImagePositionPatient = [round(float(value), 6) for value in (lps @ [0, 0, z, 1])[:3]]
        dataset.ImageOrientationPatient = [float(value) for value in (*directions[0], *directions[1])]
        dataset.PixelSpacing = [float(spacing_mm[1]), float(spacing_mm[0])]
        dataset.Rows, dataset.Columns = volume.shape[1], volume.shape[0]
        offset = 1000 if modality == "CT" else 0
        dataset.PixelData = (volume[..., z].T + offset).astype("<u2").tobytes()
        if modality == "CT":
            dataset.RescaleSlope, dataset.RescaleIntercept = 1, -offset
        with atomic_path(folder / name) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)


def _header(modality: str, series: str, index: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[series, str(index)])
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = "1.2", series, modality
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[series, "frame of reference"])
    dataset.SeriesNumber, dataset.InstanceNumber = 1, index + 1
    dataset.SliceThickness = 3.0  # on purpose not the distance of the slices
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    return dataset


def _write_png(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary)


# What ``python -m common.data.phantoms`` offers besides its own.
WRITERS = (write_chaos, write_covid19_ct_20)
