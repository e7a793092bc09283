"""Generated data sets of 2D pictures in the exact folder layouts of the real ones, for trials and tests.

``python -m common.data.phantoms write_polyp_pranet --dataset_dir demo/polyp``. Equal arguments write equal
pictures. Nothing in them comes from a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from monai.config import PathLike
from PIL import Image
from scipy.ndimage import gaussian_filter

from common.data.writers import atomic_path

ISIC_FOLDERS = {"training": "Training", "validation": "Validation", "test": "Test_v2"}
SIZE = (64, 80)


def write_isic2017(
    dataset_dir: PathLike, num_training: int = 4, num_validation: int = 2, num_test: int = 2, seed: int = 0
) -> None:
    """Write dark spots in the layout of ISIC 2017, part 1: RGB JPEG of varied size, PNG masks 0 and 255.

    The image folders also hold superpixel images, as the original does; they are not cases.

    Args:
        dataset_dir: folder to write into; made if absent.
        num_training: cases in ``ISIC-2017_Training_Data`` and ``..._Part1_GroundTruth``.
        num_validation: the same for ``Validation``.
        num_test: the same for ``Test_v2``.
        seed: of all random choices.
    """
    counts = {"training": num_training, "validation": num_validation, "test": num_test}
    number = 0
    for role, count in counts.items():
        images = Path(dataset_dir) / f"ISIC-2017_{ISIC_FOLDERS[role]}_Data"
        masks = Path(dataset_dir) / f"ISIC-2017_{ISIC_FOLDERS[role]}_Part1_GroundTruth"
        for _ in range(count):
            rng = np.random.default_rng((seed, number))
            size = tuple(rng.integers(64, 128, 2))
            spot = _spot(rng, size)
            name = f"ISIC_{number:07d}"
            skin = np.where(spot[..., None], (110, 70, 60), (225, 180, 160)) + rng.normal(0, 6, (*size, 3))
            _write_picture(skin, images / f"{name}.jpg")
            _write_picture(rng.integers(0, 255, (*size, 3)), images / f"{name}_superpixels.png")
            _write_picture(spot * 255, masks / f"{name}_segmentation.png")
            number += 1


def write_image_mask_folder(
    dataset_dir: PathLike, num_cases: int = 4, size: Sequence[int] = (64, 80), seed: int = 0
) -> None:
    """Write gray pictures and masks of the same name: ``images/101_1.png``, ``masks/101_1.png`` (0 and 255).

    Two pictures belong to each patient; the number before the underscore tells which.

    Args:
        dataset_dir: folder to write into; made if absent.
        num_cases: pictures.
        size: rows and columns.
        seed: of all random choices.
    """
    for number in range(num_cases):
        rng = np.random.default_rng((seed, number))
        spot = _spot(rng, size)
        name = f"{101 + number // 2}_{number % 2 + 1}.png"
        _write_picture(np.where(spot, 190, 70) + rng.normal(0, 12, size), Path(dataset_dir) / "images" / name)
        _write_picture(spot * 255, Path(dataset_dir) / "masks" / name)


def write_polyp_pranet(
    dataset_dir: PathLike,
    num_training: int = 20,
    num_test: int = 0,
    size: Sequence[int] = SIZE,
    seed: int = 0,
) -> None:
    """Write polyps in the packaging of PraNet: RGB PNG and masks 0 and 255 under ``TrainDataset``.

    Every second training image is called like a frame of CVC-ClinicDB (``1.png``, ``26.png``, ... so that
    each is a block of its own), the others like images of Kvasir-SEG.

    Args:
        dataset_dir: folder to write into; made if absent.
        num_training: images in ``TrainDataset``.
        num_test: images in each of two test sets, ``Kvasir`` and ``CVC-300``.
        size: rows and columns; those of test images are larger by half.
        seed: of all random choices.
    """
    root = Path(dataset_dir)
    for number in range(num_training):
        name = f"cju{number}" if number % 2 else f"{25 * (number // 2) + 1}"
        _write_polyp(root / "TrainDataset", name, np.random.default_rng((seed, number)), size)
    for index, test_set in enumerate(("Kvasir", "CVC-300") if num_test else ()):
        for number in range(num_test):
            rng = np.random.default_rng((seed, 1000 * (index + 1) + number))
            larger = [3 * length // 2 for length in size]
            _write_polyp(root / "TestDataset" / test_set, f"{number + 1}", rng, larger)


def write_polyp_video(dataset_dir: PathLike, frames: int = 4, seed: int = 0) -> None:
    """Write clips of polyps in the packaging of PNS-Net: two for training, two of different length for test.

    Args:
        dataset_dir: folder to write into; made if absent.
        frames: of each clip but the last, which has one more.
        seed: of all random choices.
    """
    root = Path(dataset_dir)
    train, test = root / "VPS-TrainSet/CVC-ColonDB-300/Train", root / "VPS-TestSet/CVC-ColonDB-300-TV"
    places = [(train / f"{clip}/Frame", train / f"{clip}/GT") for clip in (1, 2)]
    places += [(test / f"Frame/{clip}", test / f"GT/{clip}") for clip in (3, 5)]
    for number, (images, masks) in enumerate(places):
        for frame in range(frames + (number == 3)):
            picture, spot = _polyp(np.random.default_rng((seed, number, frame)), SIZE)
            _write_picture(picture, images / f"{frame + 1}.jpg")
            _write_picture(spot * 255, masks / f"{frame + 1}.png")


def write_covid19(dataset_dir: PathLike, num_training: int = 6, num_test: int = 2, seed: int = 0) -> None:
    """Write gray slices in the layout of Inf-Net and BCS-Net: ``TrainingSet/.../Imgs`` and ``.../GT``.

    Args:
        dataset_dir: folder to write into; made if absent.
        num_training: slices in ``TrainingSet/LungInfection-Train``.
        num_test: slices in ``TestingSet/LungInfection-Test``.
        seed: of all random choices.
    """
    parts = {"TrainingSet/LungInfection-Train": num_training, "TestingSet/LungInfection-Test": num_test}
    for index, (part, count) in enumerate(parts.items()):
        for number in range(count):
            picture, spot = _gray(np.random.default_rng((seed, index, number)), SIZE)
            _write_picture(picture, Path(dataset_dir) / part / f"Imgs/{number}.jpg")
            _write_picture(spot * 255, Path(dataset_dir) / part / f"GT/{number}.png")


def write_busi(
    dataset_dir: PathLike, num_benign: int = 5, num_malignant: int = 3, num_normal: int = 1, seed: int = 0
) -> None:
    """Write breast lesions in the layout of BUSI; the first benign image has two lesions with a mask each.

    Args:
        dataset_dir: folder to write into; made if absent.
        num_benign: images in ``benign``.
        num_malignant: images in ``malignant``.
        num_normal: images in ``normal``, whose masks are empty.
        seed: of all random choices.
    """
    counts = {"benign": num_benign, "malignant": num_malignant, "normal": num_normal}
    for index, (name, count) in enumerate(counts.items()):
        for number in range(1, count + 1):
            folder, stem = Path(dataset_dir) / name, f"{name} ({number})"
            picture, spot = _gray(np.random.default_rng((seed, index, number)), SIZE)
            _write_picture(np.repeat(picture[..., None], 3, axis=2), folder / f"{stem}.png")
            masks = [spot & (name != "normal")]
            if (name, number) == ("benign", 1):
                left = np.arange(SIZE[1]) < SIZE[1] // 2
                masks = [spot & left, spot & ~left]
            for ending, mask in zip(("_mask", "_mask_1"), masks):
                _write_picture(mask * 255, folder / f"{stem}{ending}.png")


def write_goals(dataset_dir: PathLike, num_cases: int = 5, seed: int = 0) -> None:
    """Write layered retinas in the layout of GOALS 2022, with its gray values 0, 80, 160 and 255.

    Args:
        dataset_dir: folder to write into; made if absent.
        num_cases: images in ``Train``.
        seed: of all random choices.
    """
    for number in range(1, num_cases + 1):
        rng = np.random.default_rng((seed, number))
        rows, columns = np.arange(SIZE[0])[:, None], np.arange(SIZE[1])
        wave = 3 * np.sin(columns / rng.uniform(6, 12) + rng.uniform(0, 6))
        values = np.full(SIZE, 255)
        for code, start, thickness in ((0, 12, 7), (80, 19, 9), (160, 38, 10)):
            values[(rows >= start + wave) & (rows < start + thickness + wave)] = code
        picture = np.where(values == 255, 30, 220 - values / 2) + rng.normal(0, 8, SIZE)
        _write_picture(picture, Path(dataset_dir) / f"Train/Image/{number:04d}.png")
        _write_picture(values, Path(dataset_dir) / f"Train/Layer_Masks/{number:04d}.png")


def _write_polyp(folder: Path, name: str, rng: np.random.Generator, size: Sequence[int]) -> None:
    picture, spot = _polyp(rng, size)
    _write_picture(picture, folder / f"images/{name}.png")
    _write_picture(spot * 255, folder / f"masks/{name}.png")


def _polyp(rng: np.random.Generator, size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """RGB picture (H, W, 3) of a round growth, and where it is, bool (H, W)."""
    spot = _spot(rng, size)
    return np.where(spot[..., None], (210, 120, 90), (120, 50, 40)) + rng.normal(0, 10, (*size, 3)), spot


def _gray(rng: np.random.Generator, size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Gray picture (H, W) of a bright spot, and where it is, bool (H, W)."""
    spot = _spot(rng, size)
    return np.where(spot, 190, 70) + rng.normal(0, 12, size), spot


def _spot(rng: np.random.Generator, size: Sequence[int]) -> np.ndarray:
    """Bool (H, W): a round shape with an uneven border, about a sixth of the picture."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    center = rng.uniform(-0.2, 0.2, 2)
    distance = np.hypot(rows - center[0], columns - center[1])
    uneven = gaussian_filter(rng.normal(size=tuple(size)), 6)
    return distance + 0.1 * uneven / np.abs(uneven).max() <= rng.uniform(0.4, 0.55)


def _write_picture(values: np.ndarray, path: Path) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).save(temporary)
    print(path)


# What ``python -m common.data.phantoms`` offers besides its own.
WRITERS = (
    write_isic2017,
    write_image_mask_folder,
    write_polyp_pranet,
    write_polyp_video,
    write_covid19,
    write_busi,
    write_goals,
)
