"""What a server refuses or answers instead of a mask is said in its own words."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from tools.label_client import Served, compare_with_label_server, upload_series
from tools.transcript import Transcript

SERVED = Served("http://127.0.0.1:1/", "toy")


@pytest.mark.parametrize("printed", ["gone", "[]", '{"detail": "no"}'])
def test_upload_without_a_session_is_refused_with_what_was_said(printed, tmp_path):
    transcript = Transcript(run_command=lambda *_: (0, printed))
    with pytest.raises(InputError, match="127.0.0.1:1/: expected a session_id, found") as caught:
        upload_series(SERVED, tmp_path, tmp_path, transcript)
    assert printed in str(caught.value)


def test_archive_is_made_of_the_files_and_put_to_the_server(tmp_path):
    seen = []

    def record(command, folder, environment):
        seen.append((command, folder))
        return 0, '{"session_id": "4-2"}'

    transcript = Transcript(run_command=record)
    assert upload_series(SERVED, tmp_path / "series", tmp_path, transcript) == "4-2"
    (zipped, folder), (put, _) = seen
    assert zipped[-3:] == ["-c", str(tmp_path / "series.zip"), "."]
    assert folder == tmp_path / "series"
    assert put[-3:] == [
        "http://127.0.0.1:1/session/?uncompress=true",
        "-F",
        f"files=@{tmp_path / 'series.zip'}",
    ]
    assert transcript.renamed("session_id=4-2&x") == "session_id=SESSION&x"


def test_reason_of_a_refusal_is_passed_on(tmp_path):
    def refuse(command, folder, environment):
        Path(command[-1]).write_text('{"detail": "scan.png: expected 3 channels, found 1"}')
        return 22, "curl: (22) The requested URL returned error: 400"

    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "mask.png")
    transcript = Transcript(run_command=refuse)
    with pytest.raises(InputError, match="error: 400\n.*expected 3 channels, found 1"):
        compare_with_label_server(SERVED, tmp_path / "a.png", tmp_path / "mask.png", tmp_path, transcript)
