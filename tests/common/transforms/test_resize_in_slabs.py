"""Anti-aliasing slab by slab: values, affines and traces are MONAI's, memory that of a slab."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.data import MetaTensor, set_track_meta
from monai.transforms import Compose, Invertd, Orientationd, Resized

from common.transforms import resize_in_slabs
from common.transforms.resize_in_slabs import ResizeInSlabsd, SmoothedInSlabs
from tests.helpers.slab_checks import Largest, traces

# Sizes before and after: smaller, larger, one of each, one as it is, odd, one slice, one slice at a time.
SIZES = {
    "smaller": ((20, 24, 8), (10, 12, -1)),
    "larger": ((9, 7, 5), (16, 16, -1)),
    "both": ((31, 6, 7), (8, 13, -1)),
    "one axis": ((21, 16, 10), (8, 16, -1)),
    "odd": ((37, 29, 11), (11, 7, 11)),
    "one slice": ((40, 33, 1), (16, 16, -1)),
    "large slices": ((50, 60, 3), (17, 23, -1)),
    "unchanged": ((8, 9, 5), (8, 9, -1)),
}


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    """One slice at a time, or a few."""
    monkeypatch.setattr(resize_in_slabs, "SLAB_VOXELS", 1500)


def scan(size, seed=0, channels=1):
    random = np.random.default_rng(seed)
    affine = np.diag([-0.7, 1.3, 5.0, 1.0])
    affine[:3, 3] = random.normal(0, 100, 3)
    voxels = torch.as_tensor(random.normal(0, 300, (channels, *size)), dtype=torch.float32)
    return MetaTensor(voxels, affine, meta={"pixdim": np.array([1.0, 0.7, 1.3, 5.0]), "file": "a.nii"})


def both(image, **arguments):
    return [resize("image", **arguments)({"image": image})["image"] for resize in (Resized, ResizeInSlabsd)]


def assert_same(first, second):
    assert torch.equal(first.as_tensor(), second.as_tensor())
    assert first.dtype == second.dtype == torch.float32
    assert second.is_contiguous()
    assert torch.equal(first.affine, second.affine)
    assert {key: str(value) for key, value in first.meta.items()} == {
        key: str(value) for key, value in second.meta.items()
    }
    assert traces(first) == traces(second)
    assert len(traces(second)) == 1
    assert first.pending_operations == second.pending_operations == []


def test_values_by_hand():
    """Half the width: sigma = (4 / 2 - 1) / 2 = 1/2, whose weights are areas of the bell under each voxel.

    erf(0.5 / (0.5 sqrt 2)) = erf(0.70711) = 0.68269 for its own, (erf(2.12132) - erf(0.70711)) / 2 = 0.15731
    for a neighbor and (erf(3.53553) - erf(2.12132)) / 2 = 0.00135 for the next. Of 0, 0, 1, 1 along X that
    makes 0.00135, 0.15866, 0.84000, 0.84000 (beyond the edge are zeros), of which two and two have the means
    0.08000 and 0.84000. Along Y nothing is resized, so nothing smoothed. Slices have factors of 1, 2, 3.
    """
    step = torch.tensor([0.0, 0.0, 1.0, 1.0])[None, :, None, None] * torch.tensor([1.0, 2.0, 3.0])
    image = step.expand(1, 4, 200, 3)
    smaller = ResizeInSlabsd("image", (2, 200, -1), mode="bilinear", anti_aliasing=True)({"image": image})
    assert smaller["image"].shape == (1, 2, 200, 3)
    for number in range(3):
        values = smaller["image"][0, :, 77, number] / (number + 1)
        assert values.tolist() == pytest.approx([0.08, 0.84], abs=1e-5)


@pytest.mark.parametrize("anti_aliasing", [True, False])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "area"])
@pytest.mark.parametrize("name", SIZES)
def test_same_as_monai_bit_by_bit(name, mode, anti_aliasing):
    size, spatial_size = SIZES[name]
    arguments = {"spatial_size": spatial_size, "mode": mode, "anti_aliasing": anti_aliasing}
    assert_same(*both(scan(size, channels=2), **arguments))


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_with_two_threads_too(mode, monkeypatch):
    monkeypatch.setattr(resize_in_slabs, "SLAB_VOXELS", 6000)
    torch.set_num_threads(2)
    try:
        assert_same(*both(scan((37, 29, 11)), spatial_size=(11, 17, -1), mode=mode, anti_aliasing=True))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("channels", [1, 4])
def test_whatever_the_order_in_memory(channels):
    voxels = scan((12, 33, 40), channels=channels)
    turned = Orientationd("image", axcodes="PSR", labels=None)({"image": voxels})["image"]
    image = MetaTensor(turned.as_tensor(), voxels.affine)
    assert not image.is_contiguous()
    assert_same(*both(image, spatial_size=(16, 16, -1), mode="bilinear", anti_aliasing=True))


@pytest.mark.parametrize(
    "arguments",
    [
        {"spatial_size": (10, 12, -1), "anti_aliasing_sigma": 0.8},
        {"spatial_size": (10, 12, -1), "anti_aliasing_sigma": [(0.3, 2.0, 1.0)]},
        {"spatial_size": (10, 12, -1), "align_corners": True, "mode": "trilinear"},
        {"spatial_size": (10, 12, -1), "dtype": np.float64},
        {"spatial_size": (10, 12, 5)},
        {"spatial_size": (10, 12, 9)},
        {"spatial_size": (20, 24, 4)},
        {"spatial_size": 16, "size_mode": "longest"},
    ],
    ids=str,
)
def test_arguments_of_monai(arguments):
    assert_same(*both(scan((20, 24, 8)), anti_aliasing=True, **arguments))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int16, torch.uint8])
def test_other_kinds_of_numbers(dtype):
    image = MetaTensor(scan((20, 24, 8)).as_tensor().abs().clamp(max=255).to(dtype))
    assert_same(*both(image, spatial_size=(10, 12, -1), anti_aliasing=True))


@pytest.mark.parametrize("spatial_size", [(10, 12), (10, 24)])
def test_pictures_are_resized_as_ever(spatial_size):
    image = MetaTensor(torch.rand(3, 20, 24))
    assert_same(*both(image, spatial_size=spatial_size, mode="bilinear", anti_aliasing=True))


def test_image_and_label_together():
    data = {"image": scan((20, 24, 8)), "label": scan((20, 24, 8), seed=1).round()}
    modes = {"mode": ["bilinear", "nearest"], "anti_aliasing": [True, False]}
    first, second = (
        resize(["image", "label"], (8, 8, -1), **modes)(data) for resize in (Resized, ResizeInSlabsd)
    )
    for key in data:
        assert_same(first[key], second[key])
    absent = ResizeInSlabsd(["image", "label"], (8, 8, -1), anti_aliasing=True, allow_missing_keys=True)
    assert set(absent({"image": data["image"]})) == {"image"}


def test_without_metadata():
    image = scan((20, 24, 8))
    for kind in (image.numpy(), image.as_tensor()):
        assert_same(*both(kind, spatial_size=(10, 12, -1), anti_aliasing=True))
    set_track_meta(False)
    try:
        first, second = both(image, spatial_size=(10, 12, -1), anti_aliasing=True)
    finally:
        set_track_meta(True)
    assert type(first) is type(second) is torch.Tensor
    assert torch.equal(first, second)


def test_lazy_execution_only_notes_what_to_do():
    for arguments in ({"spatial_size": (10, 12, -1), "lazy": True}, {"spatial_size": (10, 12, -1)}):
        first, second = (
            resize("image", **arguments)({"image": scan((20, 24, 8))}, lazy=True)["image"]
            for resize in (Resized, ResizeInSlabsd)
        )
        assert second.shape == (1, 20, 24, 8)
        assert str(first.pending_operations[0]["lazy_affine"]) == str(
            second.pending_operations[0]["lazy_affine"]
        )


def test_lazy_execution_warns_as_monai_that_it_does_not_smooth():
    lazy = ResizeInSlabsd("image", (10, 12, -1), anti_aliasing=True, lazy=True)
    with pytest.warns(UserWarning, match="anti-aliasing is not compatible with lazy"):
        lazy({"image": scan((20, 24, 8))})


def test_too_few_sizes_are_refused_as_by_monai():
    with pytest.raises(ValueError, match="spatial_size=2 img=3"):
        ResizeInSlabsd("image", (10, 12), anti_aliasing=True)({"image": scan((20, 24, 8))})


@pytest.mark.parametrize("name", SIZES)
def test_maps_return_to_the_grid_of_the_scan_as_with_monai(name):
    size, spatial_size = SIZES[name]
    image, returned = scan(size), []
    for resize in (Resized, ResizeInSlabsd):
        turned = Orientationd("image", axcodes="RAS", labels=None)
        resized = resize("image", spatial_size, mode="bilinear", anti_aliasing=True)
        chain = Compose([turned, resized])
        data = chain({"image": image})
        data["pred"] = MetaTensor((data["image"].as_tensor() / 300).sigmoid().repeat(2, 1, 1, 1))
        returned.append(Invertd("pred", chain, orig_keys="image", nearest_interp=False)(data)["pred"])
    assert returned[1].shape == (2, *size)
    assert torch.equal(returned[0].as_tensor(), returned[1].as_tensor())
    assert torch.allclose(returned[1].affine, image.affine)
    assert returned[0].applied_operations == returned[1].applied_operations == []


@pytest.mark.parametrize(("resize", "slices"), [(Resized, 12), (ResizeInSlabsd, 2)])
def test_no_more_than_a_slab_is_smoothed(resize, slices):
    """40 x 30 x 12 to 20 x 15 x 12: sigma 1/2, 0 along Z, so kernels of 2 x 2 + 1 and, along Z, 3 weights.

    The padded image has 44 x 34 x (slices + 2) voxels. 14,400 voxels in slabs of at most 1,500 make 10 slabs,
    of two slices or one.
    """
    assert math.ceil(40 * 30 * 12 / resize_in_slabs.SLAB_VOXELS) == 10
    with Largest(lambda func, found: func is F.pad) as found:
        resize("image", (20, 15, -1), mode="bilinear", anti_aliasing=True)({"image": scan((40, 30, 12))})
    assert found.numbers == 44 * 34 * (slices + 2)


def test_other_threads_are_left_alone():
    """As a cache is filled by several threads."""
    image = torch.rand(1, 1, 8, 8, 3)
    with SmoothedInSlabs(None, 64), ThreadPoolExecutor(1) as pool:
        plain = pool.submit(F.interpolate, image, size=(4, 4, 3)).result()
        smoothed = F.interpolate(image, size=(4, 4, 3))
    assert torch.equal(plain, F.interpolate(image, size=(4, 4, 3)))
    assert not torch.equal(plain, smoothed)
