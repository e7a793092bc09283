"""What the responses of layers are turned into: values without infinity, a table, panels."""

import json

import numpy as np
import pytest
import torch

from common.engines.activity_report import activity_content, activity_table, draw_activity
from common.metrics.activity import LayerResponses


def layers(*values_of_layers):
    """Responses of layers of one channel each."""
    return {
        f"body.{index}.activation": LayerResponses.measure(torch.tensor(values).reshape(1, 1, -1))
        for index, values in enumerate(values_of_layers)
    }


def test_table_by_hand():
    # Shares above 0: CT 3/4 and 1/2, in all 4 of 6; MR 1/4 and 1/2, in all 2 of 6.
    # Separation, first layer: means 1 and 0, variances 2 and 1 / 2: 1 / sqrt(1.25). Second: equal means.
    # Standard deviations: only the zeros of MR are within an eighth of one.
    responses = {
        "CT": layers([1.0, 3.0, 1.0, -1.0], [2.0, -2.0]),
        "MR": layers([-1.0, 0.0, 0.0, 1.0], [4.0, -4.0]),
    }
    content = activity_content(responses, {"CT": 2, "MR": 1, "PET": 0}, 0.125)
    assert content["cases"] == {"CT": 2, "MR": 1}
    assert activity_table(content).splitlines() == [
        "| layer               | CT: > 0 | MR: > 0 | CT: beyond 0.125 std | MR: beyond 0.125 std |"
        " separation CT - MR |",
        "|---------------------|---------|---------|----------------------|----------------------|"
        "--------------------|",
        "| body.0.activation   | 0.750   | 0.250   | 1.000                | 0.500                |"
        " 0.894              |",
        "| body.1.activation   | 0.500   | 0.500   | 1.000                | 1.000                |"
        " 0.000              |",
        "| mean over layers    | 0.625   | 0.375   | 1.000                | 0.750                |"
        " 0.447              |",
        "| mean over responses | 0.667   | 0.333   | -                    | -                    |"
        " -                  |",
    ]


def test_three_domains_are_compared_in_pairs_and_infinity_is_null():
    responses = {name: layers([value] * 4, [0.0, value]) for name, value in zip("abc", (1.0, 2.0, 1.0))}
    content = activity_content(responses, dict.fromkeys("abc", 1), 0.1)
    json.dumps(content, allow_nan=False)
    # Second layer: means 0.5 and 1, variances 0.25 and 1.
    second = pytest.approx(0.5 / np.sqrt(0.625))
    found = {pair: values["mean_over_channels"] for pair, values in content["separation"].items()}
    assert found == {"a - b": [None, second], "a - c": [0, 0], "b - c": [None, second]}
    # The mean passes over what is infinite.
    assert content["separation"]["a - b"]["mean_over_layers"] == second
    assert content["channels"]["body.0.activation"]["separation"]["a - b"] == [None]
    assert "| body.0.activation   | 1.000" in activity_table(content)
    # Responses that never vary can be drawn.
    assert len(draw_activity(responses).axes) == 2 + 2


def test_the_picture_shows_the_channel_with_the_largest_separation():
    noise = torch.randn(64, 3, 4)
    shift = torch.tensor([0.5, 2.0, -1.0]).reshape(3, 1)
    responses = {
        name: {"body.activation": LayerResponses.measure(values)}
        for name, values in (("CT", noise), ("MR", noise + shift))
    }
    panels = draw_activity(responses).axes
    assert [panel.get_title() for panel in panels] == [
        "share of responses > 0",
        "separation, mean of channels",
        "body, channel 1",
    ]
    # Densities of all but 0.4 % of the responses, with means 0 and 2.
    for patch, mean in zip(panels[2].patches, (0, 2), strict=True):
        values, edges, _ = patch.get_data()
        shares = values * np.diff(edges)
        assert 0.98 < shares.sum() <= 1
        assert (shares * (edges[1:] + edges[:-1]) / 2).sum() == pytest.approx(mean, abs=0.25)


def test_one_domain_shows_the_channel_that_varies_most():
    values = torch.randn(64, 3, 4) * torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1)
    panels = draw_activity({"CT": {"body.activation": LayerResponses.measure(values)}}).axes
    assert panels[1].get_title() == "separation, mean of channels: needs two domains"
    assert panels[2].get_title() == "body, channel 2"
