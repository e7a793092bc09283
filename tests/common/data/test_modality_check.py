"""MR scans and scans with another zero point under a window in Hounsfield units."""

import logging

import numpy as np
import pytest

from common.data import modality_check
from common.data.modality_check import check_hounsfield_window
from common.data.writers import write_nifti
from common.errors import InputError


def case(folder, name, values, **more):
    """A NIfTI file with one slice of each value."""
    path = folder / f"{name}.nii.gz"
    write_nifti(np.stack([np.full((3, 3), value, np.int16) for value in values], axis=-1), np.eye(4), path)
    return {"id": name, "image": str(path), **more}


def warnings_of(caplog, cases, intensity_range=(-75, 275)):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check_hounsfield_window(cases, intensity_range)
    return [record.getMessage() for record in caplog.records if record.name == modality_check.__name__]


def test_mr_and_shifted_scans_are_named_in_one_line_each(tmp_path, caplog):
    cases = [
        case(tmp_path, "mr1", [0, 300], modality="MR"),
        case(tmp_path, "mr2", [-5, 300], modality="MRI"),
        case(tmp_path, "shifted", [24, 1064], modality="CT"),
        case(tmp_path, "unknown", [0, 500]),
        case(tmp_path, "ct", [-1000, 40], modality="CT"),
        case(tmp_path, "late", [0, 40, -100]),
    ]
    known, without = warnings_of(caplog, cases)
    assert known.startswith(
        "intensity_range [-75, 275] is a window in Hounsfield units, but 2 case(s) are MR"
    )
    assert "mr1.nii.gz" in known
    assert "mr2.nii.gz" in known
    assert "2 case(s) have no value below 0" in without
    assert "shifted.nii.gz" in without
    assert "unknown.nii.gz" in without
    assert warnings_of(caplog, cases[4:]) == []


@pytest.mark.parametrize("intensity_range", [None, (0, 1000)])
def test_other_normalization_is_left_alone(tmp_path, caplog, intensity_range):
    assert warnings_of(caplog, [case(tmp_path, "mr", [0, 300], modality="MR")], intensity_range) == []


def test_only_the_first_slice_of_a_ct_scan_is_read(tmp_path, caplog, monkeypatch):
    def refuse(*_):
        raise AssertionError("read whole")

    monkeypatch.setattr(modality_check, "read_image", refuse)
    assert warnings_of(caplog, [case(tmp_path, "ct", [-1000, 40])]) == []
    assert "1 case(s) are MR" in warnings_of(caplog, [case(tmp_path, "mr", [0, 300], modality="mr")])[0]


def test_damaged_file_is_refused(tmp_path):
    path = tmp_path / "broken.nii.gz"
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match="broken.nii.gz: expected a readable image"):
        check_hounsfield_window([{"id": "broken", "image": str(path)}], (-75, 275))
