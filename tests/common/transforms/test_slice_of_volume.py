"""Slices in a chain of transforms, and z-scores by the whole volume."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, LoadImage, NormalizeIntensity, Orientation, Resized
from PIL import Image

from common.data.picture_reader import PictureReader
from common.data.slice_index import slice_index
from common.errors import InputError
from common.transforms.slice_of_volume import LoadSliced, NormalizeByVolumed

IPL = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [-4, 0, 0, 0], [0, 0, 0, 1]], float)


@pytest.fixture
def case(tmp_path):
    """Two modalities with a label; a third of the voxels lie outside of the brain."""
    rng = np.random.default_rng(0)
    inside = rng.random((5, 6, 7)) > 0.3
    images = [rng.normal(mean, 20, inside.shape) * inside for mean in (100, 400)]
    files = {}
    for name, voxels in (("t1", images[0]), ("t2", images[1]), ("seg", inside)):
        files[name] = str(tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), IPL), files[name])
    return {"id": "a", "image": [files["t1"], files["t2"]], "label": files["seg"], "slice": 3}


def test_image_and_label_are_of_the_same_slice(case):
    loaded = LoadSliced(["image", "label"])(case)
    assert loaded["image"].shape == (2, 7, 6)
    assert loaded["label"].shape == (1, 7, 6)
    assert torch.equal(loaded["image"][:1] != 0, loaded["label"] > 0)
    # Slice 3 from the foot is the one with index 1 from the head.
    written = np.asarray(nib.load(case["label"]).dataobj)[1]
    assert np.array_equal(loaded["label"][0], written[::-1, ::-1].T)


def test_slices_without_label(case):
    unlabeled = {key: case[key] for key in ("id", "image", "slice")}
    assert "label" not in LoadSliced(["image", "label"], allow_missing_keys=True)(unlabeled)
    with pytest.raises(KeyError):
        LoadSliced(["image", "label"])(unlabeled)


def test_arguments_reach_the_reader(case, tmp_path):
    sagittal = LoadSliced("image", slice_axis=2)(case)["image"]
    assert sagittal.shape == (2, 6, 5)
    renamed = {"image": case["image"], "z": 0}
    assert torch.equal(
        LoadSliced("image", slice_key="z")(renamed)["image"],
        LoadSliced("image")(case | {"slice": 0})["image"],
    )
    Image.new("L", (4, 3), 7).save(tmp_path / "a.png")
    picture = LoadSliced("image", reader=PictureReader(3))({"image": str(tmp_path / "a.png")})["image"]
    assert picture.shape == (3, 4, 3)
    assert (picture == 7).all()


def test_a_slice_missing_from_the_case_is_refused(case):
    del case["slice"]
    with pytest.raises(InputError, match="t1.nii.gz: expected a slice from 0 to 4, found None"):
        LoadSliced("image")(case)


def test_slices_go_through_a_chain_and_a_loader(case):
    chain = Compose(
        [LoadSliced(["image", "label"]), Resized(["image", "label"], (8, 8), mode=["bilinear", "nearest"])]
    )
    batch = next(iter(DataLoader(Dataset([case, case | {"slice": 0}], chain), batch_size=2)))
    assert batch["image"].shape == (2, 2, 8, 8)
    assert batch["label"].shape == (2, 1, 8, 8)


def test_z_scores_equal_those_of_the_normalized_volume(case):
    volume = slice_index([case], 2, with_intensities=True)["a"]
    item = LoadSliced("image")(case) | {
        "intensity_mean": list(volume.mean),
        "intensity_std": list(volume.std),
    }
    found = NormalizeByVolumed("image")(item)["image"]
    whole = LoadImage(image_only=True, ensure_channel_first=True)(case["image"])
    whole = NormalizeIntensity(nonzero=True, channel_wise=True)(Orientation("RAS", labels=None)(whole))
    torch.testing.assert_close(found.as_tensor(), whole[..., 3].as_tensor())
    assert torch.equal(found.affine, item["image"].affine)
    # Of the slice alone they would be others.
    alone = NormalizeIntensity(nonzero=True, channel_wise=True)(LoadSliced("image")(case)["image"])
    assert not torch.allclose(found, alone, atol=1e-3)


def test_z_scores_by_hand():
    image = torch.tensor([[[0.0, 4.0, 8.0]]])
    item = {"image": image, "intensity_mean": [6.0], "intensity_std": [2.0]}
    assert NormalizeByVolumed("image")(item)["image"].tolist() == [[[0, -1, 1]]]
    assert image.tolist() == [[[0, 4, 8]]]
    constant = item | {"intensity_std": [0.0]}
    assert NormalizeByVolumed("image")(constant)["image"].tolist() == [[[0, -2, 2]]]


@pytest.mark.parametrize(
    "entries", [{}, {"intensity_mean": [1.0]}, {"intensity_mean": [1.0], "intensity_std": [1.0, 2.0]}]
)
def test_intensities_that_are_missing_or_of_other_channels(entries):
    item = {"id": "a", "image": torch.ones(1, 2, 2), **entries}
    with pytest.raises(InputError, match="a: expected 1 values in each of intensity_mean and intensity_std"):
        NormalizeByVolumed("image")(item)
