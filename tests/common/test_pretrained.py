"""Public weights fill the encoder of a network, from a file or from their address."""

import hashlib

import pytest
import torch

from common import public_weights
from common.errors import InputError
from common.networks.encoders.res2net import CLASSIFIER, Res2Net
from common.networks.m2snet import M2SNet
from common.pretrained import load_pretrained
from common.weight_names import RELEASED, RES2NET_URL

SMALL = {"width": 8, "blocks": (1, 1, 1, 1)}


@pytest.fixture
def released(tmp_path):
    """A file as the encoder's authors publish it, classifier included, for a small encoder."""
    torch.manual_seed(1)
    weights = Res2Net(3, **SMALL).state_dict()
    path = tmp_path / "res2net.pth"
    torch.save({**weights, CLASSIFIER[0]: torch.zeros(2, 3)}, path)
    return path, weights


@pytest.mark.parametrize("wrap", [lambda network: network, torch.nn.DataParallel])
def test_a_local_file_fills_the_encoder_and_nothing_else(released, wrap):
    path, weights = released
    torch.manual_seed(2)
    network = M2SNet(**SMALL)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load_pretrained(wrap(network), "res2net50_v1b", path)
    for name, value in network.state_dict().items():
        part, _, rest = name.partition(".")
        assert torch.equal(value, weights[rest] if part == "encoder" else before[name]), name


def test_weights_of_another_network_are_refused(released):
    with pytest.raises(InputError, match="res2net.pth: expected Res2Net-50.*\n.*missing"):
        load_pretrained(M2SNet(width=8, blocks=(2, 1, 1, 1)), "res2net50_v1b", released[0])


def test_the_address_names_its_hash_and_is_fetched_once(released, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    assert RES2NET_URL.startswith("https://")
    content = released[0].read_bytes()
    named = tmp_path / f"weights-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    named.write_bytes(content)
    found = public_weights.read_public_weights(named.as_uri(), None, "weights", "path", "or without")
    assert found.keys() - released[1].keys() == {CLASSIFIER[0]}
    named.unlink()
    again = public_weights.read_public_weights(named.as_uri(), None, "weights", "path", "or without")
    assert again.keys() == found.keys()


@pytest.mark.parametrize("damage", ["wrong-00000000.pth", "absent-00000000.pth"])
def test_a_download_that_fails_says_how_to_go_on(released, tmp_path, monkeypatch, damage):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    source = tmp_path / damage
    if damage.startswith("wrong"):
        source.write_bytes(released[0].read_bytes())
    monkeypatch.setitem(
        RELEASED, "res2net50_v1b", RELEASED["res2net50_v1b"].__class__(**fields(source.as_uri()))
    )
    with pytest.raises(InputError, match=r"could not be fetched .*pretrained_path.*pretrained false"):
        load_pretrained(M2SNet(**SMALL), "res2net50_v1b")


def fields(url):
    released = RELEASED["res2net50_v1b"]
    return {**{name: getattr(released, name) for name in released.__dataclass_fields__}, "url": url}


def test_files_that_are_none_say_how_to_go_on(tmp_path):
    with pytest.raises(InputError, match=r"none.pth: expected the weights of Res2Net-50.*found no file"):
        load_pretrained(M2SNet(**SMALL), "res2net50_v1b", tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match=r"text.pth: .*weights_only=True\) refuses.*pretrained false"):
        load_pretrained(M2SNet(**SMALL), "res2net50_v1b", tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"list.pth: expected a dictionary of tensors, found list"):
        load_pretrained(M2SNet(**SMALL), "res2net50_v1b", tmp_path / "list.pth")
    with pytest.raises(InputError, match="kind: expected one of res2net50_v1b, found 'vgg16'"):
        load_pretrained(M2SNet(**SMALL), "vgg16")
