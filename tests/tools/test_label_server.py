"""What is handed to MONAI Label: copies of bundles, folders, addresses. No server is started here."""

import json
import os
import socket
from pathlib import Path

import pytest

from tools import label_server
from tools.label_bundle import (
    TRAINABLE,
    copy_bundle,
    for_inference,
    for_training,
    keep_trained,
    missing_for,
    with_labels,
)
from tools.label_server import main, model_dirs, prepare_app, server_command, server_environment

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLES = sorted(folder.parent.name for folder in REPOSITORY.glob("bundles/*/configs"))
SETTINGS = {"spacing_mm": [4.0, 4.0, 4.0], "network_def::k": 3}


@pytest.fixture
def trained(tmp_path) -> Path:
    """What a training leaves."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "as_trained.json").write_text(json.dumps(SETTINGS))
    return folder


def config(bundle, name):
    return json.loads((REPOSITORY / "bundles" / bundle / "configs" / f"{name}.json").read_text())


def read(file):
    return json.loads(file.read_text())


def labels(metadata):
    return metadata["network_data_format"]["outputs"]["pred"]["channel_def"]


def test_missing_model_stops_before_anything_is_made(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(label_server, "make_environment", lambda: pytest.fail("made an environment"))
    app_dir = tmp_path / "app"
    with pytest.raises(SystemExit) as stopped:
        main(["kcbac_mmwhs", "nobody", "--model_dir", f"kcbac_mmwhs={tmp_path}", "--app_dir", str(app_dir)])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert f"kcbac_mmwhs: no trained model: expected {tmp_path / 'model.pt'}" in message
    assert "make train BUNDLE=kcbac_mmwhs" in message
    assert "nobody: unknown bundle, expected one of: crossdomain_liver" in message
    assert not app_dir.exists()


def test_missing_studies_are_reported_too(trained, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["kcbac_mmwhs", "--model_dir", str(trained), "--studies", str(tmp_path / "absent")])
    assert "--studies" in capsys.readouterr().err


def test_port_of_another_server_is_left_alone(trained, tmp_path, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        with pytest.raises(SystemExit):
            main(
                [
                    "kcbac_mmwhs",
                    "--model_dir",
                    str(trained),
                    "--port",
                    port,
                    "--app_dir",
                    str(tmp_path / "app"),
                ]
            )
    assert f"--port {port}: cannot listen there" in capsys.readouterr().err
    assert not (tmp_path / "app").exists()


def test_nothing_is_missing_with_weights(trained):
    assert missing_for("kcbac_mmwhs", trained) == []


def test_each_bundle_has_its_folder_of_weights():
    default = REPOSITORY / "bundles" / "dmnet_kits" / "models"
    assert model_dirs(["dmnet_kits"], ["run/models"]) == {"dmnet_kits": Path("run/models")}
    assert model_dirs(["kcbac_mmwhs", "dmnet_kits"], ["kcbac_mmwhs=a=b"]) == {
        "kcbac_mmwhs": Path("a=b"),
        "dmnet_kits": default,
    }
    with pytest.raises(ValueError, match="which bundle it belongs to"):
        model_dirs(["kcbac_mmwhs", "dmnet_kits"], ["run/models"])
    with pytest.raises(ValueError, match="'other' is none of: dmnet_kits"):
        model_dirs(["dmnet_kits"], ["other=run/models"])


def test_copy_is_complete_and_carries_the_settings_of_training(trained, tmp_path):
    served = tmp_path / "served"
    copy_bundle("kcbac_mmwhs", trained, served)
    assert (served / "common" / "networks" / "kcbac.py").is_file()
    assert (served / "models" / "model.pt").read_bytes() == b"weights"
    for name in ("inference", "train"):
        copied = read(served / "configs" / f"{name}.json")
        assert copied["spacing_mm"] == SETTINGS["spacing_mm"]
        assert copied["network_def"]["k"] == 3
        unchanged = config("kcbac_mmwhs", name)
        assert copied["roi_size"] == unchanged["roi_size"]
        assert copied["network_def"] | {"k": 2} == unchanged["network_def"]
    training = read(served / "configs" / "train.json")
    assert (training["label_codes"], training["check_data"], training["cases"]) == (None, False, [])


def test_only_bundles_that_learn_from_images_with_labels_can_be_trained(trained, tmp_path):
    (trained / "as_trained.json").unlink()
    for bundle in BUNDLES:
        copy_bundle(bundle, trained, tmp_path / bundle)
        assert (tmp_path / bundle / "configs" / "train.json").is_file() is (bundle in TRAINABLE)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_labels_are_numbered_from_one_in_the_order_of_the_classes(bundle):
    served = labels(with_labels(config(bundle, "metadata"), {}))
    assert served["0"] == "background"
    assert list(served) == [str(number) for number in range(config(bundle, "inference")["num_classes"])]
    assert for_inference(config(bundle, "inference"), {})["output_codes"] is None


def test_sole_channel_of_a_sigmoid_becomes_label_one():
    assert labels(config("m2snet_polyp", "metadata")) == {"0": "polyp"}
    assert labels(with_labels(config("m2snet_polyp", "metadata"), {})) == {"0": "background", "1": "polyp"}


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"class_names": ["spleen", "liver"], "num_classes": 3}, ["background", "spleen", "liver"]),
        ({"num_classes": 3}, ["background", "class 1", "class 2"]),
    ],
)
def test_labels_are_those_of_the_training(settings, names):
    assert list(labels(with_labels(config("kcbac_mmwhs", "metadata"), settings)).values()) == names


def test_setting_that_the_bundle_does_not_have_is_refused():
    for settings in ({"spacing": 1}, {"network::k": 1, "none::k": 1}):
        with pytest.raises(ValueError, match="as_trained.json: unknown setting"):
            for_inference(config("kcbac_mmwhs", "inference"), settings)
    assert "output_ext" not in for_training(config("kcbac_mmwhs", "train"), {"output_ext": ".nii"})


@pytest.mark.parametrize("text", ["[1]", "{"])
def test_settings_that_are_none_are_refused(trained, tmp_path, text):
    (trained / "as_trained.json").write_text(text)
    with pytest.raises(ValueError, match="as_trained.json: expected"):
        copy_bundle("kcbac_mmwhs", trained, tmp_path / "served")


def test_what_the_server_trained_outlives_the_next_start(trained, tmp_path):
    app_dir = tmp_path / "app"
    assert prepare_app({"kcbac_mmwhs": trained}, app_dir) == []
    assert prepare_app({"kcbac_mmwhs": trained}, app_dir) == []  # nothing was trained
    served = app_dir / "model" / "kcbac_mmwhs" / "models"
    (served / "model.pt").write_bytes(b"better weights")
    # Training writes what differs from the settings that it was started with.
    (served / "as_trained.json").write_text(json.dumps({"overlap": 0.25}))
    (note,) = prepare_app({"kcbac_mmwhs": trained}, app_dir)
    kept = app_dir / "trained" / "kcbac_mmwhs_1"
    assert str(kept) in note
    assert (kept / "model.pt").read_bytes() == b"better weights"
    assert read(kept / "as_trained.json") == {**SETTINGS, "overlap": 0.25}
    assert (served / "model.pt").read_bytes() == b"weights"


def test_kept_weights_get_a_new_folder_each_time(trained, tmp_path):
    for number in (1, 2):
        copy_bundle("kcbac_mmwhs", trained, tmp_path / "kcbac_mmwhs")
        (tmp_path / "kcbac_mmwhs" / "models" / "model.pt").write_bytes(b"%d" % number)
        kept = keep_trained(tmp_path / "kcbac_mmwhs", tmp_path / "kept")
        assert kept == tmp_path / "kept" / f"kcbac_mmwhs_{number}"
    assert keep_trained(tmp_path / "absent", tmp_path / "kept") is None


def test_folder_of_the_app_holds_our_main_module_and_no_old_uploads(trained, tmp_path):
    app_dir = tmp_path / "app"
    (app_dir / "tmp").mkdir(parents=True)
    (app_dir / "tmp" / "upload.nii.gz").write_text("of somebody")
    prepare_app({"kcbac_mmwhs": trained}, app_dir)
    tools = REPOSITORY / "tools"
    assert (app_dir / "main.py").read_text() == (tools / "label_app.py").read_text()
    assert (app_dir / "label_guard.py").read_text() == (tools / "label_guard.py").read_text()
    assert list((app_dir / "tmp").iterdir()) == []


def test_server_listens_on_loopback_and_asks_nobody():
    command = server_command(["kcbac_mmwhs", "dmnet_kits"], Path("/app"), "/scans", "127.0.0.1", 8000)
    text = " ".join(command)
    assert "--host 127.0.0.1 --port 8000" in text
    assert "--conf models kcbac_mmwhs,dmnet_kits --conf zoo_source local" in text
    assert label_server._parser().parse_args(["kcbac_mmwhs"]).host == "127.0.0.1"


def test_server_keeps_its_files_in_its_folder_and_knows_its_names(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    environment = server_environment(Path("/app"), "10.0.0.5", ["label.example"])
    assert environment["LABEL_HOST_NAMES"] == "127.0.0.1,localhost,10.0.0.5,label.example"
    for name in ("TMPDIR", "MONAI_LABEL_SESSION_PATH", "MONAI_LABEL_DICOMWEB_CACHE_PATH", "PYTHONPATH"):
        assert environment[name].startswith("/app")
    assert environment["PATH"].split(os.pathsep)[0].endswith(".venv-label/bin")
    assert environment["HOME"] == os.environ["HOME"]


@pytest.mark.parametrize(
    ("host", "is_own"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("pc", False)]
)
def test_loopback_is_told_from_the_rest(host, is_own):
    assert label_server._is_loopback(host) is is_own


def test_start_replaces_the_process_and_warns_off_loopback(trained, tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(label_server, "is_complete", lambda: True)
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    monkeypatch.chdir(tmp_path)
    place = ["--model_dir", str(trained), "--app_dir", str(tmp_path / "app")]
    main(["kcbac_mmwhs", *place, "--host", "0.0.0.0", "--port", "0"])
    ((python, command, environment),) = started
    assert python.endswith(".venv-label/bin/python")
    assert str(tmp_path / "app" / "studies") in command
    assert environment["TMPDIR"] == str(tmp_path / "app" / "tmp")
    assert Path.cwd() == tmp_path / "app" / "work"
    assert "can be reached from other machines" in capsys.readouterr().err
