"""A slice with its neighbors, and all slices as views of one volume."""

import nibabel as nib
import numpy as np
import pytest
import torch

from common.data.slice_stacks import check_neighbors, slice_counts, slice_stack, slice_stacks
from common.errors import InputError
from tests.helpers.dicom import write_series


def copied_stack(volume, index, neighbors):
    """The same by explicit copies."""
    last = volume.shape[-1] - 1
    slices = [volume[..., min(max(index + offset, 0), last)] for offset in range(-neighbors, neighbors + 1)]
    return torch.stack(slices, dim=-3)


def test_stack_by_hand():
    """Slices 10, 20, 30: the lowest slice stands in for the one below it, and foot comes before head."""
    volume = torch.tensor([10.0, 20.0, 30.0]).expand(2, 2, 3)
    assert slice_stack(volume, 0, 1)[:, 0, 0].tolist() == [10, 10, 20]
    assert slice_stack(volume, 1, 1)[:, 0, 0].tolist() == [10, 20, 30]
    assert slice_stack(volume, 2, 1)[:, 0, 0].tolist() == [20, 30, 30]
    assert slice_stack(volume, 1, 3)[:, 0, 0].tolist() == [10, 10, 10, 20, 30, 30, 30]


@pytest.mark.parametrize("neighbors", [0, 1, 3])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 4, 1), (4, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_views_equal_copies_bit_by_bit(neighbors, shape, dtype):
    volume = torch.randint(0, 255, shape).to(dtype)
    stacks = slice_stacks(volume, neighbors)
    assert stacks.shape == (*shape[:-3], shape[-1], 2 * neighbors + 1, *shape[-3:-1])
    for index in range(shape[-1]):
        expected = copied_stack(volume, index, neighbors)
        assert torch.equal(stacks[..., index, :, :, :], expected)
        assert torch.equal(slice_stack(volume, index, neighbors), expected)


def test_stacks_share_memory():
    volume = torch.rand(3, 4, 5)
    assert slice_stacks(volume, 0).data_ptr() == volume.data_ptr()
    stacks = slice_stacks(volume, 2)
    assert stacks.numel() == 5 * 5 * 12
    assert stacks.untyped_storage().nbytes() == (5 + 4) * 12 * 4


@pytest.mark.parametrize("neighbors", [-1, 1.0, True, None])
def test_numbers_of_neighbors_that_are_none(neighbors):
    with pytest.raises(InputError, match="neighbors: expected a whole number of 0 or more"):
        check_neighbors(neighbors)


def test_slices_are_counted_across_the_foot_head_axis(tmp_path):
    write_series(tmp_path / "series")
    # Array axes run to the head, the right and the front.
    affine = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)
    nib.save(nib.Nifti1Image(np.zeros((7, 4, 5), np.int16), affine), tmp_path / "volume.nii.gz")
    cases = [{"image": str(tmp_path / name)} for name in ("series", "volume.nii.gz")]
    assert slice_counts(cases) == [4, 7]


def test_uncountable_file(tmp_path):
    (tmp_path / "a.nii").write_text("no image")
    with pytest.raises(InputError, match=r"a\.nii: expected a NIfTI file"):
        slice_counts([{"image": str(tmp_path / "a.nii")}])
