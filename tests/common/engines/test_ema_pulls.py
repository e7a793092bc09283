"""Pulls between heads and decoders: numbers by hand, each switch, what a network lacks, wrappers."""

import pytest
import torch
from torch import nn

from common.engines.ema_pulls import EmaPulls
from common.errors import InputError
from common.networks.skcdf import SKCDF


class Decoder(nn.Module):
    """A decoder whose every parameter is one number."""

    def __init__(self, trunk, main, balanced):
        super().__init__()
        self.trunk = nn.BatchNorm1d(1)
        self.main_head = nn.Linear(1, 1)
        self.balanced_head = None if balanced is None else nn.Linear(1, 1)
        for part, value in zip((self.trunk, self.main_head, self.balanced_head), (trunk, main, balanced)):
            if part is not None:
                nn.init.constant_(part.weight, value)
                nn.init.constant_(part.bias, -value)


class Decoders(nn.Module):
    def __init__(self, labeled=(3, 1, 2), unlabeled=(30, 10, 20)):
        super().__init__()
        self.labeled_decoder = None if labeled is None else Decoder(*labeled)
        self.unlabeled_decoder = Decoder(*unlabeled)


def numbers(decoder):
    parts = [decoder.trunk, decoder.main_head, decoder.balanced_head]
    found = [part for part in parts if part is not None]
    assert all(torch.equal(part.bias.flatten(), -part.weight.flatten()) for part in found)
    return [part.weight.item() for part in found]


@pytest.mark.parametrize(
    ("switches", "labeled", "unlabeled"),
    [
        # 0.9 1 + 0.1 2; with it 0.9 30 + 0.1 3, 0.9 10 + 0.1 1.1 = 9.11 and 0.9 20 + 0.1 2; with those
        # 0.9 9.11 + 0.1 18.2 = 10.019. Any other order gives another number.
        ({}, [3, 1.1, 2], [27.3, 10.019, 18.2]),
        ({"heads": False}, [3, 1, 2], [27.3, 9.1, 18.2]),
        ({"decoders": False}, [3, 1.1, 2], [30, 11, 20]),
        ({"heads": False, "decoders": False}, [3, 1, 2], [30, 10, 20]),
    ],
)
def test_pulls_by_hand(switches, labeled, unlabeled):
    network = Decoders()
    EmaPulls(network, 0.9, **switches)()
    assert numbers(network.labeled_decoder) == pytest.approx(labeled)
    assert numbers(network.unlabeled_decoder) == pytest.approx(unlabeled)


def test_without_labeled_decoder_the_last_pull_remains():
    network = Decoders(labeled=None)
    EmaPulls(network, 0.9)()
    assert numbers(network.unlabeled_decoder) == pytest.approx([30, 11, 20])


def test_without_balanced_heads_the_pull_of_the_decoders_remains():
    network = Decoders((3, 1, None), (30, 10, None))
    EmaPulls(network, 0.9)()
    assert numbers(network.labeled_decoder) == [3, 1]
    assert numbers(network.unlabeled_decoder) == pytest.approx([27.3, 9.1])


def test_a_plain_network_has_nothing_to_pull():
    network = Decoders(None, (30, 10, None))
    EmaPulls(network)()
    assert numbers(network.unlabeled_decoder) == [30, 10]


@pytest.mark.parametrize(("momentum", "expected"), [(1, [30, 10, 20]), (0, [3, 2, 2])])
def test_ends_of_the_momentum(momentum, expected):
    network = Decoders()
    EmaPulls(network, momentum)()
    assert numbers(network.unlabeled_decoder) == expected


def test_running_statistics_stay_and_parameters_remain_the_optimizers():
    network = Decoders()
    network.labeled_decoder.trunk.running_mean.fill_(7)
    before = list(network.parameters())
    EmaPulls(network)()
    assert network.unlabeled_decoder.trunk.running_mean.item() == 0
    assert network.unlabeled_decoder.trunk.running_var.item() == 1
    after = list(network.parameters())
    assert all(a is b and a.requires_grad and a.grad_fn is None for a, b in zip(before, after))


def test_parallel_wrappers_are_looked_through():
    network = Decoders()
    EmaPulls(nn.DataParallel(network), 0.9)()
    assert numbers(network.unlabeled_decoder) == pytest.approx([27.3, 10.019, 18.2])


def test_every_parameter_of_the_real_decoders_moves_and_no_other():
    network = SKCDF(width=1, num_classes=3, roi_size=(32, 32, 32), attention="local")
    for number, value in enumerate(network.parameters()):
        nn.init.constant_(value, number)
    before = {name: value.clone() for name, value in network.named_parameters()}
    EmaPulls(network)()
    moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    decoder = {name for name in before if name.startswith("unlabeled_decoder.")}
    assert moved == decoder | {f"labeled_decoder.main_head.{name}" for name in ("weight", "bias")}
    # 0.99 p + 0.01 q, where the two decoders' parameters are equally far apart: q = p - distance.
    name = "stages.1.0.weight"
    apart = before[f"unlabeled_decoder.{name}"].mean() - before[f"labeled_decoder.{name}"].mean()
    change = (network.unlabeled_decoder.stages[1][0].weight - before[f"unlabeled_decoder.{name}"]).mean()
    assert change.item() == pytest.approx(-0.01 * apart.item(), rel=1e-3)


@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_a_momentum_that_is_no_share_is_refused(momentum):
    with pytest.raises(InputError, match=rf"momentum: expected a number from 0 to 1, found {momentum}"):
        EmaPulls(Decoders(), momentum)


def test_another_network_is_refused():
    with pytest.raises(InputError, match="expected the part labeled_decoder, found a Linear"):
        EmaPulls(nn.Linear(1, 1))
