"""A generated CT of a heart: seven structures in the arrangement, and with the gray values, of a contrast CT.

No patient and no measured image is behind it. The anatomy is a handful of ellipsoids and bent tubes,
described once in millimeters and evaluated at every voxel center, so any orientation and spacing is exact.
Axes: D H W are the three array axes of the file; points are (..., 3) in patient millimeters, RAS (x to the
patient's right, y to the front, z to the head).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

# Codes of the MM-WHS challenge.
LABEL_CODES = {"LV": 500, "RV": 600, "LA": 420, "RA": 550, "Myo": 205, "AO": 820, "PA": 850}
# Hounsfield units with contrast agent in the left heart and the rest of it in the right; the vessels differ
# from their chambers as the agent passes, which makes the parts distinguishable.
MEAN_HU = {"LV": 390, "RV": 220, "LA": 330, "RA": 170, "Myo": 100, "AO": 460, "PA": 275}
LUNG_HU, FAT_HU, MUSCLE_HU, BONE_HU = -800, -90, 50, 350
# File orientations other than RAS, as scanners and converters leave them.
AXIS_CODES = ("LPS", "LAS", "RPS", "PSR", "LPI", "SAL")
BODY_AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


@dataclass(frozen=True)
class Ellipsoid:
    """Solid ellipsoid with axes along the body axes of the heart.

    Attributes:
        center_mm: (3,).
        radii_mm: (3,).
    """

    center_mm: Sequence[float]
    radii_mm: Sequence[float]

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Bool (...): which of ``points``, float (..., 3) in mm, lie inside."""
        scaled = (points - np.asarray(self.center_mm, points.dtype)) / np.asarray(self.radii_mm, points.dtype)
        return np.einsum("...i,...i->...", scaled, scaled) <= 1.0


@dataclass(frozen=True)
class Tube:
    """Round tube along a bent line.

    Attributes:
        path_mm: (N, 3), corners of the center line.
        radius_mm: of the lumen.
    """

    path_mm: Sequence[Sequence[float]]
    radius_mm: float

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Bool (...): which of ``points``, float (..., 3) in mm, lie inside."""
        path = np.asarray(self.path_mm, points.dtype)
        inside = np.zeros(points.shape[:-1], dtype=bool)
        for start, end in zip(path[:-1], path[1:]):
            along = end - start
            fraction = np.clip((points - start) @ along / (along @ along), 0.0, 1.0)
            offset = points - start - fraction[..., None] * along
            inside |= np.einsum("...i,...i->...", offset, offset) <= self.radius_mm**2
        return inside


def cardiac_case(rng: np.random.Generator, shape: Sequence[int], axis_codes: str) -> tuple[np.ndarray, ...]:
    """One generated heart on a slightly tilted, anisotropic grid.

    Args:
        rng: source of the variation in position, size, rotation, contrast, noise and tilt.
        shape: number of voxels along the patient's left-right, front-back and foot-head axis.
        axis_codes: orientation of the file, e.g. ``LPS``; see :data:`AXIS_CODES`.

    Returns:
        image int16 (D, H, W) in Hounsfield units; labels int16 (D, H, W) with the codes of MM-WHS, 0
        elsewhere; affine float64 (4, 4), voxel to patient RAS millimeters. Array axes follow ``axis_codes``.
    """
    affine, array_shape = grid(rng, shape, axis_codes)
    points = voxel_centers(affine, array_shape)
    structures = heart(rng)
    points_of_heart = _to_heart(rng, points - points.reshape(-1, 3).mean(axis=0))
    labels = np.zeros(array_shape, dtype=np.int16)
    hounsfield = surroundings(points_of_heart)
    contrast = rng.uniform(0.96, 1.04)
    for name, shapes in structures.items():
        inside = np.any([part.contains(points_of_heart) for part in shapes], axis=0)
        labels[inside] = LABEL_CODES[name]
        hounsfield[inside] = MEAN_HU[name] * contrast
    image = gaussian_filter(hounsfield, 0.5) + rng.normal(0, rng.uniform(15, 25), array_shape)
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16), labels, affine


def heart(rng: np.random.Generator) -> dict[str, list[Ellipsoid | Tube]]:
    """The structures in the order of painting: a later one takes the voxels of an earlier one.

    Args:
        rng: moves each center by up to 1.5 mm and changes each radius by up to 6 percent.

    Returns:
        Parts per structure, in millimeters around the middle of the heart.
    """

    def ellipsoid(center_mm: Sequence[float], radii_mm: Sequence[float]) -> Ellipsoid:
        return Ellipsoid(center_mm + rng.uniform(-1.5, 1.5, 3), radii_mm * rng.uniform(0.94, 1.06, 3))

    ventricle = ellipsoid((-15, 4, -14), (13, 13, 21))
    wall_mm = rng.uniform(8.5, 10.0)
    muscle = Ellipsoid(ventricle.center_mm, np.add(ventricle.radii_mm, wall_mm))
    aorta = Tube(((-4, -2, 10), (2, 2, 24), (2, 0, 40)) + rng.uniform(-1, 1, 3), rng.uniform(9.0, 10.0))
    artery = Tube(((12, 18, 4), (2, 19, 20), (-18, 12, 33)) + rng.uniform(-1, 1, 3), rng.uniform(9.0, 10.0))
    return {
        "RV": [ellipsoid((16, 13, -14), (18, 15, 24))],
        "RA": [ellipsoid((24, -11, 11), (14, 14, 17))],
        "LA": [ellipsoid((-8, -22, 15), (19, 12, 14))],
        "Myo": [muscle],
        "LV": [ventricle],
        "PA": [artery],
        "AO": [aorta],
    }


def surroundings(points: np.ndarray) -> np.ndarray:
    """Gray values of everything but the heart: lungs, the fat around the heart, chest wall, spine.

    Args:
        points: float (..., 3), mm around the middle of the heart.

    Returns:
        float32 (...), Hounsfield units.
    """
    hounsfield = np.full(points.shape[:-1], LUNG_HU, dtype=np.float32)
    hounsfield[points[..., 1] > 44] = MUSCLE_HU
    hounsfield[Ellipsoid((0, -52, 0), (24, 24, 400)).contains(points)] = MUSCLE_HU
    hounsfield[Ellipsoid((0, -54, 0), (13, 13, 400)).contains(points)] = BONE_HU
    hounsfield[Ellipsoid((0, 0, 0), (48, 42, 58)).contains(points)] = FAT_HU
    return hounsfield


def grid(
    rng: np.random.Generator, shape: Sequence[int], axis_codes: str
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Affine and array shape of a file with the given orientation, tilted by 2 to 6 degrees.

    Args:
        rng: source of spacing (about 1.2 x 1.2 x 2 mm), tilt and origin.
        shape: number of voxels along the patient's left-right, front-back and foot-head axis.
        axis_codes: orientation of the file.

    Returns:
        float64 (4, 4) and the array shape, its axes in the order of ``axis_codes``.
    """
    in_plane_mm = rng.uniform(1.15, 1.25)
    spacing_mm = np.array([in_plane_mm, in_plane_mm, rng.uniform(1.9, 2.1)])
    axis = rng.normal(size=3)
    tilt = Rotation.from_rotvec(np.radians(rng.uniform(2, 6)) * axis / np.linalg.norm(axis)).as_matrix()
    directions = np.zeros((3, 3))
    order = [BODY_AXES[code][0] for code in axis_codes]
    for column, code in enumerate(axis_codes):
        body_axis, sign = BODY_AXES[code]
        directions[body_axis, column] = sign * spacing_mm[body_axis]
    affine = np.eye(4)
    affine[:3, :3] = tilt @ directions
    affine[:3, 3] = rng.uniform(-150, 150, 3)
    return affine, tuple(shape[axis] for axis in order)


def voxel_centers(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """float32 (D, H, W, 3): patient position of each voxel center in mm; ``affine`` is (4, 4)."""
    indices = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1)
    return (indices @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)


def _to_heart(rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """Undo a random position, rotation and size of the heart, so that the anatomy is described only once."""
    rotation = Rotation.from_euler("xyz", rng.uniform(-10, 10, 3), degrees=True).as_matrix()
    shift_mm, size = rng.uniform(-4, 4, 3), rng.uniform(0.94, 1.06)
    return ((points - shift_mm.astype(np.float32)) @ rotation.astype(np.float32)) / np.float32(size)
