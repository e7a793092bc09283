"""Forms of SKCDF: they agree with each other and with the method, and are what their titles say."""

import copy

import fire
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from benchmarks import skcdf_speed
from benchmarks.side_by_side import Form
from benchmarks.skcdf_memory import saved_bytes, skcdf_memory, step_loss
from benchmarks.skcdf_speed import forms_of, released_form, settled_network, speed_table
from common.losses.balanced import BalancedDiceCELoss
from common.networks.skcdf import SKCDF
from tests.helpers.deterministic_weights import deterministic_input, fill_deterministically
from tests.helpers.reference_skcdf import ReferenceSKCDF

SMALL = {"num_classes": 3, "roi_size": (32, 32, 32), "width": 1, "dropout": 0.0, "attention_dropout": 0.0}
TITLES = ["as released", "deployment form", "+ channels_last_3d"]


@pytest.fixture
def network():
    return fill_deterministically(SKCDF(**SMALL)).eval()


def image(batch):
    return deterministic_input("image", (batch, 1, 32, 32, 32))


class Calls(torch.overrides.TorchFunctionMode):
    """Shapes of the first argument of each function, by the function's name."""

    def __init__(self):
        super().__init__()
        self.shapes = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if args and isinstance(args[0], torch.Tensor):
            self.shapes.setdefault(function.__name__, []).append(tuple(args[0].shape))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("training", "batch", "num_labeled"), [(False, 1, 0), (True, 2, 1), (True, 2, 0)])
@torch.no_grad()
def test_released_form_equals_the_method_spelled_out(network, training, batch, num_labeled):
    released = released_form(network.train(training))
    assert released.training == training
    expected = ReferenceSKCDF(network.state_dict(), training)(image(batch), num_labeled)
    torch.testing.assert_close(released(image(batch), num_labeled), expected, atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_released_form_does_in_evaluation_what_the_deployment_form_leaves_out(network):
    calls = []
    for form in forms_of(network)[:2]:
        with Calls() as found:
            form.network(image(1))
        calls.append(found.shapes)
    released, deployed = calls
    # The logits of 16 channels in 2 heads, of a batch that is doubled: one window per sample, and one.
    assert released["instance_norm"] == [(2, 2, 16, 16)] * 2
    assert "scaled_dot_product_attention" not in released
    assert deployed["scaled_dot_product_attention"] == [(1, 2, 16, 8)] * 2
    assert len(released["conv_transpose3d"]) == 4
    # At full size: the first stage, the first step down, the last stage, and the heads.
    at_full_size = [shapes["conv3d"].count((1, 1, 32, 32, 32)) for shapes in calls]
    assert at_full_size == [5, 4]
    assert "batch_norm" in released
    assert not {"instance_norm", "conv_transpose3d", "batch_norm"} & set(deployed)


def test_all_forms_agree_and_leave_the_network_alone(network):
    before = copy.deepcopy(network.state_dict())
    forms = forms_of(network)
    lines = speed_table(forms, image(1), repeats=2).splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines[2:]]
    assert [row[0] for row in cells] == [form.title for form in forms] == TITLES
    assert all(float(row[4]) < 1e-9 and row[5] == "0 of 32768" for row in cells)
    assert [form.network.fused for form in forms] == [False, True, True]
    kernel = forms[2].network.encoder.stages[4][3].weight
    assert kernel.is_contiguous(memory_format=torch.channels_last_3d)
    assert not network.fused
    torch.testing.assert_close(dict(network.state_dict()), dict(before), atol=0, rtol=0)


def test_a_form_that_is_off_shows(network):
    off = copy.deepcopy(network)
    with torch.no_grad():
        off.unlabeled_decoder.main_head.bias[0] += 1e6
    forms = [Form(title, net, torch.contiguous_format) for title, net in (("a", network), ("b", off))]
    row = speed_table(forms, image(1), repeats=1).splitlines()[-1].strip("| ").split(" | ")
    expected = int((network(image(1)).argmax(1) != 0).sum())
    assert row[4:6] == ["1.0e+06", f"{expected} of 32768"]
    assert expected > 0


def test_settled_network_is_the_same_each_time_with_statistics_of_its_weights(monkeypatch):
    monkeypatch.setattr(skcdf_speed, "_TRAINING_BATCHES", 1)
    first, second = (settled_network((32, 64, 32), width=1) for _ in range(2))
    torch.testing.assert_close(dict(first.state_dict()), dict(second.state_dict()), atol=0, rtol=0)
    assert not first.training
    assert first.roi_size == (32, 64, 32)
    assert first.unlabeled_decoder.ups[3][1].num_batches_tracked == 1


def test_command_line_prints_the_machine_and_the_table(monkeypatch, capsys):
    monkeypatch.setattr(skcdf_speed, "_TRAINING_BATCHES", 1)
    fire.Fire(skcdf_speed.skcdf_speed, ["--size", "32,32,32", "--repeats", "1", "--width", "1"])
    printed = capsys.readouterr().out
    assert f"1 thread(s), PyTorch {torch.__version__}" in printed
    assert "32 x 32 x 32 voxels, width 1, 1 repeats" in printed
    assert all(printed.count(f"| {title} |") == 1 for title in TITLES)


def test_saved_bytes_by_hand():
    """A product saves both factors (100 floats each), a ReLU its result, a view nothing of its own."""
    with torch.device("meta"):
        first, second = (torch.empty(100, requires_grad=True) for _ in range(2))
    assert saved_bytes(lambda: first * second) == 800
    assert saved_bytes(lambda: first * second, [first]) == 400
    assert saved_bytes(lambda: (first * first[:50].repeat(2)).relu()) == 1200
    assert saved_bytes(lambda: first[:10] * second[:10]) == 800
    # 90 dropped values: on a GPU the mask has a byte for each, and nothing else is kept.
    assert saved_bytes(lambda: F.dropout(first, 0.9, training=True)) == 100


def test_stored_logits_count_where_attention_cannot_be_fused():
    with torch.device("meta"):
        queries = torch.empty(4, 2, 64, 8, requires_grad=True)
        strided = torch.empty(4, 2, 8, 64, requires_grad=True)
    attend = F.scaled_dot_product_attention
    logits = 4 * 4 * 2 * 64 * 64
    assert saved_bytes(lambda: attend(queries, queries, queries, dropout_p=0.1, scale=1.0)) < logits
    strided_run = lambda: attend(*[strided.mT] * 3, dropout_p=0.1, scale=1.0)  # noqa: E731
    assert saved_bytes(strided_run) > logits


def test_a_published_step_keeps_less_than_the_released_one():
    """The aim is 12.5 GiB at most; the released form's losses alone are larger by a third (float64)."""
    rows = [line.strip("| ").split(" | ") for line in skcdf_memory().splitlines()[2:]]
    assert [row[0] for row in rows] == ["as released", "ours"]
    (released, ours) = ([float(cell) for cell in row[1:4]] for row in rows)
    assert ours[2] < 11.1
    assert released[2] > 15
    # The local block's logits: 2 directions of 64 x 1024 x 2048 floats, stored, normalized and dropped.
    assert released[0] - ours[0] > 2 * 3 * 64 * 1024 * 2048 * 4 / 2**30


def test_losses_of_the_step_are_those_of_the_method(monkeypatch):
    """With all ratios 1/2 and a mask that keeps everything, the four losses have their plain values."""
    monkeypatch.setattr(
        "benchmarks.skcdf_memory.balanced_mask", lambda labels, _: torch.ones_like(labels) > 0
    )
    logits, labels = torch.randn(3, 2, 3, 4, 4, 4), torch.randint(0, 3, (1, 1, 4, 4, 4))
    loss = BalancedDiceCELoss()
    expected = sum(loss(logits[:1, head], labels) for head in (0, 1))
    expected += sum(loss(logits[2:, head], logits[1:2, head].argmax(1, True)) for head in (0, 1))
    torch.testing.assert_close(step_loss(logits, labels, 1), expected)
    torch.testing.assert_close(step_loss(logits, labels, 1, torch.float64), expected.double())
