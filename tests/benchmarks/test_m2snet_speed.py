import copy
import functools

import fire
import pytest
import torch

from benchmarks import m2snet_speed
from benchmarks.m2snet_speed import dense_form, forms_of, settled_network
from benchmarks.side_by_side import measure
from common.networks.m2snet import M2SNet
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically
from tests.helpers.reference_m2snet import ReferenceM2SNet, authors_name

SMALL = {"width": 8, "blocks": (1, 2, 1, 1)}


@pytest.fixture
def network():
    return fill_deterministically(M2SNet(**SMALL), authors_name).eval()


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_dense_form_equals_the_method_spelled_out_with_dense_filters(network, training):
    dense = dense_form(network.train(training))
    assert dense.training == training
    weights = {authors_name(key): value.clone() for key, value in network.state_dict().items()}
    image = deterministic_input("image", (2, 3, 64, 70))
    torch.testing.assert_close(dense(image), ReferenceM2SNet(weights, training)(image), atol=1e-9, rtol=1e-9)
    filters = dense.pyramid.difference.filters.state_dict()
    for key, value in filters.items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, weights[f"conv_{key}"], atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_dense_form_convolves_all_channels_where_ours_sum():
    network = M2SNet(**SMALL).eval()
    image = torch.randn(1, 3, 64, 64)
    kernels = {"dense": [], "ours": []}

    class Convolutions(torch.overrides.TorchFunctionMode):
        def __init__(self, found):
            super().__init__()
            self.found = found

        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.conv2d:
                self.found.append(tuple(args[1].shape))
            return function(*args, **(kwargs or {}))

    for name, form in (("dense", dense_form(network)), ("ours", network)):
        with Convolutions(kernels[name]):
            form(image)
    more = copy.copy(kernels["dense"])
    for kernel in kernels["ours"]:
        more.remove(kernel)
    assert sorted(more) == [(8, 8, 3, 3)] * 20 + [(8, 8, 5, 5)] * 20


@torch.no_grad()
def test_added_features_are_added_in_the_dense_form_as_well():
    network = fill_deterministically(M2SNet(operation="add", **SMALL), authors_name).eval()
    image = deterministic_input("image", (1, 3, 64, 64))
    torch.testing.assert_close(dense_form(network)(image), network(image), atol=1e-9, rtol=1e-9)


def test_all_forms_agree_and_are_what_their_titles_say(network):
    before = copy.deepcopy(network.state_dict())
    forms = forms_of(network)
    timings = measure(forms, deterministic_input("image", (1, 3, 64, 64)), repeats=2)
    assert [timing.title for timing in timings] == [form.title for form in forms]
    assert [len(timing.seconds) for timing in timings] == [2] * 4
    assert all(second > 0 for timing in timings for second in timing.seconds)
    assert max(max(timing.to_first, timing.to_exact) for timing in timings) < 1e-9
    assert timings[0].to_first == timings[0].to_exact == 0
    assert [form.network.fused for form in forms] == [False, False, True, True]
    kernel = forms[3].network.reduce["5"][0].weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    # The network that was given can go on training.
    assert not network.fused
    torch.testing.assert_close(dict(network.state_dict()), dict(before), atol=0, rtol=0)


def test_a_form_that_is_off_shows(network):
    forms = forms_of(network)[:2]
    with torch.no_grad():
        forms[1].network.head.bias += 0.25
    timing = measure(forms, deterministic_input("image", (1, 3, 64, 64)), repeats=1)[1]
    assert (timing.to_first, timing.to_exact) == pytest.approx((0.25, 0.25))


def test_command_line_prints_the_machine_and_a_table_per_size(monkeypatch, capsys):
    monkeypatch.setattr(m2snet_speed, "M2SNet", functools.partial(M2SNet, **SMALL))
    monkeypatch.setattr(m2snet_speed, "_TRAINING_BATCHES", 1)
    fire.Fire(m2snet_speed.m2snet_speed, ["--sizes", "64,96", "--repeats", "1", "--threads", "1"])
    printed = capsys.readouterr().out
    assert f"1 thread(s), PyTorch {torch.__version__}" in printed
    assert [line for line in printed.splitlines() if "pixels" in line] == [
        "64 x 64 pixels, 1 repeats",
        "96 x 96 pixels, 1 repeats",
    ]
    assert printed.count("| + channels_last |") == 2
    fire.Fire(m2snet_speed.m2snet_speed, ["--sizes", "64", "--repeats", "1"])
    assert capsys.readouterr().out.count("| as released |") == 1


def test_settled_network_is_the_same_each_time_and_leaves_the_random_state_alone(monkeypatch):
    monkeypatch.setattr(m2snet_speed, "M2SNet", functools.partial(M2SNet, **SMALL))
    monkeypatch.setattr(m2snet_speed, "_BATCH_SHAPE", (2, 3, 64, 64))
    state = torch.get_rng_state()
    first, second = settled_network(), settled_network()
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(dict(first.state_dict()), dict(second.state_dict()), atol=0, rtol=0)
    assert not first.training
    assert first.pyramid.difference.filters["5"].norm.num_batches_tracked == 10 * 20
