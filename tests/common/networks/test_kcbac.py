import pytest
import torch

from common.networks.kcbac import KCBACNet, crossing_sources
from tests.helpers.network_case import NetworkContract
from tests.helpers.reference_kcbac import reference_two_networks

SMALL_2D = {"spatial_dims": 2, "in_channels": 1, "num_classes": 3, "base_width": 4, "num_scales": 3}
SMALL_3D = {"spatial_dims": 3, "in_channels": 1, "num_classes": 2, "base_width": 2, "num_scales": 2}
PLAIN = {"asymmetric": "none", "deep_supervision": False}


class TestKCBACNet2d(NetworkContract):
    shapes = (
        ((1, 1, 32, 32), (1, 3, 32, 32)),
        ((1, 1, 21, 50), (1, 3, 21, 50)),
        ((2, 1, 1, 1), (2, 3, 1, 1)),
    )
    # The method page derives 538/333 M, 320/243 M, 333.6 M (raw), 33.7/20.8 M and 141.2/332.7/524.2/715.7 M.
    parameter_counts = (
        ({"spatial_dims": 2, "in_channels": 3, "num_classes": 2}, 537_956_232),
        ({"spatial_dims": 2, "in_channels": 3, "num_classes": 2, "fused": True}, 332_662_914),
        ({"spatial_dims": 2, "in_channels": 1, "num_classes": 2, "base_width": 16}, 33_652_776),
        (
            {"spatial_dims": 2, "in_channels": 1, "num_classes": 2, "base_width": 16, "fused": True},
            20_797_410,
        ),
        ({"spatial_dims": 2, "in_channels": 1, "num_classes": 2, "k": 1, **PLAIN}, 141_201_154),
        ({"spatial_dims": 2, "in_channels": 1, "num_classes": 2, "k": 2, **PLAIN}, 332_684_674),
        ({"spatial_dims": 2, "in_channels": 1, "num_classes": 2, "k": 3, **PLAIN}, 524_168_194),
        ({"spatial_dims": 2, "in_channels": 1, "num_classes": 2, "k": 4, **PLAIN}, 715_651_714),
    )

    def build(self):
        return KCBACNet(**SMALL_2D)

    def build_full_size(self, **arguments):
        return KCBACNet(**arguments)

    def test_training_stacks_main_and_three_auxiliary_outputs(self):
        assert self.build().train()(torch.randn(2, 1, 32, 32)).shape == (2, 4, 3, 32, 32)

    def test_equals_the_method_spelled_out(self):
        network = self.evaluation_network().double()
        image = torch.randn(2, 1, 32, 48, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(
                network(image), reference_two_networks(network, image), atol=1e-9, rtol=1e-9
            )


class TestKCBACNet3d(NetworkContract):
    shapes = (((1, 1, 8, 16, 8), (1, 2, 8, 16, 8)), ((1, 1, 7, 9, 12), (1, 2, 7, 9, 12)))
    parameter_counts = (
        ({"spatial_dims": 3, "in_channels": 1, "num_classes": 8, "base_width": 32}, 319_672_416),
        (
            {"spatial_dims": 3, "in_channels": 1, "num_classes": 8, "base_width": 32, "fused": True},
            242_631_944,
        ),
        (
            {"spatial_dims": 3, "in_channels": 1, "num_classes": 8, "base_width": 32, "skips": "raw"},
            333_634_016,
        ),
    )

    def build(self):
        return KCBACNet(**SMALL_3D)

    def build_full_size(self, **arguments):
        return KCBACNet(**arguments)

    def test_equals_the_method_spelled_out(self):
        network = self.evaluation_network().double()
        image = torch.randn(1, 1, 8, 8, 16, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(
                network(image), reference_two_networks(network, image), atol=1e-9, rtol=1e-9
            )


VARIANTS = [
    {"k": 1},
    {"k": 3},
    {"cross": "same_index"},
    {"cross": "output_only"},
    {"cross": "none"},
    {"skips": "raw"},
    {"skips": "same_level"},
    {"asymmetric": "none"},
    {"deep_supervision": False},
    {"num_scales": 2},
    {"base_width": 3},
]


@pytest.mark.parametrize(
    "variant", VARIANTS, ids=lambda variant: "-".join(f"{k}={v}" for k, v in variant.items())
)
def test_every_argument_changes_the_graph_and_trains(variant):
    network = KCBACNet(**{**SMALL_2D, **variant}).train()
    output = network(torch.randn(2, 1, 32, 32))
    (output * torch.randn_like(output)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    default = {name: p.shape for name, p in KCBACNet(**SMALL_2D).named_parameters()}
    assert {name: p.shape for name, p in network.named_parameters()} != default


def test_one_network_keeps_only_the_bridge_head():
    network = KCBACNet(**{**SMALL_2D, "k": 1}).train()
    assert network(torch.randn(2, 1, 16, 16)).shape == (2, 2, 3, 16, 16)


def test_a_checkpoint_of_the_training_form_loads_into_the_fused_form():
    network = TestKCBACNet3d().evaluation_network().double()
    fused = KCBACNet(**SMALL_3D, fused=True).eval().double()
    fused.load_state_dict(network.state_dict())
    image = torch.randn(1, 1, 9, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fused(image), network(image), atol=1e-9, rtol=1e-9)
    # ... and the fused checkpoint into the fused form again.
    again = KCBACNet(**SMALL_3D, fused=True).eval().double()
    again.load_state_dict(fused.state_dict())
    with torch.no_grad():
        assert torch.equal(again(image), fused(image))


def test_fusing_in_place_keeps_the_output_and_drops_what_only_training_needs():
    network = TestKCBACNet2d().evaluation_network().double()
    image = torch.randn(1, 1, 20, 24, dtype=torch.float64)
    with torch.no_grad():
        before = network(image)
        network.fuse()
        torch.testing.assert_close(network(image), before, atol=1e-9, rtol=1e-9)
    twin = KCBACNet(**SMALL_2D, fused=True)
    assert network.state_dict().keys() == twin.state_dict().keys()
    torch.testing.assert_close(torch.jit.script(network)(image), network(image))


def test_fused_in_single_precision_decides_alike():
    network = KCBACNet(**{**SMALL_2D, "base_width": 16}).train()
    with torch.no_grad():
        for _ in range(20):  # statistics as after training, not drawn at random
            network(torch.randn(4, 1, 32, 32))
    network.eval()
    fused = KCBACNet(**{**SMALL_2D, "base_width": 16}, fused=True).eval()
    fused.load_state_dict(network.state_dict())
    image = torch.randn(4, 1, 64, 64)
    with torch.no_grad():
        before, after = network(image), fused(image)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    assert (after.argmax(1) == before.argmax(1)).double().mean() >= 0.9999


def test_a_fused_network_refuses_to_train():
    network = KCBACNet(**SMALL_2D, fused=True).train()
    with pytest.raises(RuntimeError, match="cannot be trained"):
        network(torch.randn(2, 1, 16, 16))


def test_same_scale_crossing_joins_layers_of_equal_stride():
    scales = 5
    # Stride exponent of every block of one network: encoders 0..4, bridge 5, decoders 4..0.
    level = [*range(scales), scales, *reversed(range(scales))]
    for receiver, sources in enumerate(crossing_sources(scales, "same_scale")):
        for source in sources:
            assert level[source] + 1 == level[receiver]
    # Every block of the coarser network but its bridge is used, exactly once.
    used = sorted(source for sources in crossing_sources(scales, "same_scale") for source in sources)
    assert used == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"num_scales": 1}, "num_scales must be at least 2"),
        ({"skips": "all"}, "skips must be one of"),
        ({"cross": "all"}, "cross must be one of"),
        ({"asymmetric": "cube"}, "asymmetric must be one of"),
        ({"asymmetric": "plane"}, "needs three axes"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        KCBACNet(**{**SMALL_2D, **arguments})
