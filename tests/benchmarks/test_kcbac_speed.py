"""Forms of kCBAC-Net: they agree with each other and with the method, and are what their titles say."""

import copy
import functools

import fire
import pytest
import torch
from torch import nn

from benchmarks import kcbac_speed
from benchmarks.form_table import form_table
from benchmarks.kcbac_speed import forms_of, untrained
from benchmarks.plain_forms.bipartite import plain_form
from benchmarks.side_by_side import settled
from common.networks.kcbac import KCBACNet
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically
from tests.helpers.reference_kcbac import reference_two_networks


def small(spatial_dims, **arguments):
    network = KCBACNet(spatial_dims, 1, 3, base_width=2, num_scales=3, **arguments)
    return fill_deterministically(network).eval()


def image(spatial_dims):
    return deterministic_input("image", (2, 1, *([16] * 3 if spatial_dims == 3 else [32] * 2)))


@pytest.mark.parametrize(("spatial_dims", "last"), [(2, "channels_last"), (3, "channels_last_3d")])
@torch.no_grad()
def test_all_forms_agree_and_leave_the_network_alone(spatial_dims, last):
    network = small(spatial_dims)
    before = copy.deepcopy(network.state_dict())
    forms = forms_of(network)
    titles = ["as printed", "training form", "deployment form", f"+ {last}"]
    assert [form.title for form in forms] == titles
    rows = [line.split(" | ") for line in form_table(forms, image(spatial_dims), 1).splitlines()[2:]]
    assert all(float(row[5]) < 1e-9 and row[6].startswith("0 of ") for row in rows)
    expected = reference_two_networks(network, image(spatial_dims))
    torch.testing.assert_close(forms[0].network(image(spatial_dims)), expected, atol=1e-9, rtol=1e-9)
    assert [form.network.fused for form in forms] == [False, False, True, True]
    kernel = forms[3].network.networks[0].bridge[0].branches[0].weight
    assert kernel.is_contiguous(memory_format=getattr(torch, last))
    assert not network.fused
    torch.testing.assert_close(dict(network.state_dict()), dict(before), atol=0, rtol=0)


@pytest.mark.parametrize("skips", ["reduce", "raw"])
def test_printed_form_trains_as_ours_does(skips):
    ours = small(2, skips=skips).train()
    printed = plain_form(ours)
    assert printed.training
    outputs = [network(image(2)) for network in (ours, printed)]
    assert outputs[0].shape == (2, 4, 3, 32, 32)
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-9, rtol=1e-9)
    gradients = []
    for network, output in zip((ours, printed), outputs):
        output.square().mean().backward()
        gradients.append({name: value.grad for name, value in network.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-9, rtol=1e-6)


@torch.no_grad()
def test_printed_form_resizes_every_skip_by_itself():
    network = small(2)
    found = []

    class Resizings(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if function.__name__ in ("max_pool2d", "interpolate", "boolean_dispatch"):
                found.append((function.__name__, args[0].shape[1]))
            return result

    counts = []
    for form in (plain_form(network), network):
        found.clear()
        with Resizings():
            form(image(2)[:1])
        counts.append(sorted(channels for name, channels in found if name == "interpolate"))
    # Widths 2, 4, 8. Decoders of levels 3, 2, 1 take 0, 1, 2 coarser encoders: whole, or as wide as they are.
    assert counts == [[4, 4, 8, 8, 8, 8], [2, 2, 2, 2, 4, 4]]


def test_few_batches_settle_the_statistics():
    build = functools.partial(untrained, spatial_dims=2, base_width=2, num_scales=2)
    network = settled(build, (2, 1, 8, 8), 2)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {int(norm.num_batches_tracked) for norm in norms} == {2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own, images = build(), [torch.randn(2, 1, 8, 8) for _ in range(2)]
    outputs = [
        own.networks[0].encoders[0][0].branches[0].conv(nn.functional.max_pool2d(x, 2)) for x in images
    ]
    expected = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    found = network.networks[0].encoders[0][0].branches[0].norm.running_mean
    torch.testing.assert_close(found, expected.detach())


def test_command_line_prints_the_machine_and_the_table(monkeypatch, capsys):
    monkeypatch.setattr(kcbac_speed, "_TRAINING_BATCHES", 1)
    arguments = ["--size", "16", "--base_width", "1", "--num_scales", "2", "--repeats", "1"]
    fire.Fire(kcbac_speed.kcbac_speed, arguments)
    printed = capsys.readouterr().out
    assert f"1 thread(s), PyTorch {torch.__version__}" in printed
    assert "16 x 16 x 16, C = 1, 2 scales, 1 repeats" in printed
    assert all(printed.count(f"| {title} |") == 1 for title in ("as printed", "+ channels_last_3d"))
