"""One step with and without scaler: the gradient's norm, its limit, and what the optimizer sees."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.engines.optimizer_steps import take_step, update_scale


def stepped(max_grad_norm=None, scaler=None, loss_scale=1.0):
    """Two parameters 0 with the gradients 3 and 4 after a step with the rate 1, and what it returned."""
    values = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": values[:1]}, {"params": values[1:]}], lr=1.0)
    engine = SimpleNamespace(amp=scaler is not None, scaler=scaler, optim_set_to_none=True)
    values[0].grad = torch.ones(1)  # left over from the step before
    loss = loss_scale * (3 * values[0] + 4 * values[1]).sum()
    norm = take_step(engine, optimizer, loss, max_grad_norm)
    update_scale(engine)
    return [value.item() for value in values], norm


@pytest.mark.parametrize("scaler", [None, torch.amp.GradScaler("cpu", init_scale=1024)])
@pytest.mark.parametrize(
    ("limit", "expected"),
    # The norm is 5 over both groups; a limit of 1 leaves a fifth of each.
    [(None, [-3, -4]), (10, [-3, -4]), (1, [-0.6, -0.8]), (2.5, [-1.5, -2])],
)
def test_steps_by_hand(limit, expected, scaler):
    found, norm = stepped(limit, scaler)
    assert found == pytest.approx(expected, abs=1e-5)
    assert norm is None if limit is None else norm.item() == pytest.approx(5)


def test_a_step_with_infinite_gradients_is_left_out_by_the_scaler():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024)
    found, norm = stepped(1.0, scaler, loss_scale=float("inf"))
    assert found == [0, 0]
    assert not torch.isfinite(norm)
    assert scaler.get_scale() == 512
