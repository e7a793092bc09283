import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from common.data.image_files import image_id, image_problems, is_nifti, joined, list_images, read_image
from common.data.picture_reader import PictureReader
from common.errors import InputError


def test_names():
    assert image_id("/a/case.1.nii.gz") == "case.1"
    assert image_id("b.JPG") == "b"
    assert image_id("notes.txt") == "notes.txt"
    assert is_nifti("a.NII.GZ")
    assert not is_nifti("a.png")
    assert joined(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


def test_listing_leaves_out_hidden_files_folders_and_others(tmp_path):
    for name in ("b.png", "a.nii.gz", "._a.nii.gz", "c.csv"):
        (tmp_path / name).touch()
    (tmp_path / "d.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.nii.gz", "b.png"]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
def test_all_picture_kinds_are_read_alike(tmp_path, suffix):
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    color = np.stack([gray, gray + 1, gray + 2], axis=-1)
    for name, pixels in {"gray": gray, "color": color}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}{suffix}")
    assert np.array_equal(read_image(tmp_path / f"gray{suffix}").numpy(), gray.T[None])
    assert np.array_equal(read_image(tmp_path / f"color{suffix}").numpy(), color.transpose(2, 1, 0))


def damaged_files(folder):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(9, 9, 9)), np.eye(4)), folder / "a.nii.gz")
    content = (folder / "a.nii.gz").read_bytes()
    (folder / "truncated.nii.gz").write_bytes(content[: len(content) // 2])
    (folder / "text.nii.gz").write_text("not an image")
    (folder / "text.nii").write_text("not an image")
    (folder / "text.png").write_text("not an image")
    (folder / "empty.nii.gz").touch()
    return sorted([*folder.glob("te*"), *folder.glob("tr*"), *folder.glob("em*")])


def test_unreadable_files_are_input_errors_with_their_name(tmp_path):
    for path in [*damaged_files(tmp_path), tmp_path / "absent.nii.gz"]:
        with pytest.raises(InputError, match=f"^{path}: "):
            read_image(path)


def test_several_files_of_one_case_become_channels(tmp_path):
    mask = np.eye(3, 4, dtype=np.uint8)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, values in zip(paths, (mask, 2 * mask)):
        Image.fromarray(values).save(path)
    for reader in (None, PictureReader(None)):
        assert np.array_equal(read_image(paths, reader).numpy(), np.stack([mask.T, 2 * mask.T]))
    with pytest.raises(InputError, match=f"^{tmp_path / 'c.png'}: no such file"):
        read_image([*paths, tmp_path / "c.png"])
    Image.fromarray(mask[:2]).save(paths[1])
    with pytest.raises(InputError, match=f"^{paths[0]}, {paths[1]}: expected a readable image, found"):
        read_image(paths)
    with pytest.raises(InputError, match="expected an image file, found none"):
        read_image([])


def test_reader_decides_what_is_refused(tmp_path):
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).convert("CMYK").save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").shape == (4, 4, 3)
    with pytest.raises(
        InputError, match=f"^{tmp_path / 'a.tif'}: expected label values .*, found mode CMYK$"
    ):
        read_image(tmp_path / "a.tif", PictureReader(None))


def test_everything_wrong_with_an_image_is_reported():
    image = torch.zeros(1, 3, 4)
    assert image_problems(image, "a.png", in_channels=1, spatial_dims=2) == []
    image[0, 0, :2] = torch.tensor([float("nan"), float("inf")])
    assert image_problems(image, "a.png", in_channels=3, spatial_dims=3) == [
        "a.png: expected 3 spatial axes, found 2 (3, 4)",
        "a.png: expected 3 channel(s), found 1",
        "a.png: expected finite values, found 2 NaN or Inf voxel(s)",
    ]
