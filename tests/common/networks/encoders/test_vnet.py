"""V-Net encoder and decoder: published parameter counts, a functional twin, modes, initialization."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from common.networks.blocks.conv_norm_folding import fold_modules, fold_state, transposed_convolutions
from common.networks.encoders.vnet import UpConv3d, VNetDecoder, VNetEncoder
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically


def small_pair(**arguments):
    """Encoder and decoder with 2 filters, in float64 and with statistics as after training."""
    encoder, decoder = VNetEncoder(2, width=2), VNetDecoder(3, width=2, **arguments)
    return fill_deterministically(encoder).eval(), fill_deterministically(decoder).eval()


def entries(module, kind):
    return [part for part in module.modules() if isinstance(part, kind)]


def count(module):
    return sum(p.numel() for p in module.parameters())


def step(state, conv, norm, features, operation, is_training=False, **arguments):
    """Convolution, normalization, ReLU, from a state dict alone, whose statistics training updates."""
    features = operation(features, state[f"{conv}.weight"], state[f"{conv}.bias"], **arguments)
    statistics = [state[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    return F.relu(F.batch_norm(features, *statistics, training=is_training, eps=1e-5))


def stage(state, name, features, depth, is_training=False):
    for index in range(0, 3 * depth, 3):
        names = f"{name}.{index}", f"{name}.{index + 1}"
        features = step(state, *names, features, F.conv3d, is_training, padding=1)
    return features


@torch.no_grad()
def test_levels_and_logits_equal_a_functional_twin():
    encoder, decoder = small_pair()
    image = deterministic_input("image", (2, 2, 16, 32, 16))
    state, features, expected = encoder.state_dict(), image, []
    for level, depth in enumerate((1, 2, 3, 3, 3)):
        if level:
            names = f"downs.{level}.0", f"downs.{level}.1"
            features = step(state, *names, features, F.conv3d, stride=2)
        features = stage(state, f"stages.{level}", features, depth)
        expected.append(features)
    levels = encoder(image)
    assert [tuple(level.shape[1:]) for level in levels] == [
        (2, 16, 32, 16),
        (4, 8, 16, 8),
        (8, 4, 8, 4),
        (16, 2, 4, 2),
        (32, 1, 2, 1),
    ]
    for found, level in zip(levels, expected):
        torch.testing.assert_close(found, level, atol=1e-12, rtol=1e-12)

    state = decoder.state_dict()
    for index, depth in enumerate((3, 3, 2, 1)):
        names = f"ups.{index}.0", f"ups.{index}.1"
        features = step(state, *names, features, F.conv_transpose3d, stride=2) + expected[3 - index]
        features = stage(state, f"stages.{index}", features, depth)
    logits = F.conv3d(features, state["main_head.weight"], state["main_head.bias"])
    (found,) = decoder(levels)
    assert found.shape == (2, 3, 16, 32, 16)
    torch.testing.assert_close(found, logits, atol=1e-12, rtol=1e-12)


def test_parts_of_a_transposed_convolution_by_hand():
    """Input 3, kernel 1 to 8, bias 10: part j is the voxel at j in binary digits, 3 (j + 1) + 10."""
    up = UpConv3d(1, 1)
    with torch.no_grad():
        up.weight.copy_(torch.arange(1.0, 9).reshape(1, 1, 2, 2, 2))
        up.bias.fill_(10)
        parts = up(torch.full((1, 1, 1, 1, 1), 3.0))
    assert parts.shape == (8, 1, 1, 1, 1)
    assert parts.flatten().tolist() == [13, 16, 19, 22, 25, 28, 31, 34]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_steps_up_in_training_equal_transposed_convolutions(memory_format):
    """The batch statistics of eight parts are those of the whole."""
    _, decoder = small_pair(dropout=0.0)
    decoder.train()
    levels = [
        deterministic_input(str(c), (2, 2 * c, *(s // c for s in (32, 16, 48)))) for c in (1, 2, 4, 8, 16)
    ]
    state = {name: value.clone() for name, value in decoder.state_dict().items()}
    features = levels[4]
    for index, depth in enumerate((3, 3, 2, 1)):
        names = f"ups.{index}.0", f"ups.{index}.1"
        features = step(state, *names, features, F.conv_transpose3d, is_training=True, stride=2)
        features = stage(state, f"stages.{index}", features + levels[3 - index], depth, is_training=True)
    expected = F.conv3d(features, state["main_head.weight"], state["main_head.bias"])
    found = decoder([level.contiguous(memory_format=memory_format) for level in levels])[0]
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    norm = decoder.ups[3][1]
    torch.testing.assert_close(norm.running_mean, state["ups.3.1.running_mean"])
    torch.testing.assert_close(norm.running_var, state["ups.3.1.running_var"])


@pytest.mark.parametrize(
    ("num_classes", "decoder", "head"), [(14, 8_283_292, 462), (16, 8_283_424, 528)], ids=["btcv", "amos"]
)
def test_parameters_are_those_of_the_released_network(num_classes, decoder, head):
    """A head by hand: 32 weights and a bias per class."""
    with torch.device("meta"):
        encoder, whole = VNetEncoder(), VNetDecoder(num_classes)
        deployed = VNetDecoder(num_classes, with_balanced_head=False)
    assert count(encoder) == 29_495_296
    assert count(whole) == decoder
    assert count(whole.main_head) == count(whole.balanced_head) == head == 33 * num_classes
    assert count(deployed) == decoder - head
    assert encoder.channels == (32, 64, 128, 256, 512)
    assert len(entries(encoder, nn.BatchNorm3d)) == 16
    assert len(entries(whole, nn.BatchNorm3d)) == 13
    # A convolution and its normalization have 7 entries in the state dict, a head has 2.
    assert len(encoder.state_dict()) == 16 * 7
    assert len(whole.state_dict()) == 13 * 7 + 4


def test_first_stage_and_first_step_down_by_hand():
    """3 x 3 x 3 x 1 x 32 + 32 and 2 x 2 x 2 x 32 x 64 + 64, plus weight and bias of the normalizations."""
    with torch.device("meta"):
        encoder = VNetEncoder()
    assert count(encoder.stages[0]) == 864 + 32 + 64
    assert count(encoder.downs[1]) == 16384 + 64 + 128


@torch.no_grad()
def test_levels_of_the_paper_patch():
    with torch.device("meta"):
        encoder, decoder = VNetEncoder(), VNetDecoder(14)
        levels = encoder(torch.empty(2, 1, 64, 128, 128))
    assert tuple(levels[0].shape) == (2, 32, 64, 128, 128)
    assert tuple(levels[4].shape) == (2, 512, 4, 8, 8)
    assert [tuple(logits.shape) for logits in decoder(levels)] == [(2, 14, 64, 128, 128)] * 2


def test_every_parameter_receives_a_gradient_and_each_head_its_own():
    encoder, decoder = VNetEncoder(width=2), VNetDecoder(3, width=2, dropout=0.0)
    encoder.dropout.p = 0.0
    main, balanced = decoder(encoder(torch.randn(2, 1, 32, 32, 16)))
    assert not torch.equal(main, balanced)
    (main * torch.randn_like(main)).sum().backward(retain_graph=True)
    assert decoder.main_head.weight.grad.any()
    assert decoder.balanced_head.weight.grad is None
    (balanced * torch.randn_like(balanced)).sum().backward()
    assert all(p.grad.any() for module in (encoder, decoder) for p in module.parameters())


def test_heads_are_linear_in_the_same_dropped_features():
    decoder = VNetDecoder(3, width=4).train()
    decoder.balanced_head.load_state_dict(decoder.main_head.state_dict())
    levels = VNetEncoder(width=4).train()(torch.randn(2, 1, 32, 16, 16))
    main, balanced = decoder(levels)
    assert torch.equal(main, balanced)
    assert not torch.equal(main, decoder(levels)[0])


def test_dropout_zeroes_whole_channels_of_the_coarsest_level_only():
    levels = VNetEncoder(width=4).train()(torch.randn(2, 1, 32, 16, 16))
    dropped = [(level.flatten(2).amax(2) == 0).float().mean().item() for level in levels]
    assert dropped[:4] == [0, 0, 0, 0]
    assert 0.3 < dropped[4] < 0.8


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("with_balanced_head", [True, False])
@torch.no_grad()
def test_script_equals_eager(is_training, with_balanced_head):
    encoder, decoder = small_pair(with_balanced_head=with_balanced_head, dropout=0.0)
    encoder.dropout.p = 0.0
    encoder, decoder = encoder.train(is_training), decoder.train(is_training)
    image = deterministic_input("image", (2, 2, 32, 16, 16))
    scripted_encoder, scripted_decoder = torch.jit.script(encoder), torch.jit.script(decoder)
    levels = encoder(image)
    for found, level in zip(scripted_encoder(image), levels):
        torch.testing.assert_close(found, level)
    found, expected = scripted_decoder(levels), decoder(levels)
    assert len(found) == len(expected) == 1 + (is_training and with_balanced_head)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_folding_keeps_levels_and_logits():
    encoder, decoder = small_pair()
    image = deterministic_input("image", (1, 2, 16, 16, 32))
    levels = encoder(image)
    (expected,) = decoder(levels)
    for module in (encoder, decoder):
        weights = dict(module.state_dict())
        transposed = transposed_convolutions(module)
        fold_state(weights, "", module.folding_pairs(), transposed=transposed)
        fold_modules(module, module.folding_pairs())
        module.load_state_dict(weights)
        assert entries(module, nn.BatchNorm3d) == []
    assert transposed == {f"ups.{index}.0" for index in range(4)}
    folded = encoder(image)
    torch.testing.assert_close(folded[4], levels[4], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(decoder(folded)[0], expected, atol=1e-10, rtol=1e-10)


def test_untrained_weights_follow_xavier_where_the_paper_has_it():
    """Normal with variance 2 / (inputs + outputs); transposed convolutions keep PyTorch's bounded weights."""
    encoder, decoder = VNetEncoder(width=8), VNetDecoder(14, width=8)
    for conv in (encoder.stages[3][3], encoder.downs[4][0], decoder.stages[0][6]):
        outputs, inputs, *kernel = conv.weight.shape
        deviation = (2 / ((inputs + outputs) * torch.tensor(kernel).prod().item())) ** 0.5
        assert conv.weight.std().item() == pytest.approx(deviation, rel=0.05)
        assert conv.weight.abs().max().item() > 3 * deviation
        assert conv.bias.any()
    up = decoder.ups[0][0].weight
    bound = (up[0].numel()) ** -0.5
    assert 0.99 * bound < up.abs().max().item() <= bound


def test_sizes_the_strides_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"image: expected sizes that are multiples of 16, got .*16, 24, 16"):
        VNetEncoder(width=1)(torch.zeros(1, 1, 16, 24, 16))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VNetEncoder(in_channels=0), "in_channels must be at least 1, got 0"),
        (lambda: VNetEncoder(width=0), "width must be at least 1, got 0"),
        (lambda: VNetDecoder(0), "num_classes must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
