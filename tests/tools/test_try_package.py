"""The steps of a try, in their order, with a stand-in for the commands; what fails stops it."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from common.data.dicom_seg import Algorithm, Segment, write_dicom_seg
from common.data.image_files import read_image
from common.data.segment_terms import terms_of
from common.errors import InputError
from tests.helpers.dicom import write_series
from tests.helpers.dicom_seg import NO_HIGHDICOM
from tools import try_package as module
from tools.transcript import Transcript
from tools.try_package import Request, main, try_package


class Machine:
    """Does what the commands would do, and notes the kind of each."""

    def __init__(self, results, answer=None, fail=None):
        self.results, self.answer, self.fail = results, answer, fail
        self.steps, self.commands = [], []

    def __call__(self, command, folder, environment):
        kinds = {
            "tools/package_bundle.py": self.pack,
            "zipfile": self.unzip if "-e" in command else self.zip,
            "venv": self.venv,
            "pip": self.nothing,
            "-c": self.nothing,
            "monai.bundle": self.infer,
            "PUT": self.upload,
            "POST": self.ask,
        }
        kind = next(word for word in kinds if word in command)
        self.steps.append(kind)
        self.commands.append((command, folder))
        if kind == self.fail:
            return 1, "this went wrong"
        return 0, kinds[kind](command) or ""

    def nothing(self, command):
        """Nothing is left behind."""

    def pack(self, command):
        dist = Path(command[-1])
        dist.mkdir(parents=True)
        (dist / "toy-0.1.0.zip").write_bytes(b"1234")

    def unzip(self, command):
        for name, text in (("configs/inference.json", {"class_names": ["liver"]}), ("models/model.pt", 0)):
            file = Path(command[-1], "toy", name)
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(text))

    def zip(self, command):
        Path(command[-2]).write_bytes(b"")

    def venv(self, command):
        Path(command[-1], "bin").mkdir(parents=True)
        Path(command[-1], "bin", "python").touch()

    def infer(self, command):
        output = Path(command[command.index("--output_dir") + 1])
        output.mkdir(exist_ok=True)
        for result in self.results:
            shutil.copy(result, output / result.name)
        return "2026-01-02 03:04:05,678 INFO x - loaded weights from models/model.pt\nmore"

    def upload(self, command):
        return json.dumps({"session_id": "1f-2e"})

    def ask(self, command):
        shutil.copy(self.answer, command[-1])


@pytest.fixture
def volume(tmp_path):
    """Image, its mask, and the request for both."""
    mask = np.random.default_rng(0).integers(0, 2, (3, 4, 5)).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask * 7, np.eye(4)), tmp_path / "scan.nii.gz")
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "scan_seg.nii.gz")
    return Request("toy", tmp_path / "models", tmp_path / "scan.nii.gz"), tmp_path / "scan_seg.nii.gz", mask


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def figures_of(request, work, machine):
    transcript = Transcript(run_command=machine)
    return dict(try_package(request, work, transcript)), transcript


def test_steps_come_in_their_order_in_the_folder_of_the_package(volume, work):
    request, seg, mask = volume
    machine = Machine([seg])
    figures, transcript = figures_of(request, work, machine)
    assert machine.steps == ["tools/package_bundle.py", "zipfile", "venv", "pip", "-c", "monai.bundle"]
    assert figures["voxels"] == str(int(mask.sum()))
    assert figures["environment"] == "new"
    assert "differing voxels" not in figures  # nothing to compare with
    folders = [folder for _, folder in machine.commands]
    assert folders[-1] == work / "elsewhere" / "toy"
    assert folders[-2] == work / "environment"  # where `common` of the package cannot be seen
    command = machine.commands[-1][0]
    assert command[0] == str(work / "environment" / "bin" / "python")
    assert "--dicom_seg" not in command
    assert "['configs/inference.json']" in command  # this training left no settings
    text = module.as_page("toy", list(figures.items()), transcript)
    assert str(work.parent) not in text
    assert sys.executable not in text
    assert "loaded weights from models/model.pt\n" in text
    assert "more" not in text


def test_environment_that_exists_is_used_again(volume, work, tmp_path):
    request, seg, _ = volume
    machine = Machine([seg])
    machine.venv(["", str(tmp_path / "mine")])
    figures, _ = figures_of(Request(**{**vars(request), "environment": tmp_path / "mine"}), work, machine)
    assert "venv" not in machine.steps
    assert figures["environment"] == "used again"


def test_series_gives_a_seg_that_is_read_back_and_the_same_answer_of_the_server(work, tmp_path):
    pytest.importorskip("highdicom", reason=NO_HIGHDICOM)
    series, seg = tmp_path / "scan", tmp_path / "scan_seg.dcm"
    write_series(series, FrameOfReferenceUID="1.9", PatientID="1", StudyID="1")
    mask, affine = np.ones((6, 4, 4), np.uint8), read_image(series).affine.numpy()
    mask_path = tmp_path / "scan_seg.nii.gz"
    nib.save(nib.Nifti1Image(mask, affine), mask_path)
    segments = [Segment(1, "liver", terms_of(["liver"])[0])]
    write_dicom_seg(mask, affine, series, segments, Algorithm("toy", "1"), seg)
    machine = Machine([mask_path, seg], mask_path)
    request = Request("toy", tmp_path / "models", series, mask_path, None, "http://127.0.0.1:1/")
    figures, transcript = figures_of(request, work, machine)
    assert machine.steps[3:6] == ["pip", "pip", "-c"]
    assert machine.steps[6:] == ["monai.bundle", "zipfile", "PUT", "POST"]
    highdicom = machine.commands[4][0]
    assert re.fullmatch(r"highdicom==[\d.]+", highdicom[-4])
    assert highdicom[-2:] == ["-c", "requirements.txt"]
    assert "http://127.0.0.1:1/infer/toy?session_id=1f-2e&output=image" in machine.commands[-1][0]
    # By hand: 6 * 4 * 4 voxels, all of one class.
    assert (figures["voxels"], figures["differing voxels"]) == ("96", "0")
    assert figures["differing voxels of MONAI Label"] == "0"
    assert figures["Dice"] == "liver 1.0000"
    assert "session_id=SESSION" in "".join(transcript.entries)


def test_picture_goes_to_the_server_as_it_is_and_other_answers_are_refused(work, tmp_path):
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 255
    for name, values in (("1.png", mask), ("1_seg.png", mask), ("answer.png", np.roll(mask, 1))):
        Image.fromarray(values).save(tmp_path / name)
    request = Request("toy", tmp_path, tmp_path / "1.png", label_server="http://127.0.0.1:1")
    machine = Machine([tmp_path / "1_seg.png"], tmp_path / "1_seg.png")
    assert figures_of(request, work, machine)[0]["differing voxels of MONAI Label"] == "0"
    assert f"file=@{tmp_path / '1.png'}" in machine.commands[-1][0]
    shutil.rmtree(work)
    # By hand: two rows of three pixels move by one, so two of each change.
    with pytest.raises(InputError, match="expected the mask of the package, found 6 voxels, 4 differ"):
        figures_of(request, work, Machine([tmp_path / "1_seg.png"], tmp_path / "answer.png"))


@pytest.mark.parametrize("step", ["tools/package_bundle.py", "zipfile", "venv", "pip", "-c", "monai.bundle"])
def test_failing_step_ends_it(volume, work, step):
    request, seg, _ = volume
    machine = Machine([seg], fail=step)
    with pytest.raises(InputError, match="ended with exit code 1:\nthis went wrong"):
        figures_of(request, work, machine)
    assert machine.steps[-1] == step


def test_mask_of_another_size_and_no_mask_are_refused(volume, work, tmp_path):
    request, seg, _ = volume
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 4), np.uint8), np.eye(4)), seg)
    with pytest.raises(InputError, match=r"size \(3, 4, 5\) of the image, found \(3, 4, 4\)"):
        figures_of(request, work, Machine([seg]))
    shutil.rmtree(work)
    with pytest.raises(InputError, match="expected one mask and, of a series, one DICOM SEG, found none"):
        figures_of(request, work, Machine([]))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--image", "gone.nii", "gone.nii: expected a file or folder, found none"),
        ("--reference", "gone.nii", f"--reference {Path.cwd() / 'gone.nii'}: expected"),
        ("--label_server", "127.0.0.1:8000", "--label_server 127.0.0.1:8000: expected http://"),
        ("--work_dir", str(module.REPOSITORY / "dist" / "inside"), "expected a folder outside of"),
        ("--work_dir", os.sep, "expected a new folder, found one that exists"),
    ],
)
def test_wrong_requests_end_with_one_line_before_anything_is_run(
    volume, tmp_path, option, value, message, capsys, monkeypatch
):
    monkeypatch.setattr(module, "Transcript", lambda: Transcript(run_command=Machine([], fail="-m")))
    words = ["toy", "--model_dir", "m", "--image", str(volume[0].image)]
    words += ["--transcript", str(tmp_path / "out.md"), option, value]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out.md").exists()
    assert not (module.REPOSITORY / "dist" / "inside").exists()


def test_transcript_appears_whole_or_not_at_all(volume, tmp_path, monkeypatch, capsys):
    request, seg, _ = volume
    words = ["toy", "--model_dir", "m", "--image", str(request.image), "--transcript", str(tmp_path / "t.md")]
    for fail, code in (("monai.bundle", 1), (None, 0)):
        monkeypatch.setattr(
            module, "Transcript", lambda fail=fail: Transcript(run_command=Machine([seg], fail=fail))
        )
        assert main(words) == code
        assert (tmp_path / "t.md").exists() == (code == 0)
    text = (tmp_path / "t.md").read_text()
    assert text.startswith("## `toy`\n\n| | |\n|---|---|\n| package | toy-0.1.0.zip, 0.0 MB |\n")
    assert "1. Pack (" in text


def test_versions_are_those_of_the_constraints():
    assert module._pinned(("highdicom", "pyjpegls")) == ["highdicom==0.28.2", "pyjpegls==1.5.1"]


def test_look_for_the_repository_fails_where_it_is(tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").touch()
    code, printed = Transcript().run_command(
        [sys.executable, "-S", "-c", module.ISOLATION, "torch"], tmp_path, {}
    )
    assert code == 1
    assert "found here: tools" in printed
