"""Parity with the released networks, whose outputs were measured with weights that follow from names."""

import copy

import pytest
import torch

from common.networks.m2snet import M2SNet, MSNet
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically
from tests.helpers.reference_m2snet import authors_name

SAMPLES = (0, 4916, 8192, 12288, 19663, 24575)
# Mean, population standard deviation, minimum, maximum of the logits, then the samples (flat index).
EVALUATION = (
    (-0.19403587138493553, 0.0530646227066613, -0.36884017999728475, -0.09299739275913069),
    (-0.12255296823267213, -0.13993499812137175, -0.2992289003668589)
    + (-0.11236177748503191, -0.1611792230973429, -0.180874533050923),
)
SINGLE_EVALUATION = (
    (-0.3247702920987819, 0.02616002224313842, -0.3865214489731014, -0.12184806817111248),
    (-0.12628245753334857, -0.32931743410207814, -0.36513299366907226)
    + (-0.12184806817111248, -0.3309113641042788, -0.19992542240779038),
)
TRAINING = (
    (-0.05048124710478794, 0.3932028109205916, -1.6684056665277756, 1.416906758230079),
    (0.20063638103946324, -0.15262889848647723, -0.3840880648711905)
    + (0.15281077337214405, 0.7672777052444556, -0.5149559993392241),
)
# Running statistics of the shared normalizations after one pass in training: channels 0 and 63.
FILTER_STATISTICS = {
    "3.norm.running_mean": (164.80239907986066, 154.99068406951028),
    "3.norm.running_var": (4758.01085714345, 4377.353206718388),
    "5.norm.running_mean": (349.5398163486427, 347.05148799493827),
    "5.norm.running_var": (25913.236769094696, 25969.2482530218),
}


@pytest.fixture(scope="module")
def published():
    """The published network with deterministic weights, in evaluation mode. Not to be changed."""
    with torch.device("meta"):
        network = M2SNet()
    return fill_deterministically(network, authors_name).eval()


def assert_is(logits, expected):
    moments, samples = expected
    flat = logits.flatten()
    found = [flat.mean(), flat.std(correction=0), flat.min(), flat.max()]
    assert torch.stack(found).tolist() == pytest.approx(moments, abs=1e-9)
    assert flat[list(SAMPLES)].tolist() == pytest.approx(samples, abs=1e-9)


@torch.no_grad()
def test_evaluation_equals_the_released_network(published):
    assert_is(published(deterministic_input("input", (2, 3, 96, 128))), EVALUATION)


@torch.no_grad()
def test_single_scale_units_equal_the_released_msnet(published):
    with torch.device("meta"):
        network = MSNet()
    weights = {key: value for key, value in published.state_dict().items() if ".filters." not in key}
    network.load_state_dict(weights, assign=True)
    assert_is(network.eval()(deterministic_input("input", (2, 3, 96, 128))), SINGLE_EVALUATION)


@torch.no_grad()
def test_training_equals_the_released_network_and_its_running_statistics(published):
    network = copy.deepcopy(published).train()
    assert_is(network(deterministic_input("input", (2, 3, 96, 128))), TRAINING)
    filters = network.pyramid.difference.filters.state_dict()
    for key, expected in FILTER_STATISTICS.items():
        assert filters[key][[0, 63]].tolist() == pytest.approx(expected, rel=1e-12)
    assert filters["3.norm.num_batches_tracked"] == filters["5.norm.num_batches_tracked"] == 20


@torch.no_grad()
def test_the_published_network_fused_equals_its_training_form(published):
    network = copy.deepcopy(published)
    network.fuse()
    image = deterministic_input("input", (1, 3, 64, 96))
    torch.testing.assert_close(network(image), published(image), atol=1e-9, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(352, 352), (200, 333)])
@pytest.mark.parametrize("fused", [False, True])
@torch.no_grad()
def test_script_of_the_published_network_equals_eager(published, size, fused):
    network = copy.deepcopy(published).float()
    if fused:
        network.fuse()
    image = torch.randn(1, 3, *size)
    assert torch.equal(torch.jit.script(network)(image), network(image))
