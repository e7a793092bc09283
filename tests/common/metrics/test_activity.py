"""Counts of a layer's responses: numbers by hand, an oracle on random responses, edge cases."""

import math

import numpy as np
import pytest
import torch

from common.metrics.activity import (
    BIN_EDGES,
    NUM_BINS,
    LayerResponses,
    mean_activity,
    pooled_activity,
    separation,
)

measure = LayerResponses.measure


def one_channel(*values):
    return measure(torch.tensor(values, dtype=torch.float64).reshape(1, 1, -1))


def test_two_channels_by_hand():
    # Channel 0: -1, 0, 2, 3: two above 0, mean 1, mean square 14 / 4, variance 3.5 - 1.
    # Channel 1: 4, 4, -2, -2: two above 0, mean 1, mean square 10, variance 9.
    responses = torch.tensor([[[-1.0, 0.0], [4.0, 4.0]], [[2.0, 3.0], [-2.0, -2.0]]])
    layer = measure(responses)
    assert (layer.count, layer.active.tolist()) == (4, [2, 2])
    assert layer.active.dtype == layer.histogram.dtype == np.int64
    assert layer.sums.dtype == layer.squares.dtype == np.float64
    assert layer.mean.tolist() == [1, 1]
    assert layer.variance.tolist() == [2.5, 9]
    assert (layer.num_active, layer.num_responses, layer.active_fraction) == (4, 8, 0.5)


def test_activity_of_layers_by_hand():
    # Layers of 4 and 1 responses with 1 and 1 active: (1/4 + 1) / 2 against 2 of 5.
    layers = [one_channel(1.0, -1.0, -1.0, 0.0), one_channel(7.0)]
    assert mean_activity(layers) == pytest.approx(0.625)
    assert pooled_activity(layers) == pytest.approx(0.4)


def test_separation_by_hand():
    # Means 0 and 3, variances 1 and 7: 3 / sqrt(8 / 2) = 1.5, whichever comes first.
    first, second = one_channel(-1.0, 1.0), one_channel(3 - math.sqrt(7), 3 + math.sqrt(7))
    assert separation(first, second).tolist() == pytest.approx([1.5])
    assert separation(second, first).tolist() == pytest.approx([1.5])
    assert separation(first, first).tolist() == [0]


def test_separation_of_responses_that_never_vary():
    same, other = (measure(torch.tensor([[0.0, value]] * 2)) for value in (0.0, 2.0))
    assert separation(same, other).tolist() == [0, np.inf]


def test_bins_by_hand():
    # 0.01 sinh(0.05) = 0.00050021 and 0.01 sinh(0.1) = 0.0010017 bound the bin after that of 0; 1 lies at
    # asinh(100) / 0.05 = 105.97. The outermost bins end at 0.01 sinh(14) = 6013.0.
    assert BIN_EDGES[[0, 281, 282, 560]] == pytest.approx([-6013.0, 0.00050021, 0.0010017, 6013.0], rel=1e-4)
    for value, index in ((0.0, 280), (-1e-6, 279), (0.0007, 281), (1.0, 385), (-1.0, 174)):
        assert one_channel(value).histogram.nonzero()[1].tolist() == [index]
    for value, index in ((1e9, NUM_BINS - 1), (-1e9, 0)):
        assert one_channel(value).histogram.nonzero()[1].tolist() == [index]


def test_equals_numpy_on_random_responses():
    responses = torch.randn(3, 5, 40, 30) * torch.logspace(-2, 2, 5).reshape(5, 1, 1) + 0.3
    layer = measure(responses)
    rows = np.moveaxis(responses.double().numpy(), 1, 0).reshape(5, -1)
    np.testing.assert_allclose(layer.mean, rows.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(layer.variance, rows.var(axis=1), rtol=1e-10)
    assert layer.active.tolist() == (rows > 0).sum(axis=1).tolist()
    assert layer.histogram.sum(axis=1).tolist() == [3600] * 5
    # Values next to an edge may fall on its other side in float32.
    counts = np.stack([np.histogram(row, BIN_EDGES)[0] for row in rows])
    assert np.abs(layer.histogram - counts).sum() <= 10
    np.testing.assert_allclose(layer.shares_below[:, 280], (rows < 0).mean(axis=1), rtol=1e-12)
    for eps in (0.1, 1.0):
        exact = (np.abs(rows) > eps * rows.std(axis=1, keepdims=True)).mean()
        assert layer.fraction_beyond(eps) == pytest.approx(exact, abs=0.003)


def test_shares_beyond_by_hand():
    # 90 of 100 responses are 0.001 and 10 are 10: the standard deviation is 3.0, a tenth of it 0.3. A channel
    # that never varies counts fully, one that is always 0 never.
    mixed = torch.tensor([0.001] * 90 + [10.0] * 10)
    layer = measure(torch.stack([mixed, torch.full_like(mixed, -5.0), torch.zeros_like(mixed)])[None])
    assert layer.fraction_beyond(0.1) == pytest.approx((0.1 + 1 + 0) / 3)
    # The bin of 10 is half within 10 if the limit is its middle: responses are taken to be spread evenly.
    low, high = BIN_EDGES[BIN_EDGES <= 10][-1], BIN_EDGES[BIN_EDGES > 10][0]
    middle = (low + high) / 2 / np.sqrt(layer.variance[0])
    assert one_channel(*mixed.tolist()).fraction_beyond(middle) == pytest.approx(0.05)


def test_parts_add_up_exactly():
    responses = torch.randn(6, 3, 8, 8)
    parts = measure(responses[:2]) + measure(responses[2:])
    whole = measure(responses)
    assert parts.count == whole.count == 6 * 64
    np.testing.assert_array_equal(parts.active, whole.active)
    np.testing.assert_array_equal(parts.histogram, whole.histogram)
    np.testing.assert_allclose(parts.sums, whole.sums, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(parts.squares, whole.squares, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_and_memory_formats(dtype):
    responses = torch.randn(2, 4, 6, 6).to(dtype)
    expected = measure(responses.float())
    for given in (responses, responses.to(memory_format=torch.channels_last)):
        found = measure(given.requires_grad_())
        assert found.active.tolist() == expected.active.tolist()
        np.testing.assert_allclose(found.squares, expected.squares, rtol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="responses: expected finite values, got NaN or infinity"):
        one_channel(1.0, value)


def test_unusable_shapes_are_refused():
    for shape in ((3,), (0, 3, 4), (2, 0, 4)):
        with pytest.raises(ValueError, match=r"responses: expected values \(B, C, ...\), got shape"):
            measure(torch.zeros(shape))
    with pytest.raises(ValueError, match="expected 2 channels, got 3"):
        measure(torch.ones(1, 2)) + measure(torch.ones(1, 3))
