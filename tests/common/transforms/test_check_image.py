import pytest
import torch
from monai.data import MetaTensor

from common.errors import InputError
from common.transforms.check_image import CheckImaged


def image(*shape):
    return MetaTensor(torch.zeros(shape), meta={"filename_or_obj": "/data/a.nii.gz"})


def test_good_image_passes_unchanged():
    data = {"image": image(1, 2, 3, 4), "id": "a"}
    assert CheckImaged("image", in_channels=1, spatial_dims=3)(data) == data


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_voxel_that_is_not_finite_is_refused(value):
    bad = image(1, 2, 3, 4)
    bad[0, 1, 1, 1] = value
    with pytest.raises(InputError, match=r"^/data/a\.nii\.gz: expected finite values, found 1 NaN or Inf"):
        CheckImaged("image", 1, 3)({"image": bad})


def test_all_differences_are_named():
    with pytest.raises(InputError, match="expected 3 spatial axes, found 2") as error:
        CheckImaged("image", in_channels=1, spatial_dims=3)({"image": image(3, 5, 6)})
    assert "expected 1 channel(s), found 3" in str(error.value)


def test_plain_tensor_is_called_by_its_key():
    with pytest.raises(InputError, match="^image: expected 2 channel"):
        CheckImaged("image", 2, 2)({"image": torch.zeros(1, 4, 4)})
