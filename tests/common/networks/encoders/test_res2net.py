import pytest
import torch

from common.networks.blocks.conv_norm_folding import fold_modules, fold_state, folding_pairs
from common.networks.encoders.res2net import Res2Net, Res2NetBlock
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically
from tests.helpers.reference_m2snet import ReferenceM2SNet

SMALL = {"width": 8, "blocks": (1, 2, 1, 1)}
# Mean and population standard deviation of the released encoder with deterministic weights: stem, levels 1-5.
TAPS = (
    (0.10061011020693494, 0.14422805981198394),
    (0.21066825813761617, 0.20041285074183027),
    (0.18736957374374766, 0.20131866007987004),
    (0.2029975786948758, 0.22619631508886995),
    (0.27390897642150436, 0.2724077767242327),
    (0.20879832373072385, 0.2334505359963843),
)


def filled(encoder):
    return fill_deterministically(encoder, lambda key: f"resnet.{key}")


@torch.no_grad()
def test_every_level_equals_the_released_encoder():
    with torch.device("meta"):
        encoder = Res2Net()
    encoder = filled(encoder).eval()
    image = deterministic_input("input", (2, 3, 96, 128))
    levels = [encoder.bn1(encoder.conv1(image)).relu(), *encoder(image)]
    assert [tuple(level.shape[1:]) for level in levels] == [
        *((64, 48, 64), (64, 24, 32), (256, 24, 32)),
        *((512, 12, 16), (1024, 6, 8), (2048, 3, 4)),
    ]
    assert tuple(level.shape[1] for level in levels[1:]) == encoder.channels
    found = [(level.mean().item(), level.std(correction=0).item()) for level in levels]
    assert [n for pair in found for n in pair] == pytest.approx([n for p in TAPS for n in p], abs=1e-9)


def test_parameters_carry_the_public_names():
    with torch.device("meta"):
        encoder = Res2Net()
    names = list(encoder.state_dict())
    assert sum(p.numel() for p in encoder.parameters()) == 23_669_352
    # The public files hold 524 entries with the two of the classifier.
    assert len(names) == 522
    weights = [name for name in names if name.endswith("weight")]
    assert weights[:6] == ["conv1.0.weight", "conv1.1.weight", "conv1.3.weight", "conv1.4.weight"] + [
        "conv1.6.weight",
        "bn1.weight",
    ]
    block = [name.removeprefix("layer1.0.") for name in weights if name.startswith("layer1.0.")]
    assert block == [
        *("conv1.weight", "bn1.weight", "convs.0.weight", "convs.1.weight", "convs.2.weight"),
        *("bns.0.weight", "bns.1.weight", "bns.2.weight", "conv3.weight", "bn3.weight"),
        *("downsample.1.weight", "downsample.2.weight"),
    ]
    assert {name.split(".")[1] for name in names if name.startswith("layer3.")} == set("012345")


def test_weights_of_a_classifier_load_without_its_last_layer():
    encoder = Res2Net(**SMALL)
    weights = dict(encoder.state_dict())
    weights |= {"fc.weight": torch.zeros(1000, 256), "fc.bias": torch.zeros(1000)}
    encoder.load_state_dict(weights)
    assert "fc.weight" in weights  # the caller's dictionary stays as it is
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other\.weight"):
        encoder.load_state_dict({**weights, "other.weight": torch.zeros(1)})


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (45, 33)])
@torch.no_grad()
def test_equals_the_encoder_spelled_out(training, size):
    encoder = filled(Res2Net(**SMALL)).train(training)
    weights = {f"resnet.{key}": value.clone() for key, value in encoder.state_dict().items()}
    image = deterministic_input("image", (2, 3, *size))
    expected = ReferenceM2SNet(weights, training).encode(image)
    for found, level in zip(encoder(image), expected):
        torch.testing.assert_close(found, level, atol=1e-10, rtol=1e-10)


def passing_block(is_first):
    """Convolutions that pass their input on, norms without effect: groups 1, 2, 3, 4 of one pixel each."""
    block = Res2NetBlock(4, 4, 1, is_first).eval()
    for module in block.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.dirac_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(1 - 1e-5)
    return block


@pytest.mark.parametrize(("is_first", "mixed"), [(True, [1, 2, 3, 4 / 9]), (False, [1, 3, 6, 4])])
def test_one_pixel_by_hand(is_first, mixed):
    """Width 1: later groups add the one before; in a first block they do not, and the last is averaged.

    A normal block maps 4 planes to 16 channels and adds its input, so only a first one changes their number.
    """
    block = passing_block(is_first)
    given = torch.arange(1.0, 5).view(1, 4, 1, 1)
    groups = []
    block.conv3.register_forward_hook(lambda _, args, __: groups.append(args[0].flatten().tolist()))
    if not is_first:
        block.conv1 = torch.nn.Conv2d(16, 4, 1, bias=False)
        torch.nn.init.dirac_(block.conv1.weight)
        given = torch.cat([given, torch.zeros(1, 12, 1, 1)], 1)
    with torch.no_grad():
        output = block(given).flatten()[:4].tolist()
    assert groups[0] == pytest.approx(mixed)
    assert output == pytest.approx([a + b for a, b in zip(mixed, (1, 2, 3, 4))])


@torch.no_grad()
def test_folding_keeps_every_level():
    encoder = filled(Res2Net(**SMALL)).eval()
    image = deterministic_input("image", (1, 3, 64, 64))
    expected = encoder(image)
    weights = dict(encoder.state_dict())
    pairs = [*encoder.folding_pairs(), *folding_pairs(encoder)]
    fold_modules(encoder, pairs)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder.modules())
    fold_state(weights, "", pairs)
    assert list(weights) != list(encoder.state_dict())  # other order, same entries
    encoder.load_state_dict(weights)
    for found, level in zip(encoder(image), expected):
        torch.testing.assert_close(found, level, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_script_equals_eager():
    encoder = filled(Res2Net(**SMALL)).eval()
    image = deterministic_input("image", (1, 3, 40, 64))
    for found, level in zip(torch.jit.script(encoder)(image), encoder(image)):
        assert torch.equal(found, level)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"width": 2}, "width must be even and at least 4, got 2"), ({"blocks": (1, 0, 1, 1)}, "four positive")],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Res2Net(**arguments)


def test_untrained_convolutions_keep_the_variance_of_gradients():
    """He's rule by outputs, which is not that by inputs where a convolution changes the channels."""
    for module in Res2Net(width=16, blocks=(1, 1, 1, 1)).layer4.modules():
        if isinstance(module, torch.nn.Conv2d):
            outputs = module.weight.shape[0] * module.weight[0, 0].numel()
            assert module.weight.std().item() == pytest.approx((2 / outputs) ** 0.5, rel=0.05)
