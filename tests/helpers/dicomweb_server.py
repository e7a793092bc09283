"""A DICOMweb server of one study on 127.0.0.1, as much of it as the client needs."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pydicom

BOUNDARY = "a-boundary"
SERVICE = "/dicom-web"
_UPLOADED = re.compile(b"\r\n\r\n(.*?)\r\n--", re.DOTALL)


class FakeServer(ThreadingHTTPServer):
    """Answers queries for series, sends series, takes instances.

    Attributes:
        instances: what it holds.
        status: sent instead of every answer if not 200.
        lost: how many instances of a series it keeps back.
        delay_s: it waits before it answers.
        body: sent instead of the answer to a query.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.instances = [path.read_bytes() for path in sorted(folder.rglob("*.dcm"))]
        self.status, self.lost, self.delay_s, self.body = 200, 0, 0.0, None

    @property
    def service(self) -> str:
        """Address of the service."""
        return f"http://127.0.0.1:{self.server_port}{SERVICE}"

    def handle_error(self, *_: object) -> None:
        """Keep quiet about clients that left before their answer."""

    def headers_of(self, content: bytes) -> pydicom.Dataset:
        """Header of an instance."""
        return pydicom.dcmread(BytesIO(content), stop_before_pixels=True)


@contextmanager
def serve(folder: Path) -> Iterator[FakeServer]:
    """Serve the DICOM files in a folder and its subfolders until the block ends."""
    server = FakeServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:  # noqa: N802 (name given by http.server)
        address = urlsplit(self.path)
        path, query = address.path.removeprefix(SERVICE), parse_qs(address.query)
        time.sleep(self.server.delay_s)
        if self.server.status != 200:
            self.send_error(self.server.status)
        elif match := re.fullmatch(r"/studies/([^/]+)/series", path):
            body = self.server.body or json.dumps(self._series(match[1], query.get("Modality"))).encode()
            self._answer(body, "application/dicom+json")
        elif match := re.fullmatch(r"/studies/([^/]+)/series/([^/]+)", path):
            files = [
                c for c in self.server.instances if self.server.headers_of(c).SeriesInstanceUID == match[2]
            ]
            parts = [
                b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (BOUNDARY.encode(), content)
                for content in files[self.server.lost :]
            ]
            kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
            self._answer(b"".join(parts) + f"--{BOUNDARY}--".encode(), kind)
        else:
            self.send_error(404)

    def do_POST(self) -> None:  # noqa: N802 (name given by http.server)
        content = self._content()
        self.server.instances += _UPLOADED.findall(content)
        self._answer(b"{}", "application/dicom+json")

    def _content(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _series(self, study: str, modalities: list[str] | None) -> list[dict]:
        found: dict[str, list[pydicom.Dataset]] = {}
        for header in map(self.server.headers_of, self.server.instances):
            if header.StudyInstanceUID == study and (not modalities or header.Modality in modalities):
                found.setdefault(header.SeriesInstanceUID, []).append(header)
        answers = []
        for headers in found.values():
            answer = pydicom.Dataset()
            for name in ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesDescription"):
                setattr(answer, name, headers[0].get(name, ""))
            answer.NumberOfSeriesRelatedInstances = len(headers)
            answers.append(answer.to_json_dict())
        return answers

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""
