"""LossNet: parity numbers, an unrolled VGG-16 as oracle, several classes, weights that cannot be had."""

import urllib.error

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from common.errors import InputError
from common.losses import feature_distance
from common.losses.feature_distance import FeatureDistance, M2SNetLoss, vgg16_weights
from common.losses.structure import StructureLoss
from tests.common.losses.test_structure import parity_case
from tests.helpers.deterministic_weights import deterministic_input, deterministic_weight

CONVOLUTIONS = {
    0: (64, 3),
    2: (64, 64),
    5: (128, 64),
    7: (128, 128),
    10: (256, 128),
    12: (256, 256),
    14: (256, 256),
    17: (512, 256),
    19: (512, 512),
    21: (512, 512),
}
PARITY_TERMS = [0.958190251237242, 0.14898786203872816, 0.008855447527813311, 0.0008050126365083062]


@pytest.fixture(scope="module")
def weights():
    """Deterministic weights, float64, and an entry that LossNet does not use."""
    state = {"classifier.6.bias": torch.zeros(3)}
    for index, (out_channels, in_channels) in CONVOLUTIONS.items():
        for name, shape in [("weight", (out_channels, in_channels, 3, 3)), ("bias", (out_channels,))]:
            key = f"features.{index}.{name}"
            state[key] = deterministic_weight(key, shape)
    return state


@pytest.fixture(scope="module")
def weights_file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg16") / "vgg16.pth"
    torch.save(weights, path)
    return path


def small_case(channels=1):
    logits = deterministic_input("logits", (2, channels, 20, 24))
    return logits, (deterministic_input("masks", logits.shape) > 0).double()


def unrolled_terms(weights, probabilities, masks, size):
    """Differences by a plain walk through the layers of VGG-16; one gray map per sample."""

    def features(maps):
        statistics = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]
        mean, std = torch.tensor(statistics, dtype=torch.float64)[..., None, None]
        x = F.interpolate(maps.repeat(1, 3, 1, 1), size, mode="bilinear", align_corners=False)
        x = (x - mean) / std
        kept = []
        for index in range(23):
            if index in CONVOLUTIONS:
                x = F.conv2d(x, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"], 1, 1)
            elif index in (4, 9, 16):
                x = F.max_pool2d(x, 2, 2)
            else:
                x = x.relu()
            if index in (3, 8, 15, 22):
                kept.append(x)
        return kept

    return [((a - b) ** 2).mean() for a, b in zip(features(probabilities), features(masks))]


@pytest.mark.slow
def test_parity_numbers(weights_file):
    with torch.no_grad():
        terms = FeatureDistance(weights_file).terms(*parity_case())
        assert terms.tolist() == pytest.approx(PARITY_TERMS, abs=1e-10)
        assert terms.sum().item() == pytest.approx(1.1168385734402917, abs=1e-9)


def test_equals_a_walk_through_the_layers(weights, weights_file):
    logits, masks = small_case()
    expected = torch.stack(unrolled_terms(weights, logits.sigmoid(), masks, 32))
    distance = FeatureDistance(weights_file, size_px=32)
    torch.testing.assert_close(distance.terms(logits, masks), expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(distance(logits, masks), expected.sum(), atol=1e-12, rtol=1e-12)


def test_size_and_number_of_parameters(weights_file):
    distance = FeatureDistance(weights_file)
    assert sum(value.numel() for value in distance.parameters()) == 7_635_264
    assert distance.size_px == 224


def test_only_the_logits_learn(weights_file):
    logits, masks = small_case()
    logits, masks = logits.requires_grad_(), masks.requires_grad_()
    distance = FeatureDistance(weights_file, size_px=16).train()
    distance(logits, masks).backward()
    assert logits.grad.abs().sum() > 0
    assert masks.grad is None
    assert not any(value.requires_grad for value in distance.parameters())


def test_single_and_half_precision_follow_the_input(weights_file):
    logits, masks = small_case()
    distance = FeatureDistance(weights_file, size_px=16)
    double = distance(logits, masks)
    for dtype in (torch.float32, torch.float16):
        value = distance(logits.to(dtype), masks)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), double, atol=0, rtol=2e-3)


def test_equal_maps_have_no_distance(weights_file):
    masks = small_case()[1]
    assert FeatureDistance(weights_file, size_px=16)(200 * masks - 100, masks) == pytest.approx(0, abs=1e-12)


def test_structures_are_gray_pictures_of_their_own(weights_file):
    logits, masks = small_case(3)
    distance = FeatureDistance(weights_file, size_px=16)
    alone = [distance(logits[:, k : k + 1], masks[:, k : k + 1]) for k in range(3)]
    torch.testing.assert_close(distance(logits, masks), sum(alone) / 3)


def test_three_structures_as_colors(weights_file):
    logits, masks = small_case(1)
    gray, colors = (FeatureDistance(weights_file, as_rgb=as_rgb, size_px=16) for as_rgb in (False, True))
    repeated = logits.repeat(1, 3, 1, 1), masks.repeat(1, 3, 1, 1)
    torch.testing.assert_close(colors(*repeated), gray(logits, masks))
    with pytest.raises(ValueError, match="as_rgb: expected 3 structures, got 1"):
        colors(logits, masks)


def test_background_of_exclusive_classes_is_left_out(weights, weights_file):
    logits = small_case(2)[0]
    labels = (logits[:, :1] > 0.3).long()
    distance = FeatureDistance(weights_file, mode="softmax", size_px=16)
    expected = sum(unrolled_terms(weights, logits.softmax(1)[:, 1:], labels.double(), 16))
    torch.testing.assert_close(distance(logits, labels), expected)


def test_total_is_structure_plus_a_tenth_of_the_distance(weights_file):
    logits, masks = small_case()
    total = M2SNetLoss(vgg16_weights_path=weights_file)
    total.features.size_px = 16
    expected = StructureLoss()(logits, masks) + 0.1 * total.features(logits, masks)
    torch.testing.assert_close(total(logits, masks), expected)
    total.feature_weight = 1.0
    torch.testing.assert_close(total(logits, masks) - expected, 0.9 * total.features(logits, masks))


def test_weight_zero_needs_no_weights(tmp_path):
    logits, masks = small_case()
    loss = M2SNetLoss(bce="released", feature_weight=0, vgg16_weights_path=tmp_path / "none.pth")
    assert loss(logits, masks) == StructureLoss(bce="released")(logits, masks)


def test_weights_are_downloaded_with_hash_and_without_code(weights, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        torch.hub,
        "load_state_dict_from_url",
        lambda url, **options: asked.update(options, url=url) or weights,
    )
    assert list(vgg16_weights()) == [name for name in weights if name.startswith("features")]
    assert asked["url"].endswith("vgg16-397923af.pth")
    assert asked["check_hash"]
    assert asked["weights_only"]


def test_a_failed_download_says_how_to_go_on(monkeypatch):
    def fail(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(InputError, match=r"no network.*vgg16_weights_path.*feature_weight 0"):
        FeatureDistance()


def test_unusable_files_say_how_to_go_on(weights, tmp_path):
    with pytest.raises(
        InputError, match=r"none.pth: expected the VGG-16 weights .*, found no file; fetch .*weight 0"
    ):
        vgg16_weights(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match=r"text.pth: .*refuses .*feature_weight 0"):
        vgg16_weights(tmp_path / "text.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"found 20 of 20 tensors missing .* e.g. features.0.weight"):
        vgg16_weights(tmp_path / "list.pth")
    torch.save(weights | {"features.5.bias": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"found 1 of 20 tensors .* e.g. features.5.bias"):
        vgg16_weights(tmp_path / "other.pth")


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode: expected one of"):
        FeatureDistance(mode="multiclass")
    assert feature_distance.VGG16_URL.startswith("https://")
