"""Forms of DMNet: they agree with each other and with the method, and are what their titles say."""

import copy

import fire
import pytest
import torch
from torch import nn

from benchmarks import dmnet_speed
from benchmarks.dmnet_speed import forms_of, untrained
from benchmarks.form_table import form_table
from common.networks.dmnet import DMNet
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically
from tests.helpers.reference_dmnet import ReferenceDMNet


@pytest.fixture
def network():
    return fill_deterministically(DMNet(encoder="resnet10", width=4)).eval()


@torch.no_grad()
def test_all_forms_agree_and_leave_the_network_alone(network):
    before = copy.deepcopy(network.state_dict())
    image = deterministic_input("image", (2, 1, 64, 48))
    forms = forms_of(network)
    rows = [line.split(" | ") for line in form_table(forms, image, 1).splitlines()[2:]]
    assert [row[0].lstrip("| ") for row in rows] == [form.title for form in forms]
    assert all(float(row[5]) < 1e-9 and row[6] == "0 of 6144" for row in rows)
    expected = ReferenceDMNet(before)(image)
    torch.testing.assert_close(forms[3].network(image), expected, atol=1e-9, rtol=1e-9)
    assert [form.network.fused for form in forms[:4]] == [False, False, True, True]
    for form, is_last in zip(forms, (False, True, False, True)):
        kernel = form.network.encoders[0].layer1[0].conv1.weight
        assert kernel.is_contiguous(memory_format=torch.channels_last) == is_last
    assert not network.fused
    torch.testing.assert_close(dict(network.state_dict()), dict(before), atol=0, rtol=0)


@torch.no_grad()
def test_last_form_runs_the_encoder_for_each_decoder(network):
    passes = []
    for form in forms_of(network)[::4]:
        for module in form.network.modules():
            if isinstance(module, type(network.encoders[0])):
                module.register_forward_hook(lambda *_: passes.append(1))
        form.network(deterministic_input("image", (1, 1, 32, 32)))
        passes.append(0)
    assert passes == [1, 0, 1, 1, 0]


def test_statistics_are_means_over_batches():
    network = untrained("resnet10", 4)
    assert {module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)} == {None}


def test_command_line_prints_the_machine_and_a_table_per_batch(monkeypatch, capsys):
    monkeypatch.setattr(dmnet_speed, "_TRAINING_SIZE", 32)
    arguments = ["--size", "32", "--batches", "1,2", "--encoder", "resnet10", "--width", "4"]
    fire.Fire(dmnet_speed.dmnet_speed, [*arguments, "--repeats", "1"])
    printed = capsys.readouterr().out
    assert f"1 thread(s), PyTorch {torch.__version__}" in printed
    assert [line for line in printed.splitlines() if line.endswith("repeats")] == [
        "1 x 32 x 32 pixels, resnet10, width 4, 1 repeats",
        "2 x 32 x 32 pixels, resnet10, width 4, 1 repeats",
    ]
    assert printed.count("| deployment form + channels_last |") == 2
