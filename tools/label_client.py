"""Asks a running MONAI Label server for a mask, with the commands of docs/monai_label.md, and compares it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from tools.mask_check import Comparison, compare_masks
from tools.transcript import Transcript

CURL = ("curl", "--silent", "--show-error", "--fail-with-body")


@dataclass(frozen=True)
class Served:
    """A bundle on a server.

    Attributes:
        server: its address.
        bundle: the name of the model there.
    """

    server: str
    bundle: str

    def address(self, path: str) -> str:
        """A path of the server."""
        return f"{self.server.rstrip('/')}/{path}"


def compare_with_label_server(
    served: Served, image: Path, mask: Path, work: Path, transcript: Transcript
) -> Comparison:
    """Give an image to MONAI Label, a series as one ZIP file, and compare its answer with a mask.

    Args:
        served: by the server, with the weights that made the mask.
        image: folder with one DICOM series, NIfTI file or picture.
        mask: expected answer. The labels of the server are 1, 2, ...; in pictures any object counts.
        work: folder for what is sent and received.
        transcript: takes the steps.

    Raises:
        InputError: the server refuses something, or its answer is another mask.
    """
    query, upload = "output=image", ["-F", f"file=@{image}"]
    if image.is_dir():
        query, upload = f"session_id={upload_series(served, image, work, transcript)}&{query}", []
    answer = work / f"answer{'.png' if mask.suffix == '.png' else '.nii.gz'}"
    command = [*CURL, "-X", "POST", served.address(f"infer/{served.bundle}?{query}"), "-F", "params={}"]
    try:
        transcript.run("Ask MONAI Label", [*command, *upload, "-o", answer], work)
    except InputError as error:
        told = answer.read_text(encoding="utf-8", errors="replace")[:500] if answer.is_file() else ""
        raise InputError(f"{error}\n{told}") from error
    comparison = compare_masks(mask, answer)
    transcript.note("Compare its answer with the mask of the package", comparison.lines)
    if comparison.different:
        raise InputError(f"MONAI Label: expected the mask of the package, found {comparison.lines[0]}")
    return comparison


def upload_series(served: Served, series: Path, work: Path, transcript: Transcript) -> str:
    """Upload a DICOM series; the name of the session.

    Raises:
        InputError: the server refuses it, or answers otherwise than with a session.
    """
    archive = work / "series.zip"
    zipped = [sys.executable, "-m", "zipfile", "-c", archive, "."]
    transcript.run("Zip the files of the series", zipped, series)
    command = [*CURL, "-X", "PUT", served.address("session/?uncompress=true"), "-F", f"files=@{archive}"]
    printed = transcript.run("Upload it to MONAI Label", command, work, keep="^$")
    try:
        session = str(json.loads(printed)["session_id"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{served.server}: expected a session_id, found {printed[:200]!r}") from error
    transcript.names[session] = "SESSION"
    return session
