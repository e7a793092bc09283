"""Random slices with their neighbors."""

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose, EnsureTyped

from common.errors import InputError
from common.transforms.slices import RandSliceStackd

NUM_SLICES = 5


def volumes():
    """Voxels say in which slice they lie; labels are 10 times that."""
    image = torch.arange(float(NUM_SLICES)).expand(1, 4, 3, NUM_SLICES).clone()
    return {
        "image": MetaTensor(image, affine=np.diag([2.0, 2.0, 7.0, 1.0])),
        "label": (10 * image).to(torch.uint8),
    }


@pytest.mark.parametrize("neighbors", [0, 1, 2])
def test_stack_and_label_belong_to_one_slice(neighbors):
    draw = RandSliceStackd(neighbors=neighbors).set_random_state(seed=0)
    seen = set()
    for _ in range(60):
        data = draw(volumes())
        assert data["image"].shape == (2 * neighbors + 1, 4, 3)
        assert data["label"].shape == (1, 4, 3)
        assert (data["image"].dtype, data["label"].dtype) == (torch.float32, torch.uint8)
        center = int(data["label"][0, 0, 0]) // 10
        expected = np.clip(np.arange(center - neighbors, center + neighbors + 1), 0, NUM_SLICES - 1)
        assert data["image"][:, 1, 2].tolist() == expected.tolist()
        assert bool((data["image"] == data["image"][:, :1, :1]).all())
        seen.add(center)
    assert seen == set(range(NUM_SLICES))


def test_slices_are_equally_likely():
    """1000 draws of 5 slices: 200 each, with a standard deviation of sqrt(1000 x 0.2 x 0.8) = 12.6."""
    draw = RandSliceStackd(neighbors=0).set_random_state(seed=1)
    volume = volumes()
    counts = np.bincount([int(draw(volume)["image"][0, 0, 0]) for _ in range(1000)])
    assert np.abs(counts - 200).max() < 4 * 12.6


def test_equal_seeds_draw_equal_slices():
    draws = [RandSliceStackd().set_random_state(seed=seed) for seed in (3, 3, 4)]
    first, second, other = ([float(d(volumes())["image"][1, 0, 0]) for _ in range(12)] for d in draws)
    assert first == second
    assert first != other


def test_volumes_stay_in_the_cache_and_slices_are_drawn_anew():
    chain = Compose([EnsureTyped(["image", "label"]), RandSliceStackd()])
    dataset = CacheDataset([volumes()], chain, progress=False)
    assert dataset._cache[0]["image"].shape == (1, 4, 3, NUM_SLICES)
    assert len({float(dataset[0]["image"][1, 0, 0]) for _ in range(20)}) > 1
    assert dataset._cache[0]["image"].shape == (1, 4, 3, NUM_SLICES)


def test_samples_are_plain_tensors_of_their_own_memory():
    volume = volumes()
    sample = RandSliceStackd()(volume)
    assert not isinstance(sample["image"], MetaTensor)
    sample["image"].fill_(-1)
    sample["label"].fill_(99)
    assert volume["image"].min() >= 0
    assert volume["label"].max() <= 40


def test_one_slice_is_its_own_neighbor():
    data = {"image": torch.full((1, 2, 2, 1), 7.0)}
    sample = RandSliceStackd("image", neighbors=2)(data)
    assert sample["image"].tolist() == torch.full((5, 2, 2), 7.0).tolist()


def test_wrong_arguments_and_shapes():
    with pytest.raises(InputError, match="neighbors: expected a whole number of 0 or more, found -1"):
        RandSliceStackd(neighbors=-1)
    draw = RandSliceStackd()
    with pytest.raises(ValueError, match="expected volumes of one shape"):
        draw({"image": torch.zeros(1, 2, 2, 3), "label": torch.zeros(1, 2, 2, 4)})
    with pytest.raises(ValueError, match="expected volumes of one shape"):
        RandSliceStackd("image")({"image": torch.zeros(3, 2, 2, 3)})
    with pytest.raises(KeyError):
        draw({"image": torch.zeros(1, 2, 2, 3)})
