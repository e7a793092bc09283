import json

import fire
import pytest
import torch
from torch import nn

from common.engines.weights import load_weights
from common.errors import InputError
from common.import_weights import convert, import_weights
from common.losses.feature_distance import vgg16_weights
from common.networks.encoders.res2net import Res2Net
from common.networks.m2snet import M2SNet, MSNet
from common.weight_names import RELEASED
from tests.helpers.deterministic_weights import deterministic_input, deterministic_weight
from tests.helpers.reference_m2snet import ReferenceM2SNet, authors_name

SMALL = {"width": 8, "blocks": [1, 1, 1, 1]}
NETWORKS = {"m2snet": M2SNet, "msnet": MSNet}
FC = {"resnet.fc.weight": torch.ones(1000, 8), "resnet.fc.bias": torch.ones(1000)}
FILTERS = {
    "conv_3.weight": torch.ones(8, 8, 3, 3),
    "conv_3.bias": torch.zeros(8),
    "conv_5.weight": torch.ones(8, 8, 5, 5),
    "conv_5.bias": torch.zeros(8),
}


def shapes(network, rename=str):
    return {rename(name): value.shape for name, value in network.state_dict().items()}


def authors_weights(kind):
    """A small checkpoint as the authors write it, in float32."""
    with torch.device("meta"):
        names = shapes(NETWORKS[kind](**SMALL), authors_name)
    weights = {name: deterministic_weight(name, shape) for name, shape in names.items()}
    return {n: v.float() if v.is_floating_point() else v for n, v in weights.items()}


def make_bundle(folder, target="common.networks.m2snet.M2SNet", **arguments):
    (folder / "configs").mkdir(parents=True)
    network = {"_target_": target, "out_channels": "@out_channels", **SMALL, **arguments}
    config = {"imports": ["$import os"], "bundle_root": ".", "out_channels": 1, "network_def": network}
    (folder / "configs/inference.json").write_text(json.dumps(config))
    (folder / "configs/ablate_single.json").write_text('{"network_def::unit": "single"}')
    return folder


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


def save(folder, weights):
    torch.save(weights, folder / "released.pth")
    return folder / "released.pth"


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("kind", "unused"),
    [("m2snet", {}), ("m2snet", FC), ("m2snet", FC | FILTERS), ("msnet", {}), ("msnet", FC)],
)
def test_imported_network_computes_what_the_released_weights_say(tmp_path, bundle, kind, unused, prefix):
    theirs = authors_weights(kind)
    source = save(tmp_path, {prefix + name: value for name, value in (theirs | unused).items()})
    overlays = "ablate_single.json" if kind == "msnet" else ()
    target = tmp_path / "models/model.pt"
    said = import_weights(source, target, bundle, overlays=overlays)
    assert f"{len(theirs)} tensors of {kind} " in said
    assert said.endswith(", ".join(sorted(unused)) or "none")
    network = NETWORKS[kind](**SMALL)
    network.load_state_dict(torch.load(target, weights_only=True))
    image = deterministic_input("image", (1, 3, 64, 70)).float()
    reference = ReferenceM2SNet(theirs, with_filters=kind == "m2snet")
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(image), reference(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_name_of_the_published_network_agrees_with_the_naming_rule(kind):
    with torch.device("meta"):
        network = NETWORKS[kind]()
    names = list(network.state_dict())
    assert [RELEASED[kind].name_in_file(name) for name in names] == [authors_name(name) for name in names]


@pytest.mark.parametrize("kind", RELEASED)
def test_published_form_is_the_default(kind):
    """On the meta device: 28 million parameters in no time."""
    with torch.device("meta"):
        network = RELEASED[kind].build()
        found = {RELEASED[kind].name_in_file(n): torch.empty(s) for n, s in shapes(network).items()}
        converted = convert(found, RELEASED[kind], network, "file")
    assert {name: value.shape for name, value in converted.items()} == shapes(network)


def refusal(source, target, *arguments, **options):
    with pytest.raises(InputError) as error:
        import_weights(source, target, *arguments, **options)
    assert not target.exists()
    return str(error.value)


def test_missing_unexpected_misshapen_and_changed_tensors_are_named(tmp_path, bundle):
    weights = authors_weights("m2snet") | {"extra.0.weight": torch.ones(1), "conv_5.bias": torch.ones(8)}
    del weights["level2.0.bias"], weights["x5_x4_x3.1.weight"]
    weights["output1.0.weight"] = torch.ones(3, 8, 3, 3)
    message = refusal(save(tmp_path, weights), tmp_path / "model.pt", bundle)
    assert "released.pth: expected M2SNet as its authors released it, fitting the network M2SNet;" in message
    assert "2 missing: x5_x4_x3.1.weight, level2.0.bias" in message
    assert "1 unexpected: extra.0.weight" in message
    assert "1 of another shape: output1.0.weight (expected [1, 8, 3, 3], found [3, 8, 3, 3])" in message
    assert "1 of other values: conv_5.bias (expected 0 everywhere)" in message


@pytest.mark.parametrize(
    ("kind", "overlays", "found"),
    [
        ("msnet", (), "8 missing: conv_3.norm.weight"),
        ("m2snet", ["ablate_single.json"], "10 unexpected: conv_"),
    ],
)
def test_weights_of_the_other_network_are_refused(tmp_path, bundle, kind, overlays, found):
    source = save(tmp_path, authors_weights(kind))
    assert found in refusal(source, tmp_path / "model.pt", bundle, overlays=overlays)


def test_unknown_names_list_what_is_known(tmp_path):
    source = save(tmp_path, {"conv1.weight": torch.ones(2), "fc.bias": torch.ones(2)})
    message = refusal(source, tmp_path / "model.pt")
    assert "found 2 tensors that fit none: conv1.weight, fc.bias" in message
    assert all(f"- {kind}: " in message for kind in RELEASED)
    named = refusal(source, tmp_path / "model.pt", kind="res2net50_v1b")
    assert "unexpected: conv1.weight" in named
    assert "missing: conv1.0.weight" in named
    assert "expected one of m2snet, msnet, " in refusal(source, tmp_path / "model.pt", kind="m2s")


def test_names_of_two_kinds_are_refused(tmp_path):
    weights = {"resnet.a": 0, "x5_x4.a": 0, "conv_3.a": 0, "features.0.a": 0, "features.21.a": 0}
    source = save(tmp_path, {name: torch.ones(1) for name in weights})
    assert "that fit m2snet and vgg16" in refusal(source, tmp_path / "model.pt")


@pytest.mark.parametrize("content", [nn.Linear(2, 2), [1], {}, {"a": torch.ones(1), "epoch": 3, 5: None}])
def test_files_that_hold_anything_but_tensors_are_refused(tmp_path, content):
    message = refusal(save(tmp_path, content), tmp_path / "model.pt")
    assert "released.pth: expected a " in message
    if isinstance(content, nn.Module):
        assert "holds pickled objects" in message
    if len(content if isinstance(content, dict) else ()) == 3:
        assert "2 other entries: epoch (int), 5 (NoneType)" in message


def test_missing_file_and_existing_target_are_refused(tmp_path, bundle):
    assert "found no file" in refusal(tmp_path / "none.pth", tmp_path / "model.pt")
    source = save(tmp_path, authors_weights("m2snet"))
    target = tmp_path / "model.pt"
    target.write_text("trained for days")
    with pytest.raises(InputError, match="exists already"):
        import_weights(source, target, bundle)
    assert target.read_text() == "trained for days"
    import_weights(source, target, bundle, overwrite=True)
    load_weights(M2SNet(**SMALL), target)


def test_bundle_must_have_the_network(tmp_path):
    source = save(tmp_path, authors_weights("m2snet"))
    assert "expected a config file" in refusal(source, tmp_path / "model.pt", tmp_path / "absent")
    assert "bundle_dir: expected the bundle" in refusal(source, tmp_path / "model.pt", out_channels=3)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/inference.json").write_text('{"bundle_root": "."}')
    assert "under network_def" in refusal(source, tmp_path / "model.pt", tmp_path)


def test_command_line_with_settings_of_the_bundle(tmp_path, bundle, capsys):
    source, target = save(tmp_path, authors_weights("msnet")), tmp_path / "model.pt"
    command = ["--bundle_dir", str(bundle), "--source", str(source), "--target", str(target)]
    fire.Fire(import_weights, [*command, "--network_def::unit", "single"])
    assert "tensors of msnet (MSNet as its authors released it)" in capsys.readouterr().out
    load_weights(MSNet(**SMALL), target)


@pytest.mark.parametrize("unused", [{}, {"fc.weight": torch.ones(1000, 256), "fc.bias": torch.ones(1000)}])
@pytest.mark.parametrize("with_counters", [True, False])
def test_imagenet_weights_of_the_encoder(tmp_path, bundle, unused, with_counters):
    weights = {n: torch.randn(s) for n, s in shapes(Res2Net(**SMALL)).items()}
    for name in [name for name in weights if name.endswith("num_batches_tracked")]:
        weights[name] = torch.tensor(7)
        if not with_counters:
            del weights[name]
    target = tmp_path / "encoder.pt"
    said = import_weights(save(tmp_path, weights | unused), target, bundle)
    assert "tensors of res2net50_v1b " in said
    encoder = Res2Net(**SMALL)
    encoder.load_state_dict(torch.load(target, weights_only=True))
    assert torch.equal(encoder.layer4[0].convs[2].weight, weights["layer4.0.convs.2.weight"])
    assert encoder.bn1.num_batches_tracked == (7 if with_counters else 0)


def test_encoder_weights_need_a_network_with_encoder(tmp_path):
    bundle = make_bundle(tmp_path / "bundle", "common.networks.kcbac.KCBACNet")
    (bundle / "configs/inference.json").write_text(
        '{"network_def": {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 1,'
        ' "kernel_size": 1}}'
    )
    source = save(tmp_path, {f"{name}a": torch.ones(1) for name in RELEASED["res2net50_v1b"].has})
    message = refusal(source, tmp_path / "model.pt", bundle)
    assert "expected a network with the part 'encoder'" in message
    assert "found Conv2d" in message


def test_vgg16_for_the_feature_loss(tmp_path):
    channels = {"24": (512, 512), "26": (512, 512), "28": (512, 512)}
    channels |= {str(n): (int(i), int(o)) for n, (i, o) in vgg16_convolutions().items()}
    weights = {f"features.{n}.weight": torch.zeros(o, i, 3, 3) for n, (i, o) in channels.items()}
    weights |= {f"features.{n}.bias": torch.full((o,), float(n)) for n, (_, o) in channels.items()}
    weights |= {"classifier.6.weight": torch.zeros(2, 2)}
    target = tmp_path / "vgg16.pt"
    said = import_weights(save(tmp_path, weights), target)
    assert "20 tensors of vgg16 " in said
    loaded = vgg16_weights(target)
    assert len(loaded) == 20
    assert all(torch.equal(value, weights[name]) for name, value in loaded.items())


def vgg16_convolutions():
    """Input and output channels by torchvision's layer number, from the method page's table of levels."""
    numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
    outputs = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512)
    return dict(zip(numbers, zip((3, *outputs[:-1]), outputs)))
