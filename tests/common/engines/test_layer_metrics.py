"""Edge distances of layers in an evaluator: which axis is which, missing layers, wrong shapes."""

import math

import pytest
import torch
from ignite.engine import Engine

from common.engines.layer_metrics import LayerMetrics
from common.errors import InputError


def layers(*tops):
    """Class indices (1, 4, 12) as MONAI reads a picture: layer k has two rows from ``tops[k - 1]`` on."""
    labels = torch.zeros(1, 4, 12)
    for index, top in enumerate(tops):
        if top is not None:
            labels[0, :, top : top + 2] = index + 1
    return labels


def run(cases, **arguments):
    engine = Engine(lambda engine, batch: batch)
    engine.state.metric_details = {}
    LayerMetrics(3, **arguments).attach(engine)
    return engine.run([[case] for case in cases])


def test_layers_run_along_the_first_axis_of_a_picture_in_memory():
    """By hand: both edges of layer 1 are off by one pixel, those of layer 2 by three, and so on."""
    pairs = [((1, 5), (2, 8)), ((1, None), (1, 8))]
    state = run([{"prediction": layers(*p), "reference": layers(*r)} for p, r in pairs])
    assert state.metric_details["val_med_px"].tolist() == [[1.0, 3.0], [0.0, math.inf]]
    assert state.metrics["val_med_px"] == pytest.approx((0.5 + 3) / 2)
    assert state.metrics["val_layers_missing"] == 1


def test_names_may_be_others():
    case = {"a": layers(1, 5), "b": layers(3, 5)}
    state = run([case], prefix="", prediction_key="a", reference_key="b")
    assert state.metrics == {"med_px": 1.0, "layers_missing": 0}


def test_one_hot_maps_are_refused():
    with pytest.raises(InputError, match=r"prediction: expected .*\(1, W, H\), found \(2, 4, 4\)"):
        run([{"prediction": torch.zeros(2, 4, 4), "reference": torch.zeros(1, 4, 4)}])
