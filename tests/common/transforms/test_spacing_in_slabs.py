"""Spacing slab by slab: values, affines and traces are MONAI's, coordinates those of one slab."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, SaveImaged, Spacingd

from common.transforms import spacing_in_slabs
from common.transforms.spacing_in_slabs import AffineGridsInSlabs, SpacingInSlabsd
from tests.helpers.slab_checks import Largest, traces

# Sizes and spacing of the scan; the target is 1 mm: finer, coarser, odd, one slice, one voxel wide, as it is.
SCANS = {
    "finer": ((9, 7, 12), (1.7, 2.0, 1.3)),
    "coarser": ((20, 17, 15), (0.55, 0.7, 0.3)),
    "one slice": ((12, 11, 1), (0.8, 1.9, 5.0)),
    "one slice in front": ((1, 12, 11), (5.0, 0.8, 1.9)),
    "one line": ((1, 1, 40), (1.0, 1.0, 0.4)),
    "unchanged": ((6, 5, 8), (1.0, 1.0, 1.0)),
}


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    """Several slabs in small scans, of one plane or a few."""
    monkeypatch.setattr(spacing_in_slabs, "SLAB_VOXELS", 200)


def scan(size, spacing_mm, oblique, seed=0, channels=1):
    """Random scan, upright or turned by random angles, from anywhere in space."""
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0] if oblique else np.diag([-1, 1, -1])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(spacing_mm)
    affine[:3, 3] = random.normal(0, 100, 3)
    return MetaTensor(torch.as_tensor(random.normal(0, 300, (channels, *size)), dtype=torch.float32), affine)


def both(image, **arguments):
    return [
        spacing("image", pixdim=(1.0, 1.0, 1.0), **arguments)({"image": image})["image"]
        for spacing in (Spacingd, SpacingInSlabsd)
    ]


def assert_same(first, second):
    assert torch.equal(first.as_tensor(), second.as_tensor())
    assert first.dtype == second.dtype == torch.float32
    assert torch.equal(first.affine, second.affine)
    assert str(traces(first)) == str(traces(second))
    assert first.pending_operations == second.pending_operations == []


def test_values_by_hand():
    """Every 2 mm one step of 10: the voxels of 1 mm begin with the first and lie on and between the steps."""
    steps = torch.tensor([0.0, 10.0, 20.0, 30.0])[None, :, None, None].expand(1, 4, 8, 8)
    image = MetaTensor(steps.contiguous(), affine=np.diag([2.0, 1.0, 1.0, 1.0]))
    finer = SpacingInSlabsd("image", pixdim=(1.0, 1.0, 1.0))({"image": image})["image"]
    assert finer.shape == (1, 7, 8, 8)
    assert finer[0, :, 3, 5].tolist() == pytest.approx([0, 5, 10, 15, 20, 25, 30])


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("name", SCANS)
def test_same_as_monai_bit_by_bit(name, oblique):
    image = scan(*SCANS[name], oblique, channels=2)
    for mode in ("bilinear", "nearest"):
        assert_same(*both(image, mode=mode))


@pytest.mark.parametrize(
    "arguments",
    [
        {"diagonal": True},
        {"padding_mode": "zeros"},
        {"padding_mode": "reflection", "diagonal": True},
        {"align_corners": True, "scale_extent": True},
        {"dtype": np.float32},
        {"dtype": None},
        {"recompute_affine": True},
    ],
    ids=str,
)
def test_arguments_of_monai(arguments):
    assert_same(*both(scan(*SCANS["finer"], oblique=True), **arguments))


def test_an_integer_mode_is_splines_and_stays_those_of_monai():
    assert_same(*both(scan((5, 4, 6), (2.0, 1.0, 1.5), oblique=False), mode=2, padding_mode="nearest"))


def test_two_axes_of_space():
    image = MetaTensor(torch.rand(3, 30, 21), affine=np.diag([0.7, 1.4, 1.0]))
    first, second = (
        spacing("image", pixdim=(1.0, 1.0))({"image": image})["image"]
        for spacing in (Spacingd, SpacingInSlabsd)
    )
    assert_same(first, second)


def test_image_and_label_together():
    data = {"image": scan(*SCANS["finer"], True), "label": scan(*SCANS["finer"], True).round()}
    first, second = (
        spacing(["image", "label"], pixdim=(1.0, 1.0, 1.0), mode=["bilinear", "nearest"])(data)
        for spacing in (Spacingd, SpacingInSlabsd)
    )
    for key in data:
        assert_same(first[key], second[key])


@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("name", SCANS)
def test_labels_return_to_the_grid_of_the_scan_as_with_monai(name, oblique, nearest):
    image, returned = scan(*SCANS[name], oblique), []
    for spacing in (Spacingd, SpacingInSlabsd):
        turned = Orientationd("image", axcodes="RAS", labels=None)
        chain = Compose([turned, spacing("image", pixdim=(1.0, 1.0, 1.0))])
        data = chain({"image": image})
        assert len(data["image"].applied_operations) == 2
        data["pred"] = MetaTensor((data["image"].as_tensor() > 0).to(torch.uint8))
        returned.append(Invertd("pred", chain, orig_keys="image", nearest_interp=nearest)(data)["pred"])
    assert returned[1].shape == image.shape
    assert torch.allclose(returned[1].affine, image.affine)
    assert_same(*returned)


def test_saved_labels_have_the_affine_of_the_scan(tmp_path):
    image = scan(*SCANS["finer"], oblique=True)
    chain = Compose([SpacingInSlabsd("image", pixdim=(1.0, 1.0, 1.0))])
    data = chain({"image": image})
    data["pred"] = MetaTensor(torch.ones_like(data["image"].as_tensor(), dtype=torch.uint8))
    data = Invertd("pred", chain, orig_keys="image")(data)
    saving = SaveImaged("pred", output_dir=tmp_path, resample=False, separate_folder=False, print_log=False)
    saved = saving(data)["pred"].affine.numpy()
    assert saved == pytest.approx(image.affine.numpy(), abs=1e-9)
    assert len(list(tmp_path.iterdir())) == 1


def test_lazy_execution_only_notes_what_to_do():
    first, second = both(scan(*SCANS["finer"], oblique=False), lazy=True)
    assert first.shape == second.shape == (1, 9, 7, 12)
    assert [str(note["lazy_affine"]) for note in first.pending_operations] == [
        str(note["lazy_affine"]) for note in second.pending_operations
    ]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_points_are_those_of_pytorch_bit_by_bit(dtype, align_corners):
    generator = torch.Generator().manual_seed(0)
    for size in ((6, 8, 9), (30, 2, 40), (5, 70)):
        dims = len(size)
        theta = torch.randn(2, dims, dims + 1, generator=generator, dtype=dtype)
        axes = [spacing_in_slabs._coordinates(edge, theta, align_corners) for edge in size]
        expected = F.affine_grid(theta, [2, 1, *size], align_corners)
        assert torch.equal(spacing_in_slabs._points(theta, axes), expected)
        part = [axes[0][2:5], *axes[1:]]
        assert torch.equal(spacing_in_slabs._points(theta, part), expected[:, 2:5])


def test_grids_from_elsewhere_are_sampled_as_ever():
    image, grid = torch.rand(1, 1, 4, 5), torch.rand(1, 3, 3, 2)
    expected = F.grid_sample(image.double(), grid.double(), align_corners=False)
    with AffineGridsInSlabs(4):
        found = F.grid_sample(image.double(), grid.double(), align_corners=False)
    assert found.dtype == torch.float64
    assert torch.equal(found, expected)
    assert isinstance(F.affine_grid(torch.eye(2, 3)[None], [1, 1, 2, 2], align_corners=False), torch.Tensor)


def test_other_threads_are_left_alone():
    """As a cache is filled by several threads."""
    with AffineGridsInSlabs(4), ThreadPoolExecutor(1) as pool:
        grid = pool.submit(F.affine_grid, torch.eye(2, 3)[None], [1, 1, 2, 2], align_corners=False).result()
    assert isinstance(grid, torch.Tensor)


@pytest.fixture
def slabs_of_1000(monkeypatch):
    monkeypatch.setattr(spacing_in_slabs, "SLAB_VOXELS", 1000)


@pytest.mark.parametrize(("spacing", "numbers"), [(Spacingd, 44_400), (SpacingInSlabsd, 4_440)])
def test_coordinates_are_never_more_than_those_of_a_slab(slabs_of_1000, spacing, numbers):
    """1 x 1 x 4 mm: 40 x 10 x 37 voxels of 1 mm have 3 coordinates each, 44,400 numbers.

    Slabs of about 1,000 voxels: 15 for 14,800, so two or three of the 40 planes of 370 voxels each. With the
    1 of a homogeneous coordinate that is 3 x 370 x 4 = 4,440 numbers, a little more than the image has.
    """
    image = scan((40, 10, 10), (1.0, 1.0, 4.0), oblique=False)
    with Largest(lambda func, found: found.dtype == torch.float64) as found:
        resampled = spacing("image", pixdim=(1.0, 1.0, 1.0))({"image": image})["image"]
    assert resampled.shape == (1, 40, 10, 37)
    assert found.numbers == numbers


@pytest.mark.parametrize(("spacing", "numbers"), [(Spacingd, 48_000), (SpacingInSlabsd, 4_800)])
def test_nor_on_the_way_back(slabs_of_1000, spacing, numbers):
    """1 x 1 x 0.25 mm: 40 x 10 x 40 voxels have 48,000 coordinates; 16 slabs have 3 x 400 x 4 numbers."""
    there_and_back = spacing("image", pixdim=(1.0, 1.0, 1.0))
    data = there_and_back({"image": scan((40, 10, 40), (1.0, 1.0, 0.25), oblique=False)})
    with Largest(lambda func, found: found.dtype == torch.float64) as found:
        assert there_and_back.inverse(data)["image"].shape == (1, 40, 10, 40)
    assert found.numbers == numbers
