"""A reader of DICOM SEG objects that shares nothing with the writer: pydicom, bits and positions."""

from pathlib import Path

import numpy as np
import pydicom

NO_HIGHDICOM = "highdicom is not installed (extra dicom)"


def seg_on_grid(path: Path, affine: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Voxels of every segment on the grid of a NIfTI file.

    Args:
        path: binary SEG.
        affine: (4, 4), from voxels to RAS millimeters.
        shape: of the grid.

    Returns:
        Segment label -> bool array. Fails if a pixel is more than 0.1 mm from the center of its voxel.
    """
    seg = pydicom.dcmread(path)
    names = {int(item.SegmentNumber): item.SegmentLabel for item in seg.SegmentSequence}
    found = {name: np.zeros(shape, bool) for name in names.values()}
    size = (int(seg.NumberOfFrames), seg.Rows, seg.Columns)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[: np.prod(size)]
    for index, pixels in enumerate(bits.reshape(size)):
        row, column = np.array(group(seg, index, "PlaneOrientationSequence").ImageOrientationPatient, float)[
            :6
        ].reshape(2, 3)
        between_rows, between_columns = group(seg, index, "PixelMeasuresSequence").PixelSpacing
        corner = np.array(group(seg, index, "PlanePositionSequence").ImagePositionPatient, float)
        j, i = np.nonzero(pixels)
        lps_mm = corner + i[:, None] * between_columns * row + j[:, None] * between_rows * column
        ras_mm = lps_mm * (-1, -1, 1)
        voxels = np.rint((ras_mm - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T).astype(int)
        assert np.abs(voxels @ affine[:3, :3].T + affine[:3, 3] - ras_mm).max() < 0.1
        name = names[int(group(seg, index, "SegmentIdentificationSequence").ReferencedSegmentNumber)]
        found[name][tuple(voxels.T)] = True
    return found


def group(seg: pydicom.Dataset, frame: int, name: str) -> pydicom.Dataset:
    """A functional group of a frame, or the one that all frames share."""
    own = seg.PerFrameFunctionalGroupsSequence[frame]
    return (own if name in own else seg.SharedFunctionalGroupsSequence[0])[name][0]


def referenced(seg: pydicom.Dataset, frame: int) -> str:
    """SOPInstanceUID of the one slice that a frame was derived from."""
    (source,) = group(seg, frame, "DerivationImageSequence").SourceImageSequence
    return str(source.ReferencedSOPInstanceUID)
