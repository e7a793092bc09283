"""A running MONAI Label server for tests, what it serves, and a client."""

import json
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from tests.helpers.workflows import (
    SMALL_CROSSDOMAIN,
    SMALL_DMNET,
    SMALL_KCBAC,
    SMALL_M2SNET,
    SMALL_SKC,
    config_files,
)

# A small network and small sizes for each bundle, as training would have noted them.
TRAINED = {
    "kcbac_mmwhs": {
        **SMALL_KCBAC,
        "spacing_mm": [4.0] * 3,
        "roi_size": [16] * 3,
        "inference_roi_size": [16] * 3,
    },
    "m2snet_polyp": {**SMALL_M2SNET, "image_size": [64, 64]},
    "dmnet_kits": {**SMALL_DMNET, "image_size": [32, 32]},
    "crossdomain_liver": {**SMALL_CROSSDOMAIN, "image_size": [32, 32]},
    "skc_synapse": {**SMALL_SKC, "image_size": [40] * 3, "roi_size": [32] * 3},
}
START_S, REQUEST_S = 600, 600
ON_CPU = {"device": "cpu"}


@dataclass
class Server:
    """A running server and what it works on."""

    address: str
    folder: Path
    process: subprocess.Popen

    def ask(self, method, path, form=None, files=(), body=None, headers=None):
        """Status and content of an answer; ``form`` and ``files`` go as a form, ``body`` as JSON."""
        headers = dict(headers or {})
        data = None
        if form is not None or files:
            boundary = uuid.uuid4().hex
            headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
            parts = [(f'name="{name}"', text.encode()) for name, text in (form or {}).items()]
            parts += [(f'name="{name}"; filename="{file.name}"', file.read_bytes()) for name, file in files]
            start = f"--{boundary}\r\nContent-Disposition: form-data; "
            data = b"".join(f"{start}{head}\r\n\r\n".encode() + content + b"\r\n" for head, content in parts)
            data += f"--{boundary}--\r\n".encode()
        elif body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_S) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def infer(self, bundle, query, name, files=(), **settings):
        """File with the mask that a bundle makes."""
        form = {"params": json.dumps({**ON_CPU, **settings})}
        status, content = self.ask("POST", f"/infer/{bundle}?{query}&output=image", form, files)
        assert status == 200, content
        file = self.folder / name
        file.write_bytes(content)
        return file


def write_weights(bundle, folder):
    folder.mkdir(parents=True)
    (folder / "as_trained.json").write_text(json.dumps(TRAINED[bundle]))
    parser = ConfigParser()
    parser.read_config([*config_files(bundle, "inference"), str(folder / "as_trained.json")])
    torch.manual_seed(0)
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "model.pt")


def write_studies(folder):
    """A volume with oblique axes and odd sizes, and a picture that is higher than wide."""
    folder.mkdir()
    random = np.random.default_rng(0)
    angle = 0.2
    axes = np.array([[-np.cos(angle), -np.sin(angle), 0], [np.sin(angle), -np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes @ np.diag([1.25, 1.25, 2.5]), (30, -20, 100)
    volume = random.normal(0, 200, (37, 41, 29)).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, affine), folder / "scan.nii.gz")
    Image.fromarray(random.integers(0, 255, (90, 70, 3), dtype=np.uint8)).save(folder / "polyp.png")


def wait_for(server):
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.process.poll() is None:
        try:
            if server.ask("GET", "/info/")[0] == 200:
                return
        except urllib.error.URLError:
            time.sleep(1)
    pytest.fail("the server did not start: " + (server.folder / "log").read_text()[-3000:])


def wait_for_training(server):
    end = time.monotonic() + REQUEST_S
    while time.monotonic() < end:
        task = json.loads(server.ask("GET", "/train/")[1])
        if task["status"] not in ("SUBMITTED", "RUNNING"):
            return task
        time.sleep(2)
    return task
