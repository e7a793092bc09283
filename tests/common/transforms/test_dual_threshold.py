"""Dual-threshold post-processing on drawn masks: the rule, every tie-break, and the dictionary transform."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.transforms.dual_threshold import DualThresholdd, dual_threshold

LEVELS = {"#": 0.9, "+": 0.6, ".": 0.1}


def drawn(*rows):
    """Probability from a drawing: ``#`` above both thresholds, ``+`` above the low one, ``.`` below."""
    return np.array([[LEVELS[character] for character in row] for row in rows])


def kept(mask):
    return ["".join("x" if pixel else "." for pixel in row) for row in mask]


def test_region_around_the_heaviest_core_is_kept():
    probability = drawn(
        "++......",
        "+#......",
        "....++++",
        "....+##+",
        "....++++",
    )
    assert kept(dual_threshold(probability)) == ["........", "........", "....xxxx", "....xxxx", "....xxxx"]


def test_mass_decides_not_the_number_of_pixels():
    probability = np.zeros((3, 9))
    probability[1, 0:4] = 0.8  # 4 pixels, mass 3.2
    probability[1, 5:8] = 1.0  # 3 pixels, mass 3.0
    assert kept(dual_threshold(probability))[1] == "xxxx....."
    probability[1, 0:4] = 0.7  # below high: no longer a candidate for the core
    assert kept(dual_threshold(probability))[1] == ".....xxx."
    probability[1, 0:4] = 0.8
    probability[1, 8] = 0.81  # mass 3.81 from 4 pixels beats 3.2 from 4 pixels
    assert kept(dual_threshold(probability))[1] == ".....xxxx"


def test_thresholds_are_inclusive():
    probability = np.array([[0.5, 0.8, 0.49, 0.5]])
    assert kept(dual_threshold(probability)) == ["xx.."]


def test_diagonal_pixels_belong_together():
    assert kept(dual_threshold(drawn("#...", ".+..", "..+.", "....")))[:3] == ["x...", ".x..", "..x."]


def test_enclosed_hole_is_filled_unless_told_otherwise():
    probability = drawn("+++++", "+...+", "+.#.+", "+...+", "+++++")
    assert dual_threshold(probability).all()
    # Without filling, the low region around the center is the single pixel in the middle.
    assert kept(dual_threshold(probability, fill_holes=False)) == [
        ".....",
        ".....",
        "..x..",
        ".....",
        ".....",
    ]


def test_center_outside_every_region_falls_back_to_the_region_of_the_core():
    # The center of the horseshoe lies in its open middle.
    probability = drawn("###..", "#....", "#...+", "#....", "###..")
    expected = ["xxx..", "x....", "x....", "x....", "xxx.."]
    assert np.argwhere(probability >= 0.8).mean(axis=0).round().tolist() == [2, 1]
    assert kept(dual_threshold(probability)) == expected


def test_center_inside_another_region_selects_that_region():
    # The center (2, 2) of the horseshoe falls on the separate island: the rule follows the center.
    probability = drawn("#####", "#....", "#.+..", "#....", "#####")
    coordinates = np.argwhere(probability >= 0.8)
    assert coordinates.mean(axis=0).round().tolist() == [2, 2]
    assert kept(dual_threshold(probability)) == [".....", ".....", "..x..", ".....", "....."]


def test_without_a_core_the_heaviest_low_region_is_kept():
    assert kept(dual_threshold(drawn("++.+++"))) == ["...xxx"]


def test_equal_masses_keep_the_first():
    assert kept(dual_threshold(drawn("##..##"))) == ["xx...."]
    assert kept(dual_threshold(drawn("++..++"))) == ["xx...."]


def test_nothing_above_the_low_threshold_gives_background():
    mask = dual_threshold(drawn("....", "...."))
    assert mask.dtype == bool
    assert not mask.any()


@pytest.mark.parametrize(
    ("shape", "high", "low"), [((4, 4, 4), 0.8, 0.5), ((4, 4), 0.4, 0.5), ((4, 4), 0.8, 0.0)]
)
def test_wrong_arguments(shape, high, low):
    with pytest.raises(ValueError, match="expected a 2D probability and 0 < low <= high"):
        dual_threshold(np.ones(shape), high, low)


def test_dictionary_transform_gives_a_label_map_and_keeps_the_meta_data():
    lesion = torch.from_numpy(drawn("++..", "+#..", "...+")).float()
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    probabilities = MetaTensor(
        torch.stack([1 - lesion, lesion]), affine=affine, meta={"filename_or_obj": "a.jpg"}
    )
    given = {"pred": probabilities, "id": "a"}
    result = DualThresholdd("pred")(given)
    assert given["pred"] is probabilities
    assert result["id"] == "a"
    assert isinstance(result["pred"], MetaTensor)
    assert result["pred"].dtype == torch.float32
    assert kept(result["pred"][0]) == ["xx..", "xx..", "...."]
    assert torch.equal(result["pred"].affine, affine)
    assert result["pred"].meta["filename_or_obj"] == "a.jpg"


def test_dictionary_transform_options():
    probabilities = torch.from_numpy(np.stack([drawn("+#+."), drawn("...#")]))
    result = DualThresholdd("pred", class_index=0, low=0.7)({"pred": probabilities})
    assert kept(result["pred"][0]) == [".x.."]
    assert DualThresholdd("pred", allow_missing_keys=True)({"image": 1}) == {"image": 1}
