import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, SaveImaged
from PIL import Image

from common.data.writers import atomic_path, image_writer
from common.errors import InputError

# Rotated by 30 degrees about z, voxels of 0.5 x 0.8 x 2.5 mm, first axis mirrored.
COS, SIN = np.cos(np.pi / 6), np.sin(np.pi / 6)
OBLIQUE = np.array(
    [[-0.5 * COS, -0.8 * SIN, 0, 11], [-0.5 * SIN, 0.8 * COS, 0, -7], [0, 0, 2.5, 3], [0, 0, 0, 1]]
)


def write_half(path, error):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


def test_file_appears_only_when_complete_and_keeps_its_suffix(tmp_path):
    target = tmp_path / "new" / "case.nii.gz"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"abc")
        assert temporary.name.endswith(".case.nii.gz")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["case.nii.gz"]
    assert target.read_bytes() == b"abc"


def test_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "state.pt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half(target, KeyboardInterrupt())
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert target.read_text() == "old"


def test_full_disk_names_file_and_free_space(tmp_path):
    with pytest.raises(InputError, match=r"a\.txt: .*No space left on device.*MiB free"):
        write_half(tmp_path / "a.txt", OSError(28, "No space left on device"))
    assert not list(tmp_path.iterdir())


def test_folder_that_is_a_file_is_an_input_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"), atomic_path(tmp_path / "file" / "a.txt"):
        pass


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", "nii.gz"])
def test_saved_nifti_has_the_geometry_of_its_source(tmp_path, extension):
    source = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    nib.save(nib.Nifti1Image(source, OBLIQUE), tmp_path / "scan.nii.gz")
    image = LoadImage(ensure_channel_first=True)(tmp_path / "scan.nii.gz")
    save = SaveImaged(
        "pred",
        output_dir=tmp_path / "out",
        output_ext=extension,
        output_postfix="seg",
        output_dtype="uint8",
        separate_folder=False,
        resample=False,
        writer=image_writer(extension),
        savepath_in_metadict=True,
        print_log=False,
    )
    saved_to = save({"pred": image})["pred"].meta["saved_to"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"scan_seg.{extension.lstrip('.')}"]
    saved = nib.load(saved_to)
    assert np.allclose(saved.affine, OBLIQUE, atol=1e-6)
    assert np.allclose(saved.get_qform(), OBLIQUE, atol=1e-5)
    assert np.array_equal(np.asarray(saved.dataobj), source)
    assert saved.get_data_dtype() == np.uint8


def test_saved_png_has_the_pixels_of_its_source(tmp_path):
    mask = np.array([[0, 1, 2, 0], [3, 3, 0, 1], [0, 0, 0, 255]], dtype=np.uint8)
    Image.fromarray(mask).save(tmp_path / "scan.png")
    image = LoadImage(ensure_channel_first=True)(tmp_path / "scan.png")
    save = SaveImaged(
        "pred",
        output_dir=tmp_path / "out",
        output_ext=".png",
        output_dtype="uint8",
        separate_folder=False,
        resample=False,
        writer=image_writer(".png"),
        print_log=False,
    )
    save({"pred": image})
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "scan_trans.png")), mask)


def test_failed_writing_leaves_no_half_file(tmp_path, monkeypatch):
    def fail(image, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", fail)
    writer = image_writer(".nii.gz")(output_dtype=np.uint8)
    writer.set_data_array(MetaTensor(torch.zeros(1, 2, 2, 2)))
    writer.set_metadata({"affine": np.eye(4)}, resample=False)
    with pytest.raises(InputError, match="No space left"):
        writer.write(tmp_path / "seg.nii.gz")
    assert not list(tmp_path.iterdir())


def test_unknown_extension_is_refused():
    with pytest.raises(InputError, match=r"output_ext: expected one of \.nii, .* found '\.mha'"):
        image_writer(".mha")
