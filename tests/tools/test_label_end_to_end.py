"""A real MONAI Label server with all bundles: starts it, asks it, trains with it, stops it."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.helpers.dicom import write_slice
from tests.helpers.label_server import (
    ON_CPU,
    TRAINED,
    Server,
    wait_for,
    wait_for_training,
    write_studies,
    write_weights,
)
from tests.helpers.workflows import REPOSITORY, run
from tools.label_environment import is_complete

pytestmark = pytest.mark.label
VOLUMES = [bundle for bundle in TRAINED if bundle != "m2snet_polyp"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if not is_complete():
        pytest.skip("no .venv-label: make label makes it")
    folder = tmp_path_factory.mktemp("label")
    for bundle in TRAINED:
        write_weights(bundle, folder / "weights" / bundle)
    write_studies(folder / "studies")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tools.label_server", *TRAINED, "--port", str(port)]
    command += ["--studies", str(folder / "studies"), "--app_dir", str(folder / "app")]
    for bundle in TRAINED:
        command += ["--model_dir", f"{bundle}={folder / 'weights' / bundle}"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
    running = Server(f"http://127.0.0.1:{port}", folder, process)
    try:
        wait_for(running)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(running.address + "/info/", timeout=5)


def on_command_line(bundle, source, folder):
    """The mask of the same weights, made by inference.json in this process."""
    settings = str(folder / "weights" / bundle / "as_trained.json")
    run(
        bundle,
        ["inference", settings],
        "infer",
        dataset_dir=str(source),
        model_dir=str(folder / "weights" / bundle),
        output_dir=str(folder / "command_line" / bundle),
        pictures=0,
    )
    return next((folder / "command_line" / bundle).glob("*_seg.*"))


def test_all_bundles_are_listed_with_their_labels(server):
    status, content = server.ask("GET", "/info/")
    assert status == 200
    info = json.loads(content)
    assert set(info["models"]) == set(TRAINED)
    assert info["models"]["m2snet_polyp"]["labels"] == {"polyp": 1}
    assert info["models"]["kcbac_mmwhs"]["labels"]["pulmonary artery"] == 7
    assert len(info["models"]["skc_synapse"]["labels"]) == 13
    assert list(info["trainers"]) == ["kcbac_mmwhs"]


@pytest.mark.parametrize("bundle", VOLUMES)
def test_mask_of_a_volume_is_that_of_the_command_line_on_the_same_grid(server, bundle):
    source = server.folder / "studies" / "scan.nii.gz"
    mask = nib.load(server.infer(bundle, "image=scan", f"{bundle}.nii.gz"))
    image = nib.load(source)
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
    expected = nib.load(on_command_line(bundle, source, server.folder))
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), np.asanyarray(expected.dataobj))


def test_uploaded_volume_is_segmented(server):
    source = server.folder / "studies" / "scan.nii.gz"
    mask = nib.load(server.infer("kcbac_mmwhs", "a=b", "uploaded.nii.gz", [("file", source)]))
    np.testing.assert_allclose(mask.affine, nib.load(source).affine, atol=1e-5)


def test_mask_of_a_picture_is_that_of_the_command_line(server):
    source = server.folder / "studies" / "polyp.png"
    mask = np.asarray(Image.open(server.infer("m2snet_polyp", "image=polyp", "polyp.png")))
    expected = np.asarray(Image.open(on_command_line("m2snet_polyp", source, server.folder)))
    np.testing.assert_array_equal(mask, expected > 0)
    assert mask.shape == (90, 70)


def upload_series(server, folder, names):
    slices = [("files", folder / name) for name in names]
    status, content = server.ask("PUT", "/session/", files=slices)
    assert status == 200
    return json.loads(content)["session_id"]


def test_dicom_study_is_uploaded_and_segmented(server):
    folder = server.folder / "series"
    random = np.random.default_rng(1)
    for number in range(12):
        values = random.integers(-500, 500, (24, 30))
        write_slice(folder, f"{number}.dcm", (-10.0, -5.0, 3.0 * number), values, number=number)
    session = upload_series(server, folder, [f"{number}.dcm" for number in range(12)])
    mask = nib.load(server.infer("kcbac_mmwhs", f"session_id={session}", "series.nii.gz"))
    # By hand: LPS to RAS turns x and y; PixelSpacing 0.5 (rows), 0.75 (columns); slices 3 mm apart.
    expected = [[-0.75, 0, 0, 10], [0, -0.5, 0, 5], [0, 0, 3, 0], [0, 0, 0, 1]]
    assert mask.shape == (30, 24, 12)
    np.testing.assert_allclose(mask.affine, expected, atol=1e-5)
    # An archive usually holds the folder of the series, not the bare files.
    archive = shutil.make_archive(str(server.folder / "zipped"), "zip", server.folder, "series")
    status, content = server.ask("PUT", "/session/?uncompress=true", files=[("files", Path(archive))])
    assert status == 200
    session = json.loads(content)["session_id"]
    zipped = nib.load(server.infer("kcbac_mmwhs", f"session_id={session}", "zipped.nii.gz"))
    np.testing.assert_array_equal(np.asanyarray(zipped.dataobj), np.asanyarray(mask.dataobj))


def test_series_with_a_gap_is_refused_by_name_of_the_problem(server):
    folder = server.folder / "gap"
    for number, z in enumerate((0.0, 3.0, 6.0, 12.0)):
        write_slice(folder, f"{number}.dcm", (0.0, 0.0, z), np.zeros((24, 30), int), number=number)
    session = upload_series(server, folder, [f"{number}.dcm" for number in range(4)])
    status, content = server.ask(
        "POST", f"/infer/kcbac_mmwhs?session_id={session}", {"params": json.dumps(ON_CPU)}
    )
    assert status == 400
    assert "slice" in json.loads(content)["detail"]


def test_requests_cannot_leave_the_folders_of_the_server(server):
    outside = server.folder / "outside.nii.gz"
    outside.write_bytes((server.folder / "studies" / "scan.nii.gz").read_bytes())
    inside = [("file", outside)]
    attempts = [
        ("POST", f"/infer/kcbac_mmwhs?image={outside}", {"params": "{}"}, ()),
        ("POST", "/infer/kcbac_mmwhs?image=..%2foutside.nii.gz", {"params": "{}"}, ()),
        ("POST", "/infer/kcbac_mmwhs?image=scan", {"params": json.dumps({"image": str(outside)})}, ()),
        ("POST", "/infer/kcbac_mmwhs?image=scan", {"params": '{"model_filename": "../../x.pt"}'}, ()),
        ("GET", f"/datastore/image?image={outside}", None, ()),
        ("GET", "/datastore/label?label=..%2foutside&tag=final", None, ()),
        ("PUT", "/datastore/image?image=..%2fescaped", None, inside),
        ("PUT", "/datastore/label?image=scan&tag=..%2f..%2fescaped", None, [("label", outside)]),
        ("PUT", "/datastore/image?image=torchvision", None, [("file", Path(__file__))]),
        ("PUT", "/session/?uncompress=true", None, [("files", Path(__file__))]),
        ("GET", "/session/%2e%2e", None, ()),
        ("GET", "/ohif/..%2f..%2f..%2fapp.py", None, ()),
    ]
    answers = {
        (method, path, str(form)): server.ask(method, path, form, files)[0]
        for method, path, form, files in attempts
    }
    assert {key: status for key, status in answers.items() if status != 400} == {}
    assert list(server.folder.rglob("*escaped*")) == []
    assert [file.name for file in (server.folder / "studies").glob("*.py")] == []


def test_settings_of_a_request_are_not_executed_and_foreign_pages_are_refused(server):
    marker = server.folder / "executed"
    code = f"$open('{marker}', 'w').write('x')"
    for body in ({"device": code}, {"max_epochs": code}, {"tracking": code}, {"bundle_path": "/tmp"}):
        for query in ("", "?run_sync=true"):
            assert server.ask("POST", f"/train/kcbac_mmwhs{query}", body=body)[0] == 400
    assert not marker.exists()
    assert server.ask("GET", "/info/", headers={"Origin": "http://evil.example"})[0] == 400
    assert server.ask("GET", "/info/", headers={"Host": "evil.example"})[0] == 400


def test_training_starts_from_saved_labels_and_its_weights_are_served(server):
    scan, mask = server.folder / "studies" / "scan.nii.gz", server.folder / "kcbac_mmwhs.nii.gz"
    if not mask.exists():
        server.infer("kcbac_mmwhs", "image=scan", mask.name)
    for case in ("case1", "case2", "case3"):
        assert server.ask("PUT", f"/datastore/image?image={case}", files=[("file", scan)])[0] == 200
        saved = server.ask("PUT", f"/datastore/label?image={case}&tag=final", files=[("label", mask)])
        assert saved[0] == 200
    served = server.folder / "app" / "model" / "kcbac_mmwhs"
    before = (served / "models" / "model.pt").read_bytes()
    config = served / "configs" / "train.json"
    short = {"iterations_per_epoch": 2, "num_workers": 0, "val_interval": 1}
    config.write_text(json.dumps({**json.loads(config.read_text()), **short}))
    body = {"max_epochs": 1, "val_split": 0.34, "device": "cpu", "multi_gpu": False, "run_id": ""}
    assert server.ask("POST", "/train/kcbac_mmwhs", body=body)[0] == 200
    task = wait_for_training(server)
    assert task["status"] == "DONE", task
    assert (served / "models" / "model.pt").read_bytes() != before
    assert (served / "models" / "model_best.pt").is_file()
    server.infer("kcbac_mmwhs", "image=scan", "after_training.nii.gz")
