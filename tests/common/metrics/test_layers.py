"""Distance of layer edges: numbers by hand, a loop over columns as oracle, missing layers."""

import math

import numpy as np
import pytest

from common.metrics.layers import mean_edge_distance
from tests.helpers import reference_saliency


def layer(*spans, height=10):
    """Mask (height, columns) with rows first to last of each span; ``None`` for a column without layer."""
    mask = np.zeros((height, len(spans)), dtype=bool)
    for column, span in enumerate(spans):
        if span:
            mask[span[0] : span[1] + 1, column] = True
    return mask


def test_columns_by_hand():
    # Column 0: upper edge 1 off, lower 0. Column 1: 2 and 3. Columns 2 and 3 lack the layer in one mask.
    prediction = layer((2, 5), (1, 4), (3, 4), None)
    reference = layer((3, 5), (3, 7), None, (3, 4))
    assert mean_edge_distance(prediction, reference) == pytest.approx((1 + 0 + 2 + 3) / 4)


def test_equals_a_loop_over_columns():
    generator = np.random.default_rng(0)
    masks = generator.random((2, 12, 40)) > 0.9
    expected = reference_saliency.edge_distance(*masks)
    assert mean_edge_distance(*masks) == pytest.approx(expected)
    assert mean_edge_distance(*masks[::-1]) == pytest.approx(expected)
    assert mean_edge_distance(*masks[:, ::-1, ::-1]) == pytest.approx(expected)


def test_holes_inside_a_layer_do_not_matter():
    whole, holed = layer((2, 6)), layer((2, 6))
    holed[4] = False
    assert mean_edge_distance(holed, whole) == 0


def test_missing_layers():
    nothing = layer(None, None)
    assert mean_edge_distance(nothing, nothing) == 0
    assert mean_edge_distance(nothing, layer((1, 2), None)) == math.inf
    assert mean_edge_distance(layer(None, (1, 2)), layer((1, 2), None)) == math.inf


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"equal shapes \(H, W\)"):
        mean_edge_distance(layer((1, 2)), layer((1, 2), (1, 2)))
