"""Forms of the cross-domain network and ways to stack slices: they agree, and are what they are called."""

import copy
import functools

import fire
import pytest
import torch
from torch import nn

from benchmarks import crossdomain_speed
from benchmarks.crossdomain_speed import copied_stacks, forms_of, stack_table
from benchmarks.side_by_side import measure, settled
from common.networks.crossdomain_unet import CrossDomainUNet
from tests.helpers.reference_crossdomain import ReferenceCrossDomain, randomize

TITLES = ["plain", "plain + channels_last", "folded", "folded + channels_last"]
Small = functools.partial(CrossDomainUNet, widths=(4, 6, 8, 10, 12))


@pytest.mark.parametrize("structure", ["pre", "post"])
def test_all_forms_agree_and_are_what_their_titles_say(structure):
    network = randomize(Small(structure=structure)).eval()
    before = copy.deepcopy(network.state_dict())
    forms = forms_of(network)
    image = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    timings = measure(forms, image, repeats=2)
    assert [timing.title for timing in timings] == [form.title for form in forms] == TITLES
    assert [len(timing.seconds) for timing in timings] == [2] * 4
    assert max(max(timing.to_first, timing.to_exact) for timing in timings) < 1e-9
    assert [form.network.fused for form in forms] == [False, False, True, True]
    batch_norms = [sum(isinstance(m, nn.BatchNorm2d) for m in form.network.modules()) for form in forms]
    assert batch_norms == ([7, 7, 0, 0] if structure == "pre" else [8, 8, 0, 0])
    for form, is_last in zip(forms, (False, True, False, True)):
        kernel = form.network.encoder[1].conv.weight
        assert kernel.is_contiguous(memory_format=torch.channels_last) == is_last
        assert (form.memory_format == torch.channels_last) == is_last
    # They are the method, and the network that was given can go on training.
    expected = ReferenceCrossDomain(before, structure).segment(image)
    torch.testing.assert_close(forms[3].network(image), expected, atol=1e-9, rtol=1e-9)
    assert not network.fused
    torch.testing.assert_close(dict(network.state_dict()), dict(before), atol=0, rtol=0)


def test_statistics_are_those_of_the_weights():
    network = settled(Small, (2, 3, 32, 32), batches=50)
    assert not network.training
    variances = torch.cat([m.running_var for m in network.modules() if isinstance(m, nn.BatchNorm2d)])
    assert not torch.isclose(variances, torch.ones(())).any()
    first, second = (settled(Small, (2, 3, 32, 32), batches=1).state_dict() for _ in range(2))
    torch.testing.assert_close(dict(first), dict(second), atol=0, rtol=0)


def test_stacks_by_hand():
    # A volume of 4 x 256 KiB. Copies hold it three times; views hold it with one slice more at each end.
    volume = torch.rand(256, 256, 4)
    lines = stack_table(volume, repeats=1).splitlines()
    assert lines[0] == "| stacks | minimum, s | median, s | times faster | MiB | equal to the first |"
    cells = [line.strip("| ").split(" | ") for line in lines[2:]]
    assert [(row[0], *row[4:]) for row in cells] == [
        ("copies", "3.0", "yes"),
        ("overlapping views", "1.5", "yes"),
    ]
    assert copied_stacks(volume, 1).shape == (4, 3, 256, 256)


def test_stacks_that_differ_show(monkeypatch):
    monkeypatch.setattr(
        crossdomain_speed, "slice_stacks", lambda volume, neighbors: copied_stacks(volume, neighbors).flip(0)
    )
    assert stack_table(torch.rand(8, 8, 9), repeats=1).splitlines()[-1].endswith("| no |")


def test_command_line_prints_the_machine_and_all_tables(monkeypatch, capsys):
    monkeypatch.setattr(crossdomain_speed, "CrossDomainUNet", Small)
    monkeypatch.setattr(crossdomain_speed, "_TRAINING_BATCHES", 1)
    arguments = ["--size", "32", "--batches", "1,2", "--repeats", "1", "--slices", "9"]
    fire.Fire(crossdomain_speed.crossdomain_speed, arguments)
    printed = capsys.readouterr().out
    assert f"1 thread(s), PyTorch {torch.__version__}" in printed
    assert [line for line in printed.splitlines() if line.endswith("repeats")] == [
        "pre, 1 x 32 x 32 pixels, 1 repeats",
        "pre, 2 x 32 x 32 pixels, 1 repeats",
        "post, 1 x 32 x 32 pixels, 1 repeats",
        "post, 2 x 32 x 32 pixels, 1 repeats",
        "stacks of three slices, 32 x 32 x 9 voxels, 1 repeats",
    ]
    assert all(printed.count(f"| {title} |") == 4 for title in TITLES)
    fire.Fire(crossdomain_speed.crossdomain_speed, [*arguments, "--batches", "1", "--structures", "post"])
    assert capsys.readouterr().out.count("| folded |") == 1
