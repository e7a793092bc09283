import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.networks.blocks.subtraction import FORMS
from common.networks.m2snet import M2SNet, MSNet
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically
from tests.helpers.network_case import NetworkContract
from tests.helpers.reference_m2snet import ReferenceM2SNet, authors_name

SMALL = {"width": 8, "blocks": (1, 2, 1, 1)}


class TestM2SNet(NetworkContract):
    shapes = (
        ((1, 3, 64, 64), (1, 1, 64, 64)),
        ((2, 3, 33, 50), (2, 1, 33, 50)),
    )
    # 27,692,585 and 27,692,329 are the published networks. The others follow: 37,056 per unit (one more
    # convolution before the unit of order 5), 577 per class, 2 x 2 x 64 for the filters' normalizations,
    # 1,179,840 for the reduction of level 5, which only units use.
    parameter_counts = (
        ({}, 27_692_585),
        ({"unit": "single"}, 27_692_329),
        ({"unit": "paper"}, 27_692_329),
        ({"operation": "add"}, 27_692_585),
        ({"out_channels": 4}, 27_692_585 + 3 * 577),
        ({"num_orders": 4}, 27_692_585 - 2 * 37_056),
    )

    def build(self):
        return M2SNet(**SMALL)

    def build_full_size(self, **arguments):
        return M2SNet(**arguments)


class TestMSNet(NetworkContract):
    shapes = (((1, 3, 64, 64), (1, 3, 64, 64)), ((1, 3, 45, 70), (1, 3, 45, 70)))
    parameter_counts = (
        ({}, 27_692_329),
        ({"num_orders": 3}, 27_692_329 - 4 * 37_056),
        ({"num_orders": 2}, 27_692_329 - 7 * 37_056),
        ({"num_orders": 1}, 27_692_329 - 11 * 37_056 - 1_179_840),
    )

    def build(self):
        return MSNet(out_channels=3, **SMALL)

    def build_full_size(self, **arguments):
        return MSNet(**arguments)


class TestAtrousM2SNet(NetworkContract):
    shapes = TestM2SNet.shapes
    # MSNet's, and per unit: convolutions of 1x1 and three of 3x3, 64 x 64 x 28; the pooled one, 64 x 65; the
    # projection, 64 x 5 x 64; five normalizations, 5 x 2 x 64.
    parameter_counts = (
        ({}, 27_692_329 + 10 * 139_968),
        ({"num_orders": 2}, 27_692_329 - 7 * 37_056 + 4 * 139_968),
    )

    def build(self):
        return M2SNet(unit="aspp", **{**SMALL, "width": 16})

    def build_full_size(self, **arguments):
        return M2SNet(unit="aspp", **arguments)


class TestDenseAtrousM2SNet(NetworkContract):
    shapes = TestM2SNet.shapes
    # MSNet's, and per unit: 1x1 from 64, 96, 128, 160 and 192 to 64 channels, 640 x 64; five of 3x3 from 64
    # to 32, 5 x 9 x 2,048; the projection, 224 x 64; normalizations, 5 x 2 x (64 + 32) + 2 x 64.
    parameter_counts = (({"operation": "add"}, 27_692_329 + 10 * 148_544),)

    def build(self):
        return M2SNet(unit="dense_aspp", **SMALL)

    def build_full_size(self, **arguments):
        return M2SNet(unit="dense_aspp", **arguments)


@pytest.mark.parametrize("unit", ["released", "single"])
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_method_spelled_out_with_dense_filters(unit, training):
    network = fill_deterministically(M2SNet(unit=unit, **SMALL), authors_name).train(training)
    weights = {authors_name(key): value.clone() for key, value in network.state_dict().items()}
    reference = ReferenceM2SNet(weights, training, with_filters=unit == "released")
    image = deterministic_input("image", (2, 3, 70, 97))
    with torch.no_grad():
        torch.testing.assert_close(network(image), reference(image), atol=1e-9, rtol=1e-9)
    for key, value in network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, weights[authors_name(key)], atol=1e-9, rtol=1e-9)


def test_names_match_those_of_the_released_checkpoints_one_to_one():
    with torch.device("meta"):
        names = list(M2SNet().state_dict())
    theirs = {authors_name(name) for name in names}
    # 690 entries with the two of the classifier.
    assert len(names) == len(theirs) == 688
    roots = {name.split(".")[0] for name in theirs}
    units = "x5_x4 x4_x3 x3_x2 x2_x1 x5_x4_x3 x4_x3_x2 x3_x2_x1 x5_x4_x3_x2 x4_x3_x2_x1 x5_x4_x3_x2_x1"
    others = "resnet conv_3 conv_5 level1 level2 level3 output1 output2 output3 output4"
    reductions = "x5_dem_1 x4_dem_1 x3_dem_1 x2_dem_1 x5_dem_4 x5_dem_5"
    assert roots == set(f"{units} {others} {reductions}".split())


@pytest.mark.parametrize(
    ("unit", "size", "expected"),
    [(FORMS[0], 224, 6.821), (FORMS[0], 256, 8.909), (FORMS[0], 352, 16.844)]
    + [("aspp", 256, 13.096), ("dense_aspp", 256, 13.477)],
)
def test_multiplications_of_all_convolutions_in_billions(unit, size, expected):
    """8.9 at 256 x 256 is the paper's 9.0, to which the filters, as box filters of one map, add 0.01.

    The ten units cover 30,976 pixels there. Per pixel an atrous pyramid has 64 x 64 x 28 + 5 x 64 x 64
    multiplications, and 64 x 64 per unit for the pooled values; a dense one 64 x 640 + 92,160 + 224 x 64.
    """
    with torch.device("meta"):
        network, image = M2SNet(unit=unit).eval(), torch.empty(1, 3, size, size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    # An addition counts as an operation as well.
    assert counter.get_total_flops() / 2e9 == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("unit", FORMS)
def test_fusing_keeps_the_output_and_accepts_both_kinds_of_checkpoints(unit):
    trained = fill_deterministically(M2SNet(unit=unit, **SMALL), authors_name).eval()
    image = deterministic_input("image", (2, 3, 64, 50))
    fused = M2SNet(unit=unit, fused=True, **SMALL).eval().double()
    fused.load_state_dict(trained.state_dict())
    again = M2SNet(unit=unit, fused=True, **SMALL).eval().double()
    again.load_state_dict(fused.state_dict())
    with torch.no_grad():
        before = trained(image)
        torch.testing.assert_close(fused(image), before, atol=1e-9, rtol=1e-9)
        assert torch.equal(again(image), fused(image))
        trained.fuse()
        trained.fuse()  # a second time changes nothing
        assert torch.equal(trained(image), fused(image))
        torch.testing.assert_close(torch.jit.script(trained)(image), before, atol=1e-9, rtol=1e-9)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in trained.modules())
    with pytest.raises(RuntimeError, match="cannot be trained"):
        fused.train()(image)


def test_a_fused_checkpoint_does_not_pass_for_a_training_form():
    with pytest.raises(RuntimeError, match="Missing key"):
        M2SNet(**SMALL).load_state_dict(M2SNet(fused=True, **SMALL).state_dict())


@pytest.mark.parametrize("unit", FORMS)
@pytest.mark.parametrize("operation", ["subtract", "add"])
@pytest.mark.parametrize("num_orders", [1, 3, 5])
def test_every_form_trains_all_its_parameters(unit, operation, num_orders):
    # Of few channels, the ReLU after a pooled value without normalization could close all.
    network = M2SNet(unit=unit, operation=operation, num_orders=num_orders, width=16, blocks=(1, 1, 1, 1))
    output = network.train()(torch.randn(2, 3, 64, 64))
    (output * torch.randn_like(output)).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("unit", "operation", "num_orders"),
    [("released", "add", 3), ("paper", "add", 5), ("single", "add", 2), ("paper", "subtract", 1)],
)
@torch.no_grad()
def test_the_other_forms_script(unit, operation, num_orders):
    network = M2SNet(unit=unit, operation=operation, num_orders=num_orders, width=4, blocks=(1, 1, 1, 1))
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(torch.jit.script(network.eval())(image), network(image))


def test_without_units_the_decoder_gets_the_levels_of_the_encoder():
    network = fill_deterministically(M2SNet(num_orders=1, **SMALL), authors_name).eval()
    weights = {authors_name(key): value for key, value in network.state_dict().items()}
    reference = ReferenceM2SNet(weights)
    image = deterministic_input("image", (1, 3, 64, 64))
    up = torch.nn.functional.interpolate
    with torch.no_grad():
        levels = reference.encode(image)
        decoded = reference.cbr("x5_dem_5", levels[4])
        finer = [reference.cbr(f"x{level}_dem_1", levels[level - 1]) for level in (4, 3, 2)] + [levels[0]]
        for level, feature in zip((4, 3, 2, 1), finer):
            feature = feature if level == 4 else reference.cbr(f"level{level}", feature)
            decoded = up(decoded, size=feature.shape[2:], mode="bilinear") + feature
            decoded = reference.cbr(f"output{level}", decoded) if level > 1 else decoded
        expected = up(reference.conv("output1.0", decoded), size=(64, 64), mode="bilinear")
        torch.testing.assert_close(network(image), expected, atol=1e-9, rtol=1e-9)


def test_mixed_precision_filters_in_single_precision():
    network = TestM2SNet().evaluation_network()
    kinds = []
    for ones_filter in network.pyramid.difference.filters.values():
        ones_filter.register_forward_hook(lambda _, given, out: kinds.append((given[0].dtype, out.dtype)))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(torch.randn(1, 3, 64, 64))
    assert output.dtype == torch.bfloat16
    assert kinds == [(torch.float32, torch.float32)] * 40


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_channels_last_gives_the_same_numbers_and_reaches_the_filters(training):
    network = TestM2SNet().evaluation_network().double().train(training)
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    outputs = []
    for ones_filter in other.pyramid.difference.filters.values():
        ones_filter.register_forward_hook(lambda _, __, out: outputs.append(out.permute(0, 2, 3, 1)))
    image = torch.randn(2, 3, 64, 50, dtype=torch.float64)
    found = other(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, network(image), atol=1e-9, rtol=1e-9)
    assert [out.is_contiguous() for out in outputs] == [True] * 40
    for key, value in other.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[key], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("size", [(352, 352), (97, 61)])
@torch.no_grad()
def test_script_of_a_narrow_network_equals_eager(size):
    network = TestM2SNet().evaluation_network()
    image = torch.randn(1, 3, *size)
    assert torch.equal(torch.jit.script(network)(image), network(image))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unit": "dense"}, "unit must be one of .*'dense_aspp'.*, got 'dense'"),
        ({"operation": "multiply"}, "operation must be one of"),
        ({"num_orders": 6}, "num_orders must be 1 to 5, got 6"),
        ({"num_orders": 0}, "num_orders must be 1 to 5, got 0"),
        ({"width": 5}, "width must be even"),
        ({"blocks": (3, 4, 6)}, "blocks must be four"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        M2SNet(**{**SMALL, **arguments})
