"""Studies that are not yet a folder with one series: ZIP files, mixed folders and DICOMweb servers.

What is fetched lies in a temporary folder that only its owner may enter and that goes when the program ends.
Files there are numbered: no name from an archive or a server becomes part of a path.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from monai.config import PathLike
from pydicom.misc import is_dicom
from pydicom.uid import MediaStorageDirectoryStorage

from common.data.dicomweb import UID, client_of, is_address, parts_of_address, plain_errors
from common.data.image_files import existing_folder, joined, reason
from common.errors import InputError, raise_problems

logger = logging.getLogger(__name__)

# Objects that accompany images in a study.
_NOT_IMAGES = {"SEG", "SR", "PR", "KO", "DOC", "REG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "FID"}
_SERIES_TAGS = ["SeriesInstanceUID", "Modality", "SeriesDescription"]


@dataclass
class _Series:
    """What is known of a series before its pixels are read."""

    uid: str
    modality: str
    description: str
    num_slices: int = 0
    files: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        what = f"{self.modality or 'no modality'}, {self.description or 'no name'}"
        return f"{self.uid} ({what}, {self.num_slices} slices)"


def local_path(input_path: PathLike, series_uid: str | None = None) -> Path:
    """A path that transforms can read, fetching what does not lie open on this machine.

    Args:
        input_path: ZIP file with a study; address of a study or series on a DICOMweb server; or any other
            file or folder, which is returned as it is unless ``series_uid`` chooses a series from it.
        series_uid: SeriesInstanceUID of the series to take, where a study has several.

    Returns:
        Absolute path; a temporary folder with one series for ZIP files and DICOMweb, and for a folder (of any
        depth) if ``series_uid`` is given.

    Raises:
        InputError: see :func:`extract_series` and :func:`download_series`; ``series_uid`` for a single file,
            or not in the folder.
    """
    if is_address(input_path):
        return download_series(str(input_path), series_uid)
    path = Path(input_path).expanduser().absolute()
    if path.suffix.lower() == ".zip" and path.is_file():
        return extract_series(path, series_uid)
    if not series_uid:
        return path
    files = (file for file in sorted(existing_folder(path).rglob("[!.]*")) if file.is_file())
    chosen = _choose(path, _by_series(file for file in files if is_dicom(file)), series_uid)
    folder = _temporary_folder(path.name)
    for number, file in enumerate(chosen.files):
        os.symlink(file.resolve(), folder / f"{number:06d}.dcm")
    return folder


def extract_series(archive: Path, series_uid: str | None = None) -> Path:
    """Extract one series from a ZIP file, from whatever depth of folders.

    Args:
        archive: ZIP file.
        series_uid: the series to take if there are several.

    Returns:
        Temporary folder, named after the archive.

    Raises:
        InputError: no readable ZIP file, or an encrypted one; entries that point out of the archive (absolute
            names, ``..``, links), each named; more content than the disk has room for; no DICOM images; or
            several series, each named, and none of them chosen.
    """
    folder = _temporary_folder(archive.stem)
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            _refuse_unsafe(archive, entries)
            _refuse_too_large(archive, sum(entry.file_size for entry in entries), folder)
            extracted = [_extract(opened, entry, folder) for entry in entries]
    except OSError as error:
        raise InputError(f"{archive}: cannot be extracted to {folder} ({error.strerror or error})") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{archive}: expected a readable ZIP file, found {reason(error)}") from error
    files = [path for path in extracted if path is not None]
    chosen = _choose(archive, _by_series(files), series_uid)
    for path in set(files) - set(chosen.files):
        path.unlink()
    return folder


def download_series(url: str, series_uid: str | None = None) -> Path:
    """Download one series from a DICOMweb server.

    Args:
        url: ends in ``/studies/<uid>`` or ``/studies/<uid>/series/<uid>``; ``dicomweb://`` stands for https,
            and for http where the server is on this machine.
        series_uid: the series to take from a study of several.

    Returns:
        Temporary folder, named after the UID of the series, with ``_`` for each dot.

    Raises:
        InputError: dicomweb-client is not installed; an address of another form, or with a password in it;
            no server, or one that refuses, fails or takes too long; no such study or series; several series
            and none chosen; or fewer slices than announced.
    """
    service, study_uid, in_url = parts_of_address(url)
    if in_url and series_uid and in_url != series_uid:
        raise InputError(f"{url}: expected the series of the address, found series_uid {series_uid}")
    client = client_of(service)
    with plain_errors(url):
        found = client.search_for_series(study_uid, fields=["SeriesDescription"])
        series = {entry.uid: entry for entry in map(_announced, found)}
    chosen = _choose(url, series, in_url or series_uid)
    folder, received = _temporary_folder(chosen.uid), 0
    with plain_errors(url):
        for instance in client.iter_series(study_uid, chosen.uid):
            instance.save_as(folder / f"{received:06d}.dcm", enforce_file_format=True)
            received += 1
    if received < max(chosen.num_slices, 1):
        raise InputError(f"{url}: expected {chosen.num_slices} slices as announced, received {received}")
    logger.info("%s: received %d slices of series %s", url, received, chosen.uid)
    return folder


def _announced(found: dict[str, Any]) -> _Series:
    """A series as a server describes it in its answer to a query."""
    header = pydicom.Dataset.from_json(found)
    uid = str(header.SeriesInstanceUID)
    if not re.fullmatch(UID, uid):
        raise ValueError(f"SeriesInstanceUID {uid!r}")
    count = int(header.get("NumberOfSeriesRelatedInstances") or 0)
    return _Series(uid, str(header.get("Modality", "")), str(header.get("SeriesDescription", "")), count)


def _by_series(files: Iterable[Path]) -> dict[str, _Series]:
    series: dict[str, _Series] = {}
    for path in files:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_SERIES_TAGS)
        except Exception as error:  # a damaged header fails in many ways
            raise InputError(f"{path}: expected a readable DICOM file, found {reason(error)}") from error
        if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            continue  # the table of contents of a CD
        uid, modality, name = (str(header.get(tag, "")) for tag in _SERIES_TAGS)
        entry = series.setdefault(uid, _Series(uid, modality, name))
        entry.files.append(path)
        entry.num_slices += 1
    return series


def _choose(source: PathLike, series: dict[str, _Series], series_uid: str | None) -> _Series:
    found = joined(series.values()) or "none"
    if series_uid:
        if series_uid not in series:
            raise InputError(f"{source}: expected the series {series_uid}, found {found}")
        return series[series_uid]
    images = [entry for entry in series.values() if entry.modality not in _NOT_IMAGES]
    if len(images) != 1:
        choice = "; choose one with series_uid" if images else ""
        raise InputError(f"{source}: expected one series of DICOM images, found {found}{choice}")
    return images[0]


def _refuse_unsafe(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    problems = []
    for entry in entries:
        name, kind = entry.orig_filename.replace("\\", "/"), stat.S_IFMT(entry.external_attr >> 16)
        if name.startswith("/") or re.match("[A-Za-z]:", name):
            problems.append(f"{entry.orig_filename!r}: absolute name")
        elif ".." in name.split("/"):
            problems.append(f"{entry.orig_filename!r}: leads out of the archive")
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            problems.append(f"{entry.orig_filename!r}: link or device")
    raise_problems(f"{archive}: not extracted because of unsafe entries", problems)


def _refuse_too_large(archive: Path, num_bytes: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise InputError(
            f"{archive}: expected at most {free / 2**20:.0f} MiB, which {folder.parent} has room for, "
            f"found {num_bytes / 2**20:.0f} MiB of content"
        )


def _extract(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> Path | None:
    """Extract an entry under a number if it is a DICOM file and not hidden."""
    if entry.is_dir() or entry.filename.rsplit("/", 1)[-1].startswith("."):
        return None
    with opened.open(entry) as source:
        start = source.read(132)
        if start[128:] != b"DICM":
            return None
        path = folder / f"{entry.header_offset:012d}.dcm"
        with path.open("wb") as target:
            target.write(start)
            shutil.copyfileobj(source, target)
    return path


def _temporary_folder(name: str) -> Path:
    """New folder that goes at the end of the program, named so that results can be told apart."""
    parent = Path(tempfile.mkdtemp(prefix="dicom_"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    folder = parent / (re.sub(r"[^\w-]+", "_", name).strip("_") or "study")
    folder.mkdir()
    return folder
