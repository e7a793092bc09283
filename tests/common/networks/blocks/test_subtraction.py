import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from common.networks.blocks.conv_norm_folding import fold_modules
from common.networks.blocks.subtraction import (
    ConvNormReLU,
    MultiScaleDifference,
    OnesFilter,
    SubtractionPyramid,
    box_sum,
    resize_like,
)
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically

DOUBLE = torch.float64


def dense_filter(module, features):
    """The same filter as a convolution with a kernel of ones, which the published networks use."""
    channels, size = features.shape[1], module.kernel_size
    ones = torch.ones(channels, channels, size, size, dtype=features.dtype)
    return F.relu(module.norm(F.conv2d(features, ones, padding=size // 2)))


def settled_filter(channels, size):
    """With statistics of the order that sums over channels and windows have after training."""
    module = OnesFilter(channels, size)
    module.norm.running_mean.uniform_(200, 400)
    module.norm.running_var.uniform_(5e3, 15e3)
    torch.nn.init.uniform_(module.norm.weight, 0.5, 1)
    torch.nn.init.normal_(module.norm.bias)
    return module


def plain_norms(module):
    """Normalizations that leave numbers as they are: mean 0, variance 1."""
    for ones_filter in module.filters.values():
        ones_filter.norm.running_var.fill_(1 - 1e-5)
    return module.eval()


def test_box_sum_counts_the_pixels_inside_the_image():
    ones = torch.ones(1, 1, 3, 4)
    assert box_sum(ones, 3)[0, 0].tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]]
    assert box_sum(ones, 5)[0, 0].tolist() == [[9, 12, 12, 9]] * 3


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(2, 3, 7, 6), (1, 1, 2, 9), (1, 2, 1, 1)])
def test_box_sum_equals_average_pooling_times_the_window(size, shape):
    features = torch.randn(shape, dtype=DOUBLE)
    expected = F.avg_pool2d(features, size, 1, size // 2) * size**2
    torch.testing.assert_close(box_sum(features, size), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("training", [False, True])
def test_ones_filter_equals_the_dense_convolution(size, training):
    module = settled_filter(64, size).train(training)
    twin = settled_filter(64, size).train(training)
    twin.load_state_dict(module.state_dict())
    features = torch.rand(2, 64, 12, 10)
    found = module(features.sum(1, keepdim=True))
    torch.testing.assert_close(found, dense_filter(twin, features), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module.state_dict(), twin.state_dict(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_ones_filter_has_the_gradients_of_the_dense_convolution(training):
    module = settled_filter(6, 5).double().train(training)
    features = torch.rand(2, 6, 8, 9, dtype=DOUBLE, requires_grad=True)
    weights = torch.randn(2, 6, 8, 9, dtype=DOUBLE)
    inputs = [features, *module.parameters()]
    found = torch.autograd.grad((module(features.sum(1, keepdim=True)) * weights).sum(), inputs)
    expected = torch.autograd.grad((dense_filter(module, features) * weights).sum(), inputs)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_filters_stay_in_single_precision_under_mixed_precision(training):
    difference = MultiScaleDifference(64).train(training)
    difference.filters = torch.nn.ModuleDict({str(size): settled_filter(64, size) for size in (3, 5)})
    difference.train(training)
    features = [torch.rand(2, 64, 12, 10).bfloat16() for _ in range(2)]
    seen = []
    for ones_filter in difference.filters.values():
        ones_filter.register_forward_hook(lambda module, _, out: seen.append((module, out)))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert difference(*features).dtype == torch.bfloat16
    for (module, found), given in zip(seen, features * 2):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, dense_filter(module, given.float()), atol=1e-5, rtol=1e-5)


def test_a_folded_filter_survives_half_precision_where_its_variance_would_not():
    module = settled_filter(4, 5).eval()
    module.norm.running_var.fill_(1e6)  # beyond 65504, the largest number of half precision
    channel_sum = torch.rand(1, 1, 6, 6) * 400
    expected = module(channel_sum)
    fold_modules(module, module.folding_pairs())
    torch.testing.assert_close(module.half()(channel_sum), expected, atol=2e-2, rtol=0)


# A is one, B zero, in 2 channels of 3x3 pixels. Center: 1 for the pixel; each window holds all 9 pixels, of 2
# channels where the filter sums over them. Corner: the 3x3 window holds 4 pixels, the 5x5 window all 9.
@pytest.mark.parametrize(
    ("form", "center", "corner"),
    [("released", 1 + 18 + 18, 1 + 8 + 18), ("paper", 1 + 9 + 9, 1 + 4 + 9), ("single", 1, 1)],
)
@pytest.mark.parametrize("operation", ["subtract", "add"])
def test_difference_derived_by_hand(form, center, corner, operation):
    difference = plain_norms(MultiScaleDifference(2, form, operation))
    ones, zeros = torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    for pair in ((ones, zeros), (zeros, ones)):
        found = difference(*pair)
        assert found[0, :, 1, 1].tolist() == pytest.approx([center] * 2)
        assert found[0, :, 0, 2].tolist() == pytest.approx([corner] * 2)
    same = difference(ones, ones)[0, 0, 1, 1].item()
    assert same == pytest.approx(2 * center if operation == "add" else 0)


def test_released_unit_with_deterministic_weights_equals_published_numbers():
    names = {"filters.3": "conv_3", "filters.5": "conv_5"}
    difference = fill_deterministically(
        MultiScaleDifference(64), lambda key: key.replace(key[:9], names[key[:9]])
    ).eval()
    conv = fill_deterministically(ConvNormReLU(64, 64), lambda key: f"x5_x4.{key}").eval()
    upper, lower = (F.relu(deterministic_input(name, (1, 64, 7, 5))) for name in "AB")
    with torch.no_grad():
        total = difference(upper, lower)
        filtered = [f(upper.sum(1, keepdim=True)) for f in difference.filters.values()]
        after = conv(total)
    found = [total.mean(), total.std(correction=0), total.max()]
    found += [after.mean(), after.std(correction=0)]
    found += [statistic for f in filtered for statistic in (f.mean(), f.max())]
    expected = [0.7584021803787891, 0.6366774206654229, 2.2932112319380638]
    expected += [0.21043976176681276, 0.32427944780493245]
    expected += [0.05315320985625635, 0.6844737372039611, 1.3546417341360926, 5.422491775267372]
    assert torch.stack(found).tolist() == pytest.approx(expected, abs=1e-9)


def test_windows_of_the_paper_are_those_of_each_channel():
    """Depthwise convolutions with ones, filtered before (not after) the subtraction."""
    upper, lower = torch.rand(2, 2, 3, 6, 7, dtype=DOUBLE)
    expected = (upper - lower).abs()
    for size in (3, 5):
        ones = torch.ones(3, 1, size, size, dtype=DOUBLE)
        filtered = [F.conv2d(x, ones, padding=size // 2, groups=3) for x in (upper, lower)]
        expected = expected + (filtered[0] - filtered[1]).abs()
    found = MultiScaleDifference(3, "paper")(upper, lower)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_filters_are_shared_by_all_units_and_count_their_calls():
    pyramid = SubtractionPyramid(4).train()
    norms = [module for module in pyramid.modules() if isinstance(module, OnesFilter)]
    assert len(norms) == 2
    sizes = (2, 4, 8, 16, 16)
    sums = pyramid([torch.rand(2, 4, size, size) for size in sizes])
    assert [total.shape[-1] for total in sums] == [4, 8, 16, 16]
    assert [int(module.norm.num_batches_tracked) for module in norms] == [20, 20]


@pytest.mark.parametrize("num_orders", [2, 3, 4, 5])
def test_each_order_adds_one_unit_less(num_orders):
    orders = SubtractionPyramid(2, num_orders=num_orders).orders
    levels = {order: [int(level) for level in units] for order, units in orders.items()}
    table = {"2": [4, 3, 2, 1], "3": [3, 2, 1], "4": [2, 1], "5": [1]}
    assert levels == {order: table[order] for order in list(table)[: num_orders - 1]}


def test_orders_sum_up_by_level():
    """Constant features f_i and units that keep the difference: with sizes alike, all by hand.

    Levels 5 to 1 are 16, 8, 4, 2, 1. Order 2: 8, 4, 2, 1. Order 3: 4, 2, 1. Order 4: 2, 1.
    """
    pyramid = SubtractionPyramid(1, "single", num_orders=4).eval()
    for module in pyramid.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.dirac_(module.weight)
            torch.nn.init.zeros_(module.bias)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(1 - 1e-5)
    sums = pyramid([torch.full((1, 1, 3, 3), value) for value in (16.0, 8.0, 4.0, 2.0, 1.0)])
    assert [total[0, 0, 1, 1].item() for total in sums] == pytest.approx([8, 4 + 4, 2 + 2 + 2, 1 + 1 + 1])


def test_resizing_to_the_same_size_returns_the_tensor_itself():
    features = torch.rand(1, 2, 5, 6)
    assert resize_like(features, torch.zeros(3, 5, 6)) is features
    # Pixel centers are kept: 0, 1 becomes 0, 1/4, 3/4, 1.
    row = torch.tensor([[[[0.0, 1.0]]]])
    assert resize_like(row, torch.zeros(1, 4)).flatten().tolist() == pytest.approx([0, 0.25, 0.75, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "dense"}, "unit must be one of"),
        ({"form": "dense", "num_orders": 1}, "unit must be one of"),
        ({"operation": "divide"}, "operation must be one of"),
        ({"num_orders": 6}, "num_orders must be 1 to 5"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SubtractionPyramid(4, **arguments)
