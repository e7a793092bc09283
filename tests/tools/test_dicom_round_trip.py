"""The round trip with a small stand-in for the server, and with an Orthanc where there is one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data.image_files import read_image
from common.data.writers import write_nifti
from tests.helpers.dicom import write_series
from tests.helpers.dicom_seg import NO_HIGHDICOM
from tests.helpers.dicomweb_server import serve
from tools import dicom_round_trip
from tools.dicom_round_trip import DICOMWEB_PLUGIN, orthanc_settings, parsed


@pytest.fixture
def given(tmp_path):
    """A series, a mask of it, and the command line for both."""
    pytest.importorskip("highdicom", reason=NO_HIGHDICOM)
    pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed (extra dicom)")
    write_series(tmp_path / "scan", FrameOfReferenceUID="1.9", PatientID="1", StudyID="1")
    affine = read_image(tmp_path / "scan").affine.numpy()
    mask = np.random.default_rng(0).integers(0, 3, (6, 4, 4)).astype(np.uint8)
    write_nifti(mask, affine, tmp_path / "mask.nii.gz")
    words = [
        "--series",
        tmp_path / "scan",
        "--mask",
        tmp_path / "mask.nii.gz",
        "--output_dir",
        tmp_path / "out",
    ]
    return [*map(str, words), "--class_names", "liver", "spleen"]


@pytest.fixture
def server(tmp_path):
    (tmp_path / "empty").mkdir()
    with serve(tmp_path / "empty") as running:
        yield running


def run(monkeypatch, words, server):
    command = ["dicom_round_trip.py", *words, "--port", str(server.server_port)]
    monkeypatch.setattr(dicom_round_trip.sys, "argv", command)
    return dicom_round_trip.main()


def test_seg_is_stored_found_and_equal(given, server, monkeypatch, capsys):
    assert run(monkeypatch, given, server) == 0
    printed = capsys.readouterr().out
    assert "stored 4 slices" in printed
    assert "query for Modality SEG in the study: 1 series" in printed
    assert "segment spleen: Spleen (SCT 78961009)" in printed
    assert "0 differ" in printed
    assert len(server.instances) == 5


def test_difference_fails(given, server, monkeypatch, capsys):
    read = dicom_round_trip.nib.load

    def other_in_one_voxel(path):
        image = read(path)
        if Path(path).name == "mask.nii.gz":
            return image
        voxels = np.asarray(image.dataobj).copy()
        voxels[0, 0, 0] = 2 if voxels[0, 0, 0] != 2 else 0
        return nib.Nifti1Image(voxels, image.affine)

    monkeypatch.setattr(dicom_round_trip.nib, "load", other_in_one_voxel)
    assert run(monkeypatch, given, server) == 1
    assert "found 1 different voxels" in capsys.readouterr().err


def test_server_that_loses_the_seg(given, server, monkeypatch, capsys):
    monkeypatch.setattr(
        server, "headers_of", lambda content, read=server.headers_of: without_seg(read(content))
    )
    assert run(monkeypatch, given, server) == 1
    assert re.search(r"expected the series [0-9.]+, found \[\]", capsys.readouterr().err)


def without_seg(header):
    if header.Modality == "SEG":
        header.StudyInstanceUID = "9.9"
    return header


def test_bundle_is_run_on_the_address_of_the_series(given, server, monkeypatch, capsys):
    commands = []

    def record(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(dicom_round_trip.subprocess, "run", record)
    words = [
        *given[:2],
        "--bundle",
        "bundles/crossdomain_liver",
        "--configs",
        "preset_laptop.json",
        *given[4:6],
    ]
    monkeypatch.setattr(
        dicom_round_trip.sys,
        "argv",
        ["x", *words, "--port", str(server.server_port), "--", "--device", "cpu"],
    )
    assert dicom_round_trip.main() == 1
    assert "inference ended with exit code 3" in capsys.readouterr().err
    (command,) = commands
    assert f"--dataset_dir {server.service}/studies/1.2/series/1.2.3 " in " ".join(command)
    assert command[-4:] == ["--dicom_seg", "True", "--device", "cpu"]
    assert "bundles/crossdomain_liver/configs/preset_laptop.json" in command[6]


def test_no_server(given, monkeypatch, capsys, server):
    server.shutdown()
    server.socket.close()
    assert run(monkeypatch, given, server) == 1
    assert "no DICOMweb server answers" in capsys.readouterr().err


def test_started_server_is_for_this_machine_only():
    settings = orthanc_settings(8042, "plugin.so", "/tmp/x")
    assert settings["HttpBindAddresses"] == ["127.0.0.1"]
    assert settings["RemoteAccessAllowed"] is False
    assert settings["DicomServerEnabled"] is False
    assert settings["WebDavEnabled"] is False


def test_nothing_is_started_unless_asked():
    assert parsed(["--series", "a", "--mask", "b"]).start is None
    assert parsed(["--series", "a", "--mask", "b"]).more == []


@pytest.mark.orthanc
def test_real_orthanc(given):
    program = os.environ.get("ORTHANC") or shutil.which("Orthanc")
    plugin = os.environ.get("ORTHANC_DICOMWEB", DICOMWEB_PLUGIN)
    if program is None or not Path(plugin).is_file():
        pytest.skip("no Orthanc with a DICOMweb plugin (set ORTHANC and ORTHANC_DICOMWEB)")
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("no programs unshare and ip to run Orthanc in a network of its own")
    command = [sys.executable, dicom_round_trip.__file__, *given, "--start", program, "--plugin", plugin]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "0 differ" in result.stdout
