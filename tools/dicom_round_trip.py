"""A series goes to an Orthanc on this machine, is segmented from there; its SEG is stored back and found.

    python tools/dicom_round_trip.py --series DICOM --bundle bundles/crossdomain_liver -- --checkpoint best.pt

Uploads the series by DICOMweb, runs the bundle's inference on the address of the series, stores the DICOM SEG
beside it, finds it by a query, downloads it and compares it with the NIfTI mask voxel by voxel. What follows
``--`` goes to ``monai.bundle run``. With ``--mask`` a NIfTI file takes the place of the inference.

Talks to this machine only. Starts no server unless told to by ``--start path/to/Orthanc``; that one runs in a
network of its own (Linux, unshare), because old versions listen on all interfaces whatever they are told.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom

from common.data.dicom import single_series
from common.data.dicom_seg import Algorithm, Segment, write_dicom_seg
from common.data.dicom_sources import download_series
from common.data.dicomweb import client_of, plain_errors
from common.data.segment_terms import terms_of
from common.errors import InputError

DICOMWEB_PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
IN_NAMESPACE = "DICOM_ROUND_TRIP_IN_NAMESPACE"
SLICES_AT_A_TIME = 20
START_TIMEOUT_S = 30.0


def orthanc_settings(port: int, plugin: str, storage: str) -> dict[str, Any]:
    """Configuration of an Orthanc that serves DICOMweb to this machine and nothing else to anybody."""
    return {
        "Name": "round trip",
        "StorageDirectory": storage,
        "IndexDirectory": storage,
        "Plugins": [plugin],
        "HttpPort": port,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "WebDavEnabled": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
    }


@contextmanager
def orthanc(executable: str, plugin: str, port: int) -> Iterator[None]:
    """Run an Orthanc with an empty storage until the block ends; both go then.

    Raises:
        InputError: it ends at once or does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="orthanc_") as folder:
        config, log = Path(folder, "orthanc.json"), Path(folder, "log.txt")
        config.write_text(json.dumps(orthanc_settings(port, plugin, folder)), encoding="utf-8")
        with log.open("w") as output:
            process = subprocess.Popen([executable, str(config)], stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_for(f"http://127.0.0.1:{port}/dicom-web", process, log)
            yield
        finally:
            process.terminate()
            process.wait(timeout=START_TIMEOUT_S)


def _wait_for(service: str, process: subprocess.Popen, log: Path) -> None:
    end_s = time.monotonic() + START_TIMEOUT_S
    while True:
        time.sleep(0.2)
        try:
            with plain_errors(service):
                client_of(service).search_for_studies(limit=1)
            return
        except InputError as error:
            if process.poll() is not None or time.monotonic() > end_s:
                last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
                raise InputError(f"{error}\nOrthanc did not start:\n{last}") from error


def upload(service: str, files: Sequence[Path]) -> None:
    """Store instances on a server (STOW-RS)."""
    client = client_of(service)
    with plain_errors(service):
        for start in range(0, len(files), SLICES_AT_A_TIME):
            client.store_instances([pydicom.dcmread(p) for p in files[start : start + SLICES_AT_A_TIME]])


def infer(bundle: str, configs: Sequence[str], address: str, output_dir: Path, more: Sequence[str]) -> None:
    """Run a bundle's inference on an address, with a SEG beside the NIfTI file.

    Raises:
        InputError: it fails; its own messages say why.
    """
    files = [str(Path(bundle, "configs", name)) for name in ("inference.json", *configs)]
    command = [sys.executable, "-m", "monai.bundle", "run", "inferring", "--config_file", str(files)]
    command += ["--bundle_root", bundle, "--dataset_dir", address, "--output_dir", str(output_dir)]
    command += ["--dicom_seg", "True", *more]
    print(shlex.join(command), flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        raise InputError(f"inference ended with exit code {code}")


def stand_in(mask: str, class_names: Sequence[str], address: str, output: Path) -> None:
    """Write a mask that exists already as the results of an inference on an address."""
    image = nib.load(mask)
    segments = [Segment(v, n, t) for v, (n, t) in enumerate(zip(class_names, terms_of(class_names)), start=1)]
    folder = download_series(address)
    voxels = np.asarray(image.dataobj).astype(np.int32)
    write_dicom_seg(voxels, image.affine, folder, segments, Algorithm("given mask", "0"), f"{output}.dcm")
    shutil.copyfile(mask, f"{output}.nii.gz")


def segments_on_grid(seg: pydicom.Dataset, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Voxels of a SEG on the grid of a NIfTI file, with the values that their descriptions name.

    Reads pixels and positions by pydicom alone.

    Args:
        seg: binary, pixels included.
        affine: (4, 4), from voxels to RAS millimeters.
        shape: of the grid.

    Returns:
        int32, of ``shape``.
    """
    values = {
        int(item.SegmentNumber): int(re.match(r"value (\d+)", item.SegmentDescription)[1])
        for item in seg.SegmentSequence
    }
    shared, found = seg.SharedFunctionalGroupsSequence[0], np.zeros(shape, np.int32)
    to_voxel = np.linalg.inv(affine) @ np.diag([-1, -1, 1, 1])
    row, column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    rows_mm, columns_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for pixels, own in zip(frames, seg.PerFrameFunctionalGroupsSequence):
        name = "SegmentIdentificationSequence"
        value = values[int((own if name in own else shared)[name][0].ReferencedSegmentNumber)]
        corner_mm = np.array(own.PlanePositionSequence[0].ImagePositionPatient, float)
        j, i = np.nonzero(pixels)
        points_mm = corner_mm + i[:, None] * columns_mm * row + j[:, None] * rows_mm * column
        voxels = np.rint(points_mm @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(int)
        found[tuple(voxels.T)] = value
    return found


def round_trip(arguments: argparse.Namespace) -> None:
    """Do all steps, saying what each found.

    Raises:
        InputError: a step fails, or the SEG that comes back is not the mask.
    """
    service, output_dir = f"http://127.0.0.1:{arguments.port}/dicom-web", Path(arguments.output_dir)
    slices = single_series(arguments.series)
    header = pydicom.dcmread(slices[0], stop_before_pixels=True)
    study, series = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
    address = f"{service}/studies/{study}/series/{series}"
    output_dir.mkdir(parents=True, exist_ok=True)
    output = output_dir / f"{series.replace('.', '_')}_seg"
    mask_path, seg_path = Path(f"{output}.nii.gz"), Path(f"{output}.dcm")
    for path in (mask_path, seg_path):
        path.unlink(missing_ok=True)
    _timed(f"stored {len(slices)} slices as {address}", upload, service, slices)
    if arguments.mask:
        _timed("took the given mask", stand_in, arguments.mask, arguments.class_names, address, output)
    else:
        bundle, configs, more = arguments.bundle, arguments.configs, arguments.more
        _timed(f"segmented by {bundle}", infer, bundle, configs, address, output_dir, more)
    if not seg_path.is_file():
        raise InputError(f"{seg_path}: expected a DICOM SEG, found none (an empty mask gives none)")
    _timed(f"stored {seg_path}", upload, service, [seg_path])
    sent = pydicom.dcmread(seg_path, stop_before_pixels=True)
    _compare(find_seg(service, study, sent.SeriesInstanceUID), nib.load(mask_path))


def find_seg(service: str, study_uid: str, series_uid: str) -> pydicom.Dataset:
    """Query a study for segmentations (QIDO-RS), and download the one with a known UID (WADO-RS).

    Raises:
        InputError: it is not among those found.
    """
    client = client_of(service)
    with plain_errors(service):
        found = client.search_for_series(study_uid, search_filters={"Modality": "SEG"})
        uids = [entry["0020000E"]["Value"][0] for entry in found]
        print(f"query for Modality SEG in the study: {len(uids)} series", flush=True)
        if series_uid not in uids:
            raise InputError(f"{service}: expected the series {series_uid}, found {uids}")
        (received,) = client.retrieve_series(study_uid, series_uid)
    return received


def compared(seg: pydicom.Dataset, mask: nib.Nifti1Image) -> tuple[list[str], int]:
    """What a SEG holds, one line each, and in how many voxels it differs from a mask."""
    expected = np.asarray(mask.dataobj)
    found = segments_on_grid(seg, mask.affine, mask.shape)
    lines = []
    for item in seg.SegmentSequence:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        code = f"{kind.CodingSchemeDesignator} {kind.CodeValue}"
        lines.append(f"segment {item.SegmentLabel}: {kind.CodeMeaning} ({code})")
    different = int((found != expected).sum())
    counted = f"{int((found > 0).sum())} voxels in {seg.NumberOfFrames} frames"
    return [*lines, f"{counted} came back, {different} differ"], different


def _compare(seg: pydicom.Dataset, mask: nib.Nifti1Image) -> None:
    lines, different = compared(seg, mask)
    print(*lines, sep="\n", flush=True)
    if different:
        raise InputError(f"expected the mask that was stored, found {different} different voxels")


def _timed(what: str, action: Any, *arguments: Any) -> None:
    start_s = time.monotonic()
    action(*arguments)
    print(f"{what} ({time.monotonic() - start_s:.1f} s)", flush=True)


def _enter_own_network() -> None:
    """Start again where the only network is the loopback of a new namespace."""
    for tool in ("unshare", "ip"):
        if shutil.which(tool) is None:
            raise InputError(f"--start: expected the program {tool}, found none; start Orthanc yourself")
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    inner = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, *sys.argv]
    os.environ[IN_NAMESPACE] = "1"
    sys.stdout.flush()
    os.execvp("unshare", ["unshare", "--net", *as_root, *inner])


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """Settings from the command line; ``more`` holds what follows ``--``."""
    end = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", required=True, help="folder with one DICOM series")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--bundle", help="folder of the bundle that segments it")
    what.add_argument("--mask", help="NIfTI mask of the series that stands in for a prediction")
    parser.add_argument(
        "--configs", nargs="*", default=[], help="the bundle's config files after inference.json"
    )
    parser.add_argument("--class_names", nargs="+", default=["liver"], help="of --mask, for 1, 2, ...")
    parser.add_argument("--output_dir", default="runs/dicom_round_trip")
    parser.add_argument("--port", type=int, default=8042, help="of the Orthanc on 127.0.0.1")
    parser.add_argument(
        "--start", metavar="ORTHANC", help="start this program for the time of the round trip"
    )
    parser.add_argument("--plugin", default=DICOMWEB_PLUGIN, help="its DICOMweb plugin")
    arguments = parser.parse_args(words[:end])
    arguments.more = list(words[end + 1 :])
    return arguments


def main() -> int:
    """Make the round trip; 0 if the SEG that came back is the mask, 1 with a message otherwise."""
    arguments = parsed(sys.argv[1:])
    try:
        if arguments.start and IN_NAMESPACE not in os.environ:
            _enter_own_network()
        server = (
            orthanc(arguments.start, arguments.plugin, arguments.port) if arguments.start else nullcontext()
        )
        with server:
            round_trip(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
