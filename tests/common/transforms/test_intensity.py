import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.errors import InputError
from common.transforms.intensity import NormalizeIntensityRanged


def normalize(image, intensity_range=None):
    return NormalizeIntensityRanged("image", intensity_range)({"image": image})["image"]


def test_window_by_hand():
    image = MetaTensor(torch.tensor([[-3000, -1000, -500, 0, 750, 1000, 3000]], dtype=torch.int16))
    normalized = normalize(image, [-1000, 1000])
    assert normalized.tolist() == [[-1, -1, -0.5, 0, 0.75, 1, 1]]
    assert normalized.dtype == torch.float32
    assert isinstance(normalized, MetaTensor)


def test_standardization_by_hand():
    # mean 2, variance (4 + 0 + 0 + 4) / 4 = 2
    root = 2**0.5
    assert normalize(torch.tensor([[0.0, 2.0, 2.0, 4.0]]))[0].tolist() == pytest.approx([-root, 0, 0, root])


def test_standardization_is_per_channel_and_agrees_with_numpy():
    image = np.random.default_rng(0).normal(5, 3, size=(2, 4, 5, 6)).astype(np.float32)
    image[1] *= 10
    mean, deviation = (f(image, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
    assert np.allclose(normalize(torch.tensor(image)).numpy(), (image - mean) / deviation, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1, -3e4])
def test_constant_channel_becomes_zeros(value):
    image = torch.full((2, 7, 11, 13), value)
    image[1, 0, 0, 0] += 5
    normalized = normalize(image)
    assert normalized[0].count_nonzero() == 0
    assert normalized[1].std(correction=0).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "intensity_range", [[1, 1], [2, 1], [0], [0, 1, 2], [0, float("nan")], [0, float("inf")]]
)
def test_range_must_ascend(intensity_range):
    with pytest.raises(InputError, match="intensity_range: expected"):
        NormalizeIntensityRanged("image", intensity_range)
