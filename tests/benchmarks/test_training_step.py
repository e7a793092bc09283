"""Training steps, plain and ours: the same parameters afterwards, and the plain ones do what they are for."""

import fire
import pytest
import torch
from torch import nn

from benchmarks import training_step
from benchmarks.training_step import METHODS, Side, descending, step_rows

TINY = {
    "kcbac": {"edge": 8, "width": 2, "num_scales": 2},
    "m2snet": {"edge": 64, "width": 8, "blocks": (1, 1, 1, 1)},
    "dmnet": {"edge": 32, "batch_size": 2, "encoder": "resnet10", "width": 4},
    "crossdomain": {"edge": 32, "batch_size": 2, "widths": (4, 6, 8, 10, 12)},
    "skcdf": {"size": (32, 32, 32), "width": 1},
}


@pytest.fixture
def exact():
    """float64 throughout: in float32 rounding alone tells the two sides apart."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("method", METHODS)
def test_both_sides_learn_the_same(method, exact):
    sides = METHODS[method](**TINY[method])
    before = [value.detach().clone() for value in sides[0].network.parameters()]
    assert len(sides) == 2
    for _ in range(2):
        losses = []
        for side in sides:
            side.network.train()
            losses.append(side.step().item())
        assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    plain, ours = (list(side.network.parameters()) for side in sides)
    torch.testing.assert_close(ours, plain, atol=1e-8, rtol=1e-6)
    assert all(one is not other for one, other in zip(plain, ours))
    assert any((value != start).any() for value, start in zip(plain, before))


@pytest.mark.parametrize(("method", "expected"), [("dmnet", [4, 2]), ("crossdomain", [2, 1])])
def test_plain_adversarial_steps_run_the_network_for_each_player(method, expected, exact):
    counts = []
    for side in METHODS[method](**TINY[method]):
        passes = []
        side.network.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        side.step()
        counts.append(len(passes))
    assert counts == expected


def test_table_by_hand():
    """Loss w^2 at w = 1: gradient 2, step 0.02; a side that is off by 0.5 loses 1.25 more and moves 0.03."""

    class Weight(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = nn.Parameter(torch.tensor([value]))

    sides = [descending(Weight(value), lambda net: net.value.square().sum()) for value in (1.0, 1.5)]
    rows = step_rows("w", sides, repeats=2)
    assert [row[0] for row in rows] == ["w, plain", "w, ours"]
    # 0.98 and 1.47 after the first step.
    assert [row[5:7] for row in rows] == [
        ["0.0e+00", "0.0e+00 of 2.0e-02"],
        ["1.2e+00", "4.9e-01 of 2.0e-02"],
    ]


def test_command_line_prints_the_machine_and_the_table(monkeypatch, capsys):
    def sides():
        network = nn.Linear(1, 1)
        return [Side(network, lambda: torch.zeros(()))] * 2

    monkeypatch.setattr(training_step, "METHODS", {"one": sides, "other": sides})
    fire.Fire(training_step.training_step, ["--methods", "one,other", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert f"1 thread(s), PyTorch {torch.__version__}" in printed
    assert [
        printed.count(f"| {name}, {side} |") for name in ("one", "other") for side in ("plain", "ours")
    ] == [1] * 4
    fire.Fire(training_step.training_step, ["--methods", "other", "--repeats", "1"])
    assert "| one," not in capsys.readouterr().out
