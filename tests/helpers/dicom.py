"""Tiny CT series with known geometry and values."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def write_slice(
    folder: Path,
    name: str,
    position_mm: tuple[float, float, float],
    values_hu: np.ndarray,
    orientation: tuple[float, ...] = AXIAL,
    series: str = "1.2.3",
    number: int = 1,
    **changes: object,
) -> Path:
    """Write one CT slice.

    Args:
        folder: made if absent.
        name: of the file.
        position_mm: ImagePositionPatient, center of the first pixel in LPS.
        values_hu: int (rows, columns); stored with an intercept of -1024.
        orientation: ImageOrientationPatient.
        series: SeriesInstanceUID.
        number: InstanceNumber.
        changes: further attributes to set; None deletes one.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = changes.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=[series, name])
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = "1.2", series, "CT"
    dataset.SeriesDescription, dataset.SeriesNumber, dataset.InstanceNumber = f"series {series}", 1, number
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = list(position_mm), list(orientation)
    dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.75], 5.0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = values_hu.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = (values_hu + 1024).astype("<u2").tobytes()
    if meta.TransferSyntaxUID.is_compressed:
        dataset.PixelData = encapsulate([dataset.PixelData])
    for attribute, value in changes.items():
        if value is None:
            delattr(dataset, attribute)
        else:
            setattr(dataset, attribute, value)
    folder.mkdir(parents=True, exist_ok=True)
    dataset.save_as(folder / name, enforce_file_format=True)
    return folder / name


def write_series(
    folder: Path,
    positions_mm: tuple[float, ...] = (0.0, 2.0, 4.0, 6.0),
    series: str = "1.2.3",
    **changes: object,
) -> np.ndarray:
    """Write an axial series of 4 x 6 pixels and return its HU as (x, y, z) with z ascending.

    File names and instance numbers run against the positions, as in many exports.
    """
    volume = np.arange(6 * 4 * len(positions_mm)).reshape(6, 4, len(positions_mm)) * 7 - 900
    for index, z in enumerate(positions_mm):
        number = len(positions_mm) - index
        write_slice(
            folder,
            f"{series}_{number:03d}.dcm",
            (-10.0, 20.0, z),
            volume[:, :, index].T,
            series=series,
            number=number,
            **changes,
        )
    return volume
