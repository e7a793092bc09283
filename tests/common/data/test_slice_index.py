"""Counts per slice, kept in a file as long as the files they come from stay the same."""

import json
import os

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from common.data import slice_index as module
from common.data.picture_reader import PictureReader
from common.data.slice_index import slice_index
from common.errors import InputError

IPL = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [-4, 0, 0, 0], [0, 0, 0, 1]], float)


def save(path, voxels, affine=IPL):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(voxels), affine), path)
    return str(path)


@pytest.fixture
def cases(tmp_path):
    """Labels 1 and 2 in the four slices, which lie from head to foot: of 1 there are 6, 3, 0 and 1 voxels."""
    labels = np.zeros((4, 3, 5), np.uint8)
    labels[0, :2, :3] = 1
    labels[1, 0, :3] = 1
    labels[1, 1, :2] = 2
    labels[3, 2, 4] = 1
    image = np.arange(60, dtype=np.int16).reshape(4, 3, 5)
    both = {
        "image": save(tmp_path / "a/image.nii.gz", image),
        "label": save(tmp_path / "a/label.nii.gz", labels),
    }
    return [{"id": "a", **both}, {"id": "b", "image": save(tmp_path / "b/image.nii.gz", image)}]


@pytest.fixture
def reads(monkeypatch):
    """Paths that were read since the test began."""
    seen = []

    def noted(path, reader=None):
        seen.append(os.path.basename(path) if isinstance(path, str) else path)
        return read_image(path, reader)

    read_image = module.read_image
    monkeypatch.setattr(module, "read_image", noted)
    return seen


def test_counts_run_from_foot_to_head(cases):
    index = slice_index(cases, 3)
    assert index["a"].counts.tolist() == [[1, 0, 3, 6], [0, 0, 2, 0]]
    assert index["a"].counts.dtype == np.int64
    assert (index["b"].num_slices, index["b"].counts, index["b"].mean) == (4, None, None)


def test_classes_follow_the_codes(cases):
    assert slice_index(cases, 2, [[1, 2]])["a"].counts.tolist() == [[1, 0, 5, 6]]
    assert slice_index(cases, 2, {0: 0, 1: 0, 2: 1})["a"].counts.tolist() == [[0, 0, 2, 0]]


def test_another_axis(cases):
    # The third array axis runs to the left, slices are counted to the right: columns 4 to 0.
    assert slice_index(cases, 2, [[1, 2]], slice_axis=2)["a"].counts.tolist() == [[1, 0, 3, 4, 4]]


def test_pictures_have_one_slice(tmp_path):
    gray = np.zeros((2, 3), np.uint8)
    gray[0] = (127, 128, 255)
    for name in ("image", "label"):
        Image.fromarray(gray).save(tmp_path / f"{name}.png")
    Image.fromarray(np.flip(gray, 1)).save(tmp_path / "second.png")
    case = {"id": "p", "image": str(tmp_path / "image.png"), "label": str(tmp_path / "label.png")}
    readers = {"image_reader": PictureReader(3), "label_reader": PictureReader(None)}
    index = slice_index([case], 2, "gray", with_intensities=True, **readers)
    assert (index["p"].num_slices, index["p"].counts.tolist()) == (1, [[2]])
    assert index["p"].mean == (170.0, 170.0, 170.0)
    several = case | {"label": [case["label"], str(tmp_path / "second.png")]}
    assert slice_index([several], 2, "gray", **readers)["p"].counts.tolist() == [[3]]
    assert slice_index([case], 4, {0: 0, 127: 1, 128: 2, 255: 3})["p"].counts.tolist() == [[1], [1], [1]]


def test_intensities_by_hand(tmp_path):
    # Of 0, 2, 4, 6 the last three count: mean 4, deviation sqrt((4 + 0 + 4) / 3). Nothing but 0: 0 and 0.
    first = save(tmp_path / "t1.nii.gz", np.array([[[0, 2, 4, 6]]], np.float32))
    second = save(tmp_path / "t2.nii.gz", np.zeros((1, 1, 4), np.float32))
    volume = slice_index([{"id": "c", "image": [first, second]}], 2, with_intensities=True)["c"]
    assert volume.mean == (4.0, 0.0)
    assert volume.std == pytest.approx(((8 / 3) ** 0.5, 0.0))


def test_files_are_read_once(cases, tmp_path, reads):
    file = tmp_path / "run" / "index.json"
    first = slice_index(cases, 3, index_file=file)
    assert reads == ["label.nii.gz"]
    again = slice_index(cases, 3, index_file=file)
    assert reads == ["label.nii.gz"]
    assert again["a"].counts.tolist() == first["a"].counts.tolist()
    assert again["a"].counts.dtype == np.int64
    assert again["b"] == first["b"]
    slice_index(cases[:0], 3, index_file=file)
    slice_index(cases[1:], 3, index_file=file)
    assert list(json.loads(file.read_text())["volumes"]) == ["a", "b"]


def test_a_changed_file_is_read_again(cases, tmp_path, reads):
    file = tmp_path / "index.json"
    other = cases[0] | {"id": "other", "label": save(tmp_path / "other.nii.gz", np.ones((4, 3, 5), np.uint8))}
    slice_index([*cases, other], 3, index_file=file)
    reads.clear()
    save(tmp_path / "a" / "label.nii.gz", np.ones((4, 3, 5), np.uint8))
    index = slice_index([*cases, other], 3, index_file=file)
    assert reads == ["label.nii.gz"]
    assert index["a"].counts.tolist() == [[15] * 4, [0] * 4]
    # An image that changed counts too: its slices may have become others.
    os.utime(cases[0]["image"], ns=(1, 1))
    slice_index(cases, 3, index_file=file)
    assert reads == ["label.nii.gz"] * 2


@pytest.mark.parametrize(
    "other", [{"num_classes": 2, "label_codes": [[1, 2]]}, {"slice_axis": 1}, {"with_intensities": True}]
)
def test_other_settings_read_everything_again(cases, tmp_path, reads, other):
    file = tmp_path / "index.json"
    slice_index(cases, num_classes=3, index_file=file)
    reads.clear()
    index = slice_index(cases, **{"num_classes": 3, "index_file": file, **other})
    assert "label.nii.gz" in reads
    assert (
        index["a"].counts.tolist() == slice_index(cases, **{"num_classes": 3, **other})["a"].counts.tolist()
    )


@pytest.mark.parametrize("content", ["", "{}", '{"settings": 1, "volumes": {}}', "[1]"])
def test_a_damaged_index_is_made_anew(cases, tmp_path, content):
    file = tmp_path / "index.json"
    file.write_text(content)
    assert slice_index(cases, 3, index_file=file)["a"].counts.tolist() == [[1, 0, 3, 6], [0, 0, 2, 0]]
    assert "volumes" in json.loads(file.read_text())


def test_all_problems_are_told_at_once_and_good_files_kept(cases, tmp_path, reads):
    odd = cases[0] | {"id": "odd", "label": save(tmp_path / "odd.nii.gz", np.full((4, 3, 5), 7, np.uint8))}
    short = cases[0] | {
        "id": "short",
        "label": save(tmp_path / "short.nii.gz", np.zeros((3, 3, 5), np.uint8)),
    }
    turned = cases[0] | {
        "id": "t",
        "label": save(tmp_path / "t.nii.gz", np.zeros((4, 3, 5), np.uint8), np.eye(4)),
    }
    gone = cases[0] | {"id": "gone", "label": str(tmp_path / "gone.nii.gz")}
    file = tmp_path / "index.json"
    with pytest.raises(InputError, match=r"slice index: 4 problem\(s\)") as caught:
        slice_index([*cases, odd, short, turned, gone], 3, index_file=file)
    for part in (
        "odd.nii.gz: expected label values 0, 1, 2, found also 7",
        "short.nii.gz: expected slices as in the image",
        "t.nii.gz: expected slices as in the image",
        "gone.nii.gz: expected a NIfTI file, found FileNotFoundError",
    ):
        assert part in str(caught.value)
    reads.clear()
    slice_index(cases, 3, index_file=file)
    assert reads == []


def test_codes_are_checked_before_anything_is_read(cases, reads):
    with pytest.raises(InputError, match="label_codes"):
        slice_index(cases, 3, [1])
    assert reads == []
