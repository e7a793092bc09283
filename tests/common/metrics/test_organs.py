"""Measures of organs: boxes and a real scan with the challenge's own numbers, brute force, empty masks."""

import itertools
import math

import numpy as np
import pytest
from PIL import Image

from common.metrics.organs import ORGAN_MEASURES, is_one_sided, organ_values
from common.metrics.scores import PROFILES, organ_scores
from common.metrics.surface import assd, hausdorff, mask_distances, rmsd

THICK, THIN = (3.0, 1.5, 1.5), (2.0, 0.7265625, 0.7265625)


def box(z=(3, 13), y=(5, 15), x=(5, 15)):
    mask = np.zeros((16, 20, 20), dtype=bool)
    mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


def with_voxel(mask, index):
    mask[index] = True
    return mask


# Prediction, reference, spacing; border voxels of both; DICE, VO, RVD, ASSD, RMSD, MSSD. Made by the code of
# the challenge, RMSD from the same borders. A box of 10 x 10 x 10 has 1000 - 8 x 8 x 8 = 488 border voxels;
# one that ends at the last slice has only 1000 - 9 x 8 x 8 = 424.
BOXES = {
    "shifted by a slice": (
        (box(z=(4, 14)), box(), THICK),
        (488, 488),
        (0.9, 81.818182, 0, 0.92213115, 1.62397509, 3),
    ),
    "grown by a voxel": (
        (box(z=(2, 14), y=(4, 16), x=(4, 16)), box(), THICK),
        (728, 488),
        (0.73313783, 57.870370, 72.8, 2.06132800, 2.19336619, 3.67423461),
    ),
    "cut off by the last slice": (
        (box(z=(8, 16)), box(z=(6, 16)), THICK),
        (352, 424),
        (0.88888889, 80, -20, 1.14432990, 2.42251041, 6),
    ),
    "shifted in the plane": (
        (box(x=(8, 18)), box(), THIN),
        (488, 488),
        (0.7, 53.846154, 0, 0.81890369, 1.24661908, 2.1796875),
    ),
    "a stray voxel at the corner": (
        (with_voxel(box(), (15, 19, 19)), box(), THICK),
        (489, 488),
        (0.99950025, 99.900100, 0.1, 0.01423790, 0.44503401, 13.91042774),
    ),
}


@pytest.mark.parametrize(("case", "border_voxels", "expected"), BOXES.values(), ids=BOXES)
def test_boxes_have_the_numbers_of_the_challenge(case, border_voxels, expected):
    values = organ_values(*case)
    assert tuple(values) == ORGAN_MEASURES
    names = ("dice", "vo", "rvd", "assd_mm", "rmsd_mm", "mssd_mm")
    assert [values[name] for name in names] == pytest.approx(list(expected), abs=1e-6)
    assert values["ravd"] == abs(values["rvd"])
    borders = mask_distances(*case, outside="foreground").border
    assert tuple(len(side) for side in borders) == border_voxels


def test_a_strip_counted_by_hand():
    # Columns 0-1 against 0-4 of 8: the ends of the array are no border, so each border is one voxel, 3 apart.
    prediction, reference = np.zeros((2, 1, 1, 8), dtype=bool)
    prediction[..., :2] = reference[..., :5] = True
    values = organ_values(prediction, reference, (9.0, 9.0, 0.5))
    assert list(values.values()) == pytest.approx([40.0, 4 / 7, -60.0, 60.0, 1.5, 1.5, 1.5])


def brute_force_values(prediction, reference, spacing_mm):
    """All measures from sets of voxels."""
    voxels = [set(zip(*(axis.tolist() for axis in np.nonzero(mask)))) for mask in (prediction, reference)]
    everywhere = set(itertools.product(*map(range, prediction.shape)))
    faces = [tuple(sign * row) for row in np.eye(3, dtype=int) for sign in (-1, 1)]
    borders = [
        [v for v in mask if {tuple(np.add(v, face)) for face in faces} & (everywhere - mask)]
        for mask in voxels
    ]
    directed = [
        [
            min(math.dist(np.multiply(v, spacing_mm), np.multiply(w, spacing_mm)) for w in other)
            for v in border
        ]
        for border, other in (borders, borders[::-1])
    ]
    pooled = directed[0] + directed[1]
    both, sizes = len(voxels[0] & voxels[1]), [len(mask) for mask in voxels]
    difference = 100 * (sizes[0] - sizes[1]) / sizes[1]
    surfaces = sum(pooled) / len(pooled), math.sqrt(sum(d * d for d in pooled) / len(pooled)), max(pooled)
    overlap = 100 * both / len(voxels[0] | voxels[1]), 2 * both / sum(sizes)
    return [*overlap, difference, abs(difference), *surfaces]


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_brute_force(share, seed):
    masks = np.random.default_rng(seed).random((2, 4, 5, 6)) < share
    values = organ_values(*masks, (0.5, 1.5, 3.0))
    assert list(values.values()) == pytest.approx(brute_force_values(*masks, (0.5, 1.5, 3.0)))


def test_empty_masks_have_the_worst_or_the_best_values():
    nothing, something = np.zeros((3, 4, 12), dtype=bool), np.zeros((3, 4, 12), dtype=bool)
    something[1, 2, 3] = True
    # The scan measures 3 x 4 x 12 voxels of 1 mm; 9 + 16 + 144 = 13 squared.
    worst = [13.0] * 3
    edges = (1.0, 1.0, 1.0)
    assert list(organ_values(nothing, nothing, edges).values()) == [100.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert list(organ_values(nothing, something, edges).values()) == [0.0, 0.0, -100.0, 100.0, *worst]
    assert list(organ_values(something, nothing, edges).values()) == [0.0, 0.0, math.inf, math.inf, *worst]
    assert is_one_sided(-100.0)
    assert is_one_sided(math.inf)
    assert not any(is_one_sided(rvd) for rvd in (-99.999999, 0.0, 100.0))


def test_masks_that_fill_the_scan_have_no_border():
    full, half, nothing = (
        np.ones((1, 1, 8), dtype=bool),
        np.ones((1, 1, 8), dtype=bool),
        np.zeros((1, 1, 8), bool),
    )
    half[..., :4] = False
    diagonal_mm = math.sqrt(1 + 1 + 64)
    for masks, distance_mm in (
        ((full, full), 0.0),
        ((full, half), diagonal_mm),
        ((full, nothing), diagonal_mm),
    ):
        values = organ_values(*masks, (1.0, 1.0, 1.0))
        assert [values["assd_mm"], values["rmsd_mm"], values["mssd_mm"]] == [distance_mm] * 3


@pytest.fixture(scope="module")
def scan(real_data):
    """Liver of the CT scan that the organizers ship with their evaluation: example submission, reference."""

    def masks(folder):
        files = sorted((real_data / "chaos_ct_case3" / folder).glob("*.png"))
        return np.stack([np.array(Image.open(file)) > 0 for file in files])

    return masks("Segmentation"), masks("Ground")


@pytest.mark.data
def test_real_scan_has_the_numbers_of_the_challenge(scan):
    assert [mask.sum() for mask in scan] == [1333673, 1342595]
    values = organ_values(*scan, THIN)
    # DICE, RAVD, ASSD and MSSD are the output of the organizers' own script.
    expected = {
        "vo": 95.7778831186,
        "dice": 0.97843414785066374,
        "rvd": -0.66453398083562054,
        "ravd": 0.66453398083562054,
        "assd_mm": 0.73413096882692608,
        "rmsd_mm": 1.589623313744,
        "mssd_mm": 14.0,
    }
    assert values == pytest.approx(expected, abs=1e-9)
    chaos = [97.843415, 86.709320, 95.105794, 76.666667, 89.081299]
    assert list(organ_scores(values, PROFILES["chaos2019"]).values()) == pytest.approx(chaos, abs=5e-7)
    paper = organ_scores(values, PROFILES["paper_reconstruction"])
    assert [
        paper[name] for name in ("vo", "ravd", "assd_mm", "rmsd_mm", "mssd_mm", "overall")
    ] == pytest.approx([95.7779, 96.6773, 95.1058, 94.1125, 76.6667, 91.6680], abs=5e-5)
    sliver = organ_scores(organ_values(*scan, THIN, neighbors=18), PROFILES["sliver07"])
    assert list(sliver.values()) == pytest.approx(
        [83.5074, 96.4652, 84.8248, 79.8164, 81.5789, 85.2385], abs=5e-5
    )


@pytest.mark.data
@pytest.mark.parametrize(
    ("neighbors", "outside", "expected"),
    [
        (6, "background", (0.7129284627, 1.5669532508)),
        (18, "foreground", (0.6070094452, 1.4532225905)),
        (18, "background", (0.5937128831, 1.4376869323)),
        (26, "foreground", (0.5641302395, 1.4045459186)),
        (26, "background", (0.5528263904, 1.3908444811)),
    ],
)
def test_real_scan_with_other_borders(scan, neighbors, outside, expected):
    distances = mask_distances(*scan, THIN, neighbors, outside)
    assert (assd(distances), rmsd(distances), hausdorff(distances)) == pytest.approx(
        (*expected, 14), abs=1e-9
    )


@pytest.mark.data
def test_real_scan_direction_by_direction_and_in_wrong_units(scan):
    distances = mask_distances(*scan, THIN, 6, "foreground")
    assert [len(side) for side in distances.border] == [94361, 91049]
    assert [side.mean() for side in distances.border] == pytest.approx([0.82810295, 0.63674066], abs=1e-8)
    assert [side.max() for side in distances.border] == pytest.approx([13.4870294498, 14.0], abs=1e-9)
    for spacing, expected in (
        (None, (0.648051, 1.285519, 15.684387)),
        ((3.2, *THIN[1:]), (0.844743, 1.922831, 19.258587)),
    ):
        distances = mask_distances(*scan, spacing, 6, "foreground")
        assert (assd(distances), rmsd(distances), hausdorff(distances)) == pytest.approx(expected, abs=1e-6)
