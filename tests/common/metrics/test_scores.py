"""Scores of organs: each profile derived by hand, clipping, lost organs, the order of score and mean."""

import math

import pytest

from common.errors import InputError
from common.metrics.organs import ORGAN_MEASURES
from common.metrics.scores import PROFILES, Line, Profile, organ_scores, paper_reconstruction


def values(vo=90.0, dice=0.9, rvd=-1.0, assd_mm=1.5, rmsd_mm=2.7, mssd_mm=15.0):
    return dict(zip(ORGAN_MEASURES, (vo, dice, rvd, abs(rvd), assd_mm, rmsd_mm, mssd_mm)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 100 x 0.9; 100 - 20 x 1; 100 - 20/3 x 1.5; 100 - 5/3 x 15
        ("chaos2019", {"dice": 90.0, "ravd": 80.0, "assd_mm": 90.0, "mssd_mm": 75.0}),
        # 100 - 25 x error / error of a human rater: 10 / 6.4, 1 / 4.7, 1.5 / 1, 2.7 / 1.8, 15 / 19
        (
            "sliver07",
            {
                "vo": 100 - 25 * 10 / 6.4,
                "ravd": 100 - 25 / 4.7,
                "assd_mm": 62.5,
                "rmsd_mm": 62.5,
                "mssd_mm": 100 - 25 * 15 / 19,
            },
        ),
        # as it is; 1 of 20; 1.5 of 15; 2.7 of 27; 15 of 60
        (
            "paper_reconstruction",
            {"vo": 90.0, "ravd": 95.0, "assd_mm": 90.0, "rmsd_mm": 90.0, "mssd_mm": 75.0},
        ),
    ],
)
def test_profiles_by_hand(name, expected):
    scores = organ_scores(values(), PROFILES[name])
    assert scores.pop("overall") == pytest.approx(sum(expected.values()) / len(expected))
    assert scores == pytest.approx(expected)


def test_dice_jumps_at_0_8_in_chaos():
    profile = PROFILES["chaos2019"]
    assert organ_scores(values(dice=0.7999), profile)["dice"] == 0.0
    assert organ_scores(values(dice=0.8), profile)["dice"] == pytest.approx(80.0)


@pytest.mark.parametrize("name", PROFILES)
def test_perfect_organs_have_100_and_hopeless_ones_0(name):
    assert set(organ_scores(values(100.0, 1.0, 0.0, 0.0, 0.0, 0.0), PROFILES[name]).values()) == {100.0}
    assert set(organ_scores(values(0.0, 0.0, 150.0, 99.0, 99.0, 99.0), PROFILES[name]).values()) == {0.0}


@pytest.mark.parametrize("rvd", [-100.0, math.inf])
@pytest.mark.parametrize("name", PROFILES)
def test_a_lost_organ_scores_0_even_in_a_scan_smaller_than_the_zero_points(name, rvd):
    lost = values(0.0, 0.0, rvd, 3.0, 3.0, 3.0)
    assert set(organ_scores(lost, PROFILES[name]).values()) == {0.0}


def test_scores_are_clipped_before_they_are_averaged():
    # RAVD 1 and 21 %: 80 and 0, on average 40. The average RAVD of 11 % would score 0.
    scores = [organ_scores(values(rvd=rvd), PROFILES["chaos2019"])["ravd"] for rvd in (1.0, -21.0)]
    assert sum(scores) / 2 == pytest.approx(40.0)
    assert organ_scores(values(rvd=11.0), PROFILES["chaos2019"])["ravd"] == 0.0


def test_sliver_asks_for_its_own_borders():
    assert {name: profile.neighbors for name, profile in PROFILES.items()} == {
        "chaos2019": None,
        "sliver07": 18,
        "paper_reconstruction": None,
    }


def test_zero_points_of_the_reconstruction():
    scores = organ_scores(values(), paper_reconstruction(ravd=10.0, mssd_mm=30.0))
    assert (scores["ravd"], scores["mssd_mm"], scores["assd_mm"]) == pytest.approx((90.0, 50.0, 90.0))
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match=f"rmsd_mm: expected a positive zero point, found {wrong}"):
            paper_reconstruction(rmsd_mm=wrong)


def test_own_profile():
    profile = Profile("half", {"vo": Line(50.0, full=100.0)})
    assert organ_scores(values(vo=60.0), profile) == pytest.approx({"vo": 20.0, "overall": 20.0})
