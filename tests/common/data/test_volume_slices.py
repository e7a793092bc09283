"""Single slices equal those of the whole volume turned to RAS, whatever the axes of the file."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, Orientation
from PIL import Image

from common.data.picture_reader import PictureReader
from common.data.volume_slices import SliceGrid, read_slice, slice_grid
from common.errors import InputError

SIZES_MM = {"R": 1.5, "A": 2.0, "S": 5.0}
OPPOSITE = dict(zip("LPI", "RAS"))
CODES = ["RAS", "LPS", "IPL", "SAL", "PIR", "ALI"]


def affine_of(codes):
    """Affine whose array axes run along ``codes``, with the edge lengths of SIZES_MM."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, code in enumerate(codes):
        name = OPPOSITE.get(code, code)
        affine["RAS".index(name), column] = SIZES_MM[name] * (1 if name == code else -1)
    affine[:3, 3] = (10, -20, 30)
    return affine


def write(path, shape=(3, 4, 5), codes="RAS", dtype=np.int16, affine=None):
    """A volume in which every voxel has its own value."""
    voxels = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    nib.save(nib.Nifti1Image(voxels, affine_of(codes) if affine is None else affine), path)
    return path


def turned(path):
    """The whole volume as networks of volumes get it."""
    return Orientation("RAS", labels=None)(LoadImage(image_only=True, ensure_channel_first=True)(path))


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slices_equal_those_of_the_turned_volume(tmp_path, codes, suffix):
    path = write(tmp_path / f"a{suffix}", codes=codes)
    volume = turned(path)
    grid = slice_grid(path)
    assert grid.num_slices == volume.shape[-1]
    for index in range(grid.num_slices):
        found = read_slice(path, index)
        assert found.dtype == torch.float32
        assert torch.equal(found.as_tensor(), volume[..., index].as_tensor())
        # The first voxel of the slice lies where it does in the volume.
        position = volume.affine @ torch.tensor([0, 0, index, 1.0], dtype=torch.float64)
        torch.testing.assert_close(found.affine[:, 3], position)
        assert found.pixdim.tolist()[:2] == pytest.approx([1.5, 2.0])


def test_kits19_files_by_hand(tmp_path):
    # Array axes to foot, back and left: slice 0 is the one nearest to the foot, the last along axis 0; X to
    # the right and Y to the front turn both other axes round and swap them.
    path = write(tmp_path / "a.nii.gz", (2, 2, 3), "IPL")
    assert slice_grid(path) == SliceGrid(0, True, 2)
    assert np.arange(12).reshape(2, 2, 3)[1].tolist() == [[6, 7, 8], [9, 10, 11]]
    assert read_slice(path, 0)[0].tolist() == [[11, 8], [10, 7], [9, 6]]
    assert read_slice(path, 1)[0].tolist() == [[5, 2], [4, 1], [3, 0]]
    assert slice_grid(write(tmp_path / "b.nii.gz", (2, 2, 3), "LPS")) == SliceGrid(2, False, 3)


@pytest.mark.data
def test_official_kits19_labels_have_their_slices_across_axis_0(real_data):
    files = sorted((real_data / "kits19_labels_3d").glob("*.nii.gz"))
    assert files
    assert {slice_grid(file)[:2] for file in files} == {(0, True)}


@pytest.mark.parametrize("codes", ["RAS", "IPL", "PIR"])
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_another_axis_may_be_asked_for(tmp_path, codes, slice_axis):
    path = write(tmp_path / "a.nii.gz", codes=codes)
    across = "RAS".index(OPPOSITE.get(codes[slice_axis], codes[slice_axis]))
    volume = turned(path)
    grid = slice_grid(path, slice_axis)
    assert grid == SliceGrid(slice_axis, codes[slice_axis] in OPPOSITE, (3, 4, 5)[slice_axis])
    for index in range(grid.num_slices):
        found = read_slice(path, index, slice_axis)
        assert torch.equal(found.as_tensor(), volume.as_tensor().select(across + 1, index))
        edges_mm = [size for axis, size in enumerate(SIZES_MM.values()) if axis != across]
        assert found.pixdim.tolist()[:2] == pytest.approx(edges_mm)


def test_channels_of_one_file_and_of_several(tmp_path):
    four = write(tmp_path / "four.nii.gz", (3, 4, 5, 2), "IPL")
    found = read_slice(four, 2)
    assert torch.equal(found.as_tensor(), turned(four)[..., 2].as_tensor())
    assert found.shape == (2, 5, 4)
    one, other = (
        write(tmp_path / f"{name}.nii", codes="LPS", dtype=t) for name, t in (("a", "u1"), ("b", "f4"))
    )
    assert torch.equal(read_slice([one, other], 1), torch.cat([read_slice(one, 1), read_slice(other, 1)]))


def test_scaled_voxels(tmp_path):
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "a.nii.gz")
    assert read_slice(tmp_path / "a.nii.gz", 1)[0].tolist() == [[-2.5, -1.5], [-0.5, 0.5]]


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 1, 4)])
def test_nifti_of_a_single_slice(tmp_path, shape):
    path = write(tmp_path / "a.nii.gz", shape)
    assert slice_grid(path).num_slices == 1
    assert read_slice(path)[0].tolist() == np.arange(12).reshape(3, 4).tolist()


def test_pictures_are_single_slices(tmp_path):
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).save(tmp_path / "a.png")
    assert slice_grid(tmp_path / "a.png") == slice_grid([tmp_path / "a.png"], 2) == SliceGrid(-1, False, 1)
    for index in (None, 0):
        found = read_slice(tmp_path / "a.png", index, reader=PictureReader(3))
        assert found.shape == (3, 3, 2)  # X before Y
        assert found[0].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_metadata_belong_to_the_slice(tmp_path):
    path = write(tmp_path / "a.nii.gz", codes="IPL")
    found = read_slice(path, 0)
    assert isinstance(found, MetaTensor)
    assert found.meta["filename_or_obj"] == str(path)
    assert found.meta["spatial_shape"].tolist() == [5, 4]
    assert np.array_equal(found.meta["original_affine"], found.affine)


@pytest.mark.parametrize("index", [-1, 5, None])
def test_slices_that_are_not_there(tmp_path, index):
    with pytest.raises(InputError, match=f"a.nii: expected a slice from 0 to 4, found {index}"):
        read_slice(write(tmp_path / "a.nii"), index)
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="expected a slice from 0 to 0, found 3"):
        read_slice(tmp_path / "a.png", 3)


def test_files_that_do_not_belong_together(tmp_path):
    one = write(tmp_path / "one.nii")
    with pytest.raises(InputError, match=r"two.nii: expected the slice shape \(3, 4\) .* found \(4, 3\)"):
        read_slice([one, write(tmp_path / "two.nii", (4, 3, 5))], 0)
    with pytest.raises(InputError, match=r"two.nii: .* found \(3, 4\) with another affine"):
        read_slice([one, write(tmp_path / "two.nii", affine=np.diag([1, 2, 5, 1]))], 0)


def test_unusable_files(tmp_path):
    with pytest.raises(InputError, match="a.nii: expected a NIfTI file, found FileNotFoundError"):
        read_slice(tmp_path / "a.nii", 0)
    cut = write(tmp_path / "cut.nii.gz", (30, 40, 50))
    cut.write_bytes(cut.read_bytes()[:3000])
    with pytest.raises(InputError, match="cut.nii.gz: expected a readable image, found"):
        read_slice(cut, 49)
    cut.write_bytes(gzip.compress(b"nothing"))
    with pytest.raises(InputError, match="cut.nii.gz: expected a NIfTI file"):
        slice_grid(cut)
    with pytest.raises(InputError, match="expected 2 or 3 spatial axes and channels, found shape"):
        slice_grid(write(tmp_path / "a.nii", (2, 2, 2, 2, 2)))
    flat = nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4))
    flat.set_sform(np.diag([1, 1, 0, 1]), 1)
    nib.save(flat, tmp_path / "flat.nii")
    with pytest.raises(InputError, match="flat.nii: expected an affine with three directions"):
        read_slice(tmp_path / "flat.nii", 0)
    with pytest.raises(InputError, match="slice_axis: expected 0, 1, 2 or null .*, found 3"):
        slice_grid(write(tmp_path / "a.nii"), 3)
    np.save(tmp_path / "volume.npy", np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match="volume.npy: expected NIfTI or pictures, found a volume"):
        read_slice(tmp_path / "volume.npy", 0)
