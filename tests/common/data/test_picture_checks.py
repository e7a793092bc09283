import os

import numpy as np
import pytest
from PIL import Image

from common.data import checks
from common.data.checks import check_cases
from common.data.picture_reader import PictureReader
from common.errors import InputError

SETTINGS = {
    "num_classes": 2,
    "in_channels": 3,
    "spatial_dims": 2,
    "label_codes": "gray",
    "image_reader": PictureReader(3),
    "label_reader": PictureReader(1),
}


def check(case, **changes):
    check_cases([case], **SETTINGS | changes)


def only_problem(case, **changes):
    with pytest.raises(InputError, match=r"^data check: 1 problem") as error:
        check(case, **changes)
    return str(error.value).splitlines()[1].removeprefix("  - ")


@pytest.fixture
def picture(tmp_path):
    """A gray picture with two gray masks, which overlap nowhere."""
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "a.png")
    for row in (0, 1):
        Image.fromarray((np.arange(20).reshape(4, 5) // 5 == row) * np.uint8(200)).save(
            tmp_path / f"m{row}.png"
        )
    return {
        "id": "a",
        "image": str(tmp_path / "a.png"),
        "label": [str(tmp_path / f"m{i}.png") for i in (0, 1)],
    }


def test_gray_masks_of_one_picture(picture):
    check(picture)
    with pytest.raises(InputError, match=r"m0\.png, .*m1\.png: expected a label with one channel"):
        check(picture, label_codes=[200])
    with pytest.raises(InputError, match="label_codes: expected 2 classes"):
        check(picture, num_classes=3)
    Image.fromarray(np.eye(4, 5, dtype=np.uint8)).save(picture["label"][1])
    assert "m1.png: expected gray values 0 to 255, found a mask with none above 1;" in only_problem(picture)


def test_every_file_of_a_list_is_checked(picture):
    first, second = picture["label"]
    Image.fromarray(np.zeros((5, 4), np.uint8)).save(second)
    assert only_problem(picture).startswith(f"{second}: expected 5 x 4 pixels and 1 channel(s)")
    Image.fromarray(np.zeros((5, 4), np.uint8)).save(first)
    assert only_problem(picture) == (
        f"{first}, {second}: expected the shape (5, 4) of its image, found (4, 5)"
    )
    os.remove(second)
    assert only_problem(picture) == f"{second}: no such file"


def test_mask_of_a_turned_photograph(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 4)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("L", (4, 5)).save(tmp_path / "mask.png")
    case = {"id": "a", "image": str(tmp_path / "a.jpg"), "label": str(tmp_path / "mask.png")}
    check(case)
    assert "expected the shape (5, 4)" in only_problem(case, image_reader=None)


def test_table_of_codes(picture):
    label = picture["label"][0]
    check(picture | {"label": label}, label_codes={200: 0, 0: 1})
    assert "expected label values 0, 201, found also 200 in 5" in only_problem(
        picture | {"label": label}, label_codes={201: 0, "0": 1}
    )


def test_receipt_knows_readers_codes_and_every_file(picture, tmp_path, monkeypatch):
    read = []
    read_image = checks.read_image
    monkeypatch.setattr(checks, "read_image", lambda *args: (read.append(args[0]), read_image(*args))[1])
    receipt = {"receipt_file": tmp_path / "receipt.json"}
    everything = [picture["image"], picture["label"]]
    changes = [{}, {"image_reader": PictureReader(1), "in_channels": 1}, {"label_reader": None}, {}]
    for change in changes:
        for expected in (everything, []):
            check(picture, **receipt | change)
            assert read == expected
            read.clear()
    os.utime(picture["label"][1], ns=(1, 1))
    check(picture, **receipt)
    assert read == everything
    with pytest.raises(InputError, match="differ"):
        check(picture, **receipt | {"label_codes": [200]})
