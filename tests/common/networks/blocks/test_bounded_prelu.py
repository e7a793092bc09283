import pytest
import torch
from torch import nn

from common.networks.blocks.bounded_prelu import BoundedPReLU, project_slopes


def with_slopes(values, **arguments):
    prelu = BoundedPReLU(len(values), **arguments)
    with torch.no_grad():
        prelu.slope.copy_(torch.tensor(values))
    return prelu


def test_numbers_by_hand():
    features = torch.tensor([[-2.0, 3.0], [-4.0, 0.0]]).reshape(1, 2, 1, 2)
    expected = torch.tensor([[-0.02, 3.0], [-0.4, 0.0]]).reshape(1, 2, 1, 2)
    torch.testing.assert_close(with_slopes([0.01, 0.1])(features), expected)
    assert torch.equal(BoundedPReLU(2).slope, torch.full((2,), 0.01))


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4), (1, 2, 3, 4)])
def test_equals_maximum_plus_slope_times_minimum(shape):
    features = torch.randn(shape)
    slopes = torch.tensor([0.03, 0.07]).reshape(2, *[1] * (len(shape) - 2))
    expected = features.clamp(min=0) + slopes * features.clamp(max=0)
    torch.testing.assert_close(with_slopes([0.03, 0.07])(features), expected)


def test_projection_moves_only_what_is_outside():
    network = nn.Sequential(with_slopes([-0.5, 0.05, 0.5]), nn.PReLU(1), nn.Sequential(with_slopes([0.2])))
    project_slopes(network)
    assert network[0].slope.tolist() == pytest.approx([0.01, 0.05, 0.1])
    assert network[2][0].slope.item() == pytest.approx(0.1)
    assert network[1].weight.item() == 0.25
    assert network[0].slope.requires_grad


def test_bounding_in_the_forward_pass_gives_the_same_output_but_dead_slopes():
    """A slope below the bound gets a gradient after the projection, and none if it is bounded in forward."""
    features = -torch.ones(1, 2, 2, 2)
    inside, projected = with_slopes([0.0, 0.05], clamp_in_forward=True), with_slopes([0.0, 0.05])
    project_slopes(projected)
    assert torch.equal(inside(features), projected(features))
    for prelu, expected in ((inside, [0, -4]), (projected, [-4, -4])):
        prelu(features).sum().backward()
        assert prelu.slope.grad.tolist() == expected


@pytest.mark.parametrize("clamp_in_forward", [False, True])
def test_scripts_and_takes_half_precision(clamp_in_forward):
    prelu = with_slopes([0.02, 0.2], clamp_in_forward=clamp_in_forward)
    features = torch.randn(2, 2, 3, 3)
    assert torch.equal(torch.jit.script(prelu)(features), prelu(features))
    assert prelu(features.bfloat16()).dtype == torch.bfloat16
