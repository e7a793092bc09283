"""Schedules and learning-rate groups: published numbers, a scheduler's life, groups that stay empty."""

import functools

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from common.engines.schedules import lagged_poly, lagged_ramp, learning_rate_groups, triangle, warm_up
from common.errors import InputError


class TwoParts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Conv2d(3, 4, 1)
        self.encoder_extra = torch.nn.Conv2d(4, 4, 1)
        self.head = torch.nn.Conv2d(4, 1, 1)


def test_rates_of_fifty_epochs():
    rates = [0.05 * triangle(epoch, 50) for epoch in range(50)]
    assert [round(rate, 5) for rate in rates[:2]] == [0.00196, 0.00392]
    assert rates[24] == pytest.approx(0.05 * 50 / 51)
    assert rates[25] == pytest.approx(rates[24])
    assert rates == pytest.approx(rates[::-1])
    assert rates[-1] == pytest.approx(0.1 / 51)
    assert rates.index(max(rates)) in (24, 25)


def test_an_odd_number_of_epochs_reaches_the_full_rate():
    assert [triangle(epoch, 3) for epoch in range(5)] == pytest.approx([0.5, 1, 0.5, 0, 0])
    assert triangle(0, 1) == 1


def test_no_epochs_are_refused():
    with pytest.raises(InputError, match="max_epochs: expected at least 1, found 0"):
        triangle(0, 0)


def test_ramp_has_the_published_weights():
    """The published numbers count finished epochs: the weight after 750 is first used in the epoch 751."""
    finished = (0, 250, 500, 750, 1000, 1250)
    weights = [lagged_ramp(epoch + 1, 1500) for epoch in finished]
    assert [round(weight, 2) for weight in weights[1:]] == [0.31, 1.08, 2.87, 5.74, 8.7]
    assert weights[0] == lagged_ramp(0, 1500) == pytest.approx(0.067, abs=5e-4)
    assert round(lagged_ramp(1500, 1500), 2) == 10
    # Half-way, one epoch late: exp(-5 / 4).
    assert lagged_ramp(3, 4, peak=1) == pytest.approx(0.2865048)
    assert lagged_ramp(9, 4, peak=3) == 3


def test_polynomial_decay_ends_above_zero_as_published():
    assert lagged_poly(0, 1500) == lagged_poly(1, 1500) == 1
    assert round(0.3 * lagged_poly(1500, 1500), 5) == 0.00042
    # A quarter is left after three of four epochs: sqrt(1 / 4).
    assert lagged_poly(4, 4, power=0.5) == pytest.approx(0.5)
    assert lagged_poly(5, 4) == lagged_poly(9, 4) == 0


def test_a_scheduler_may_step_past_the_last_epoch():
    optimizer = torch.optim.SGD(TwoParts().parameters(), lr=0.3)
    scheduler = LambdaLR(optimizer, functools.partial(lagged_poly, last_epoch=2, power=1))
    found = []
    for _ in range(5):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert found == pytest.approx([0.3, 0.3, 0.15, 0, 0])


def test_warm_up_by_hand():
    """Three epochs at 1/4, 2/4 and 3/4 of the rate, then the full one; the decay is 1, 1, 3/4, 1/2."""
    assert [warm_up(epoch, 3) for epoch in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warm_up(0, 0) == 1
    product = [lagged_poly(epoch, 4, power=1) * warm_up(epoch, 3) for epoch in range(4)]
    assert product == pytest.approx([0.25, 0.5, 0.5625, 0.5])


def test_a_negative_warm_up_is_refused():
    with pytest.raises(InputError, match="warm_up_epochs: expected at least 0, found -1"):
        warm_up(0, -1)


@pytest.mark.parametrize("schedule", [lagged_poly, lagged_ramp])
def test_schedules_without_epochs_are_refused(schedule):
    with pytest.raises(InputError, match="last_epoch: expected at least 1, found 0"):
        schedule(0, 0)


def test_scheduler_scales_each_group():
    network = TwoParts()
    groups = learning_rate_groups(network, {"encoder": 0.005})
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    scheduler = LambdaLR(optimizer, functools.partial(triangle, max_epochs=3))
    found = []
    for _ in range(4):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert found == [
        pytest.approx(rates) for rates in ([0.0025, 0.025], [0.005, 0.05], [0.0025, 0.025], [0, 0])
    ]


def test_every_trainable_parameter_is_in_one_group():
    network = TwoParts()
    network.head.bias.requires_grad_(False)
    groups = learning_rate_groups(network, {"head": 0.1, "encoder": 0.2})
    assert [group.get("lr") for group in groups] == [0.1, 0.2, None]
    assert groups[0]["params"] == [network.head.weight]
    assert list(map(id, groups[1]["params"])) == list(map(id, network.encoder.parameters()))
    assert list(map(id, groups[2]["params"])) == list(map(id, network.encoder_extra.parameters()))


def test_no_rates_give_one_group_and_all_rates_no_rest():
    network = TwoParts()
    (group,) = learning_rate_groups(network, {})
    assert len(group["params"]) == 6
    assert len(learning_rate_groups(network, {"encoder": 1, "encoder_extra": 1, "head": 1})) == 3


def test_parallel_wrappers_are_looked_through():
    network = torch.nn.DataParallel(TwoParts())
    assert learning_rate_groups(network, {"encoder": 0.1})[0]["lr"] == 0.1


def test_a_group_that_would_stay_empty_is_refused():
    with pytest.raises(InputError, match=r"\(encoder, encoder_extra, head\), found 'bkbone'"):
        learning_rate_groups(TwoParts(), {"bkbone": 0.005})
