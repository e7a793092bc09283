"""Intensities of volumes to 0 .. 1 in each of the modes."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged

from common.data.mask_stack import read_mask_stack
from common.errors import InputError
from common.transforms.rescale_intensity import RescaleIntensityd


def rescaled(values, mode, domain=None, **arguments):
    data = {"image": torch.as_tensor(values).reshape(1, -1, 1, 1)}
    if domain is not None:
        data["domain"] = domain
    return RescaleIntensityd("image", mode, **arguments)(data)["image"].flatten()


def test_percentiles_by_hand():
    """0 .. 200: percentile 0.5 is at 0.005 x 200 = 1, percentile 99.5 at 199; 100 is the middle."""
    result = rescaled(torch.arange(201.0), "percentile")
    assert result[[0, 1, 100, 199, 200]].tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    assert result[51] == pytest.approx(50 / 198)


def test_body_percentiles_by_hand():
    """Above the mean lies 0 .. 100 without the 101 voxels of air; its percentiles 2 and 98 are 2 and 98."""
    values = torch.cat([torch.full((101,), -1000.0), torch.arange(101.0)])
    result = rescaled(values, "body_percentile")
    assert result[:101].unique().tolist() == [0]
    assert result[101 + 50] == pytest.approx(0.5)
    assert result[101 + 26] == pytest.approx(24 / 96)


@pytest.mark.parametrize(("mode", "percents"), [("percentile", (0.5, 99.5)), ("body_percentile", (2, 98))])
def test_modes_agree_with_numpy(mode, percents):
    values = np.random.default_rng(0).normal(50, 300, 5000).astype(np.float32)
    body = values if mode == "percentile" else values[values > values.mean()]
    low, high = np.percentile(body, percents)
    expected = np.clip((values - low) / (high - low), 0, 1)
    assert np.allclose(rescaled(values, mode).numpy(), expected, atol=1e-5)


def test_smallest_and_largest():
    assert rescaled(torch.tensor([-10, 0, 30]), "minmax").tolist() == pytest.approx([0, 0.25, 1])


def test_window_is_for_ct_and_percentiles_for_all_others():
    """By hand: (50 + 150) / 400 = 0.5."""
    values = torch.tensor([-1000.0, -150.0, 50.0, 250.0, 900.0])
    assert rescaled(values, "window", "CT").tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    assert torch.equal(rescaled(values, "window", "MR"), rescaled(values, "percentile"))
    other = rescaled(values, "window", "CT", window=(50, 150), window_domains=["siteA", "CT"])
    assert other.tolist() == pytest.approx([0, 0, 0, 1, 1])


def test_window_without_a_domain_is_refused_and_the_default_mode_needs_none():
    values = torch.tensor([-150.0, 50.0, 250.0])
    assert rescaled(values, "percentile").max() == 1
    with pytest.raises(InputError, match="expected domain in the case or a default_domain .* found neither"):
        rescaled(values, "window")
    assert rescaled(values, "window", default_domain="CT").tolist() == pytest.approx([0, 0.5, 1])
    percentiles = rescaled(values, "percentile")
    assert torch.equal(rescaled(values, "window", default_domain="MR"), percentiles)
    assert torch.equal(rescaled(values, "window", "MR", default_domain="CT"), percentiles)


def test_both_sources_of_the_covid_scans_end_on_one_scale():
    """-500 HU lie at 750 / 1500 = 0.5 of the window, which is 127.5 of 255."""
    hounsfield = torch.tensor([-2000.0, -1250.0, -500.0, 250.0, 1000.0])
    gray = torch.tensor([0.0, 0.0, 127.5, 255.0, 255.0])
    assert rescaled(hounsfield, "covid").tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    assert rescaled(gray, "covid").tolist() == pytest.approx([0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("mode", ["percentile", "body_percentile", "minmax", "covid", "window"])
@pytest.mark.parametrize("value", [-1000.0, 0.0, 0.1])
def test_constant_volumes_stay_finite(mode, value):
    result = rescaled(torch.full((64,), value), mode, "MR")
    assert torch.isfinite(result).all()
    assert result.unique().numel() == 1
    if mode != "covid":
        assert result.unique().tolist() == [0]


def test_equal_limits_leave_what_is_above_them():
    values = torch.zeros(1000)
    values[0] = 5  # a tenth of a percent: both percentiles are 0
    assert rescaled(values, "percentile").sum() == 1


def test_type_shape_and_meta_data():
    image = MetaTensor(torch.arange(24, dtype=torch.int16).reshape(1, 2, 3, 4), affine=np.diag([1, 2, 3, 1]))
    result = RescaleIntensityd("image")({"image": image, "id": "a"})
    assert result["image"].dtype == torch.float32
    assert result["image"].shape == image.shape
    assert result["image"].affine.equal(image.affine)
    assert image.max() == 23


def test_large_volumes_take_the_same_percentiles():
    """Above a million voxels MONAI leaves torch's quantile for numpy's percentile."""
    result = rescaled(torch.arange(1_000_001.0), "percentile")
    assert result[500_000] == pytest.approx(0.5, abs=1e-6)
    assert result[[5000, 995_000]].tolist() == pytest.approx([0, 1], abs=1e-6)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("mode", ["percentile", "body_percentile", "minmax"])
def test_voxels_that_are_no_numbers(mode, wrong):
    with pytest.raises(InputError, match="image: expected finite voxels"):
        rescaled(torch.tensor([0.0, 1.0, wrong]), mode)


def test_wrong_arguments():
    with pytest.raises(InputError, match="mode: expected one of percentile, .*found 'zscore'"):
        RescaleIntensityd("image", "zscore")
    for window in ((250, -150), (0, 1, 2), (0, float("nan"))):
        with pytest.raises(InputError, match=r"window: expected \[low, high\]"):
            RescaleIntensityd("image", window=window)


@pytest.mark.data
def test_real_liver_has_the_values_of_the_method_page(real_data):
    case = real_data / "chaos_ct_case3"
    if not case.is_dir():
        pytest.skip("no CHAOS case")
    data = LoadImaged("image", ensure_channel_first=True)({"image": case / "DICOM_anon", "domain": "CT"})
    liver = read_mask_stack(case / "Ground", case / "DICOM_anon", (512, 512)) > 0
    for mode, mean, deviation in (
        ("percentile", 0.753, 0.023),
        ("body_percentile", 0.689, 0.040),
        ("window", 0.727, 0.085),
        ("minmax", 0.469, 0.014),
    ):
        values = RescaleIntensityd("image", mode)(data)["image"][0].numpy()[liver]
        assert values.mean() == pytest.approx(mean, abs=6e-4), mode
        assert values.std() == pytest.approx(deviation, abs=6e-4), mode
