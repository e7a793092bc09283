"""The semi-supervised step: the formulas spelled out, who learns from what, what is logged, errors."""

import copy
import math

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn

from common.engines.checkpoints import TrainingCheckpoints
from common.engines.decoupled_step import DecoupledStep
from common.engines.ema_pulls import EmaPulls
from common.engines.epoch_seed import EpochSeed
from common.engines.optimizer_steps import scalars
from common.errors import InputError
from common.losses.balanced import BalancedDiceCELoss
from common.networks.skcdf import SKCDF

RATIOS = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
LOSSES = ("loss", "supervised_loss", "balanced_loss", "pseudo_loss", "pseudo_balanced_loss")
VNET = {"attention": "none", "decoupled": False, "balanced_head": False}


def network(num_classes=3, **arguments):
    torch.manual_seed(1)
    return SKCDF(num_classes=num_classes, **{"roi_size": (32, 32, 32), "width": 1, **arguments})


def batch(pairs=1, unlabeled=None, size=(32, 32, 32)):
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(2, pairs, 1, *size, generator=generator)
    found = {"labeled": {"image": images[0], "label": (3 * images[0]).floor()}}
    return found | ({} if unlabeled == 0 else {"unlabeled": {"image": images[1, :unlabeled]}})


def trainer_of(trained, step, loader=(None,), **arguments):
    sgd = torch.optim.SGD(trained.parameters(), 0.1, 0.9, nesterov=True, weight_decay=3e-5)
    parts = {"max_epochs": 1, "optimizer": sgd, "loss_function": BalancedDiceCELoss(), **arguments}
    parts |= {"network": trained, "train_data_loader": list(loader), "iteration_update": step}
    return SupervisedTrainer("cpu", decollate=False, **parts)


def one_step(trained, given, epoch=0, ratios=RATIOS, last_epoch=5, loss=None, **arguments):
    """Output of one iteration in the epoch ``epoch``, 0 for the first."""
    step = DecoupledStep(ratios, last_epoch, **arguments)
    trainer = trainer_of(trained, step, loss_function=loss or BalancedDiceCELoss())
    trainer.state.epoch = epoch + 1
    torch.manual_seed(4)
    return step(trainer, given)


def spelled_out(logits, labels, mask=None):
    """Cross-entropy plus batch Dice without background."""
    if mask is not None:
        logits, labels = logits * mask[:, None], labels * mask
    truth = nn.functional.one_hot(labels, logits.shape[1]).movedim(-1, 1)
    entropy = -(logits.log_softmax(1) * truth).sum(1).mean()
    found, axes = logits.softmax(1), (0, 2, 3, 4)
    dice = (2 * (found * truth).sum(axes) + 1) / ((found + truth).sum(axes) + 1)
    return entropy + 1 - dice[1:].mean()


def pull(target, source, momentum=0.99):
    for value, other in zip(target.parameters(), source.parameters()):
        value.data = momentum * value.data + (1 - momentum) * other.data


def descend_as_published(net, given, epoch, last_epoch):
    """One iteration without a line of the step; returns its five losses and two shares of foreground."""
    labeled, unlabeled = net.labeled_decoder, net.unlabeled_decoder
    pull(labeled.main_head, labeled.balanced_head)
    pull(unlabeled, labeled)
    pull(unlabeled.main_head, unlabeled.balanced_head)
    torch.manual_seed(4)
    image, label = given["labeled"]["image"], given["labeled"]["label"][:, 0].long()
    pairs, logits = len(image), []
    both = torch.cat([image, given["unlabeled"]["image"]])
    for shown, decoder, is_paired in ((both, labeled, True), (both[pairs:], unlabeled, False)):
        *fine, coarse = net.encoder(shown)
        for block in net.attention.children():
            coarse = block(coarse, is_paired)
        logits.append(decoder([*fine, coarse]))
    (main, balanced), (own_main, own_balanced) = logits
    mask = torch.rand(label.shape) < RATIOS.float()[label]
    pseudo, other = main[pairs:].argmax(1), balanced[pairs:].argmax(1)
    annealed = (1 - epoch / last_epoch * (1 - RATIOS)).float()
    other_mask = torch.rand(label.shape) < annealed[other]
    terms = [spelled_out(main[:pairs], label), spelled_out(balanced[:pairs], label, mask)]
    terms += [spelled_out(own_main, pseudo), spelled_out(own_balanced, other, other_mask)]
    weight = 10 * math.exp(-5 * (1 - (epoch - 1) / last_epoch) ** 2)
    loss = sum(terms[:2]) + weight * sum(terms[2:])
    loss.backward()
    for value in net.parameters():  # the first step of SGD with Nesterov momentum 0.9
        value.data -= 0.1 * 1.9 * (value.grad + 3e-5 * value.data)
    return [loss, *terms, *((classes > 0).float().mean() for classes in (pseudo, own_main.argmax(1)))]


@pytest.mark.parametrize("pairs", [1, 3])
def test_a_whole_step_equals_the_formulas_spelled_out(pairs):
    trained = network(width=2, dropout=0.2).double()
    for name, value in trained.named_parameters():
        if name.endswith("head.weight"):
            nn.init.normal_(value, std=3)
    own = copy.deepcopy(trained).train()
    given = {name: stream | {"image": stream["image"].double()} for name, stream in batch(pairs).items()}
    output = one_step(trained, given, epoch=3, pulls=EmaPulls(trained))
    expected = descend_as_published(own, given, 3, 5)
    found = [output[name].item() for name in (*LOSSES, "foreground_unlabeled", "foreground_predicted")]
    assert found == pytest.approx([value.item() for value in expected])
    assert 0.01 < output["foreground_unlabeled"] < 0.99  # pseudo-labels of several classes
    for value, other in zip(trained.state_dict().values(), own.state_dict().values()):
        assert torch.allclose(value, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("term", range(4))
def test_each_term_reaches_its_own_parts_only(term):
    decoder, head = ("labeled", "unlabeled")[term // 2], ("main", "balanced")[term % 2]

    class OnlyOneTerm(BalancedDiceCELoss):
        calls = 0

        def forward(self, logits, labels, mask=None):
            self.calls += 1
            return super().forward(logits, labels, mask) * (self.calls == term + 1)

    trained = network(dropout=0.0)  # of a single channel dropout may leave nothing
    one_step(trained, batch(), loss=OnlyOneTerm())
    names = [name.split(".") for name, value in trained.named_parameters() if value.grad.any()]
    reached = {".".join(parts[: 1 + ("head" in parts[1])]) for parts in names}
    assert reached == {"encoder", "attention", f"{decoder}_decoder", f"{decoder}_decoder.{head}_head"}


def test_dropped_voxels_cost_ln_k_and_almost_one():
    """14 classes at 1/14 each in 32768 voxels that are all background: ln 14 + 1 - 1 / (32768 / 14 + 1)."""
    output = one_step(network(14), batch(), 5, torch.zeros(14))
    expected = math.log(14) + 1 - 14 / (32768 + 14)
    assert output["balanced_loss"].item() == pytest.approx(expected, abs=1e-5)
    assert output["pseudo_balanced_loss"].item() == pytest.approx(expected, abs=1e-5)
    assert expected == pytest.approx(3.6391, abs=5e-4)  # the limit for large volumes
    kept = one_step(network(14), batch(), 0, torch.zeros(14))
    assert kept["pseudo_balanced_loss"] != output["pseudo_balanced_loss"]  # annealing starts with all voxels


@pytest.mark.parametrize(
    ("epoch", "weight"), [(0, 0.067), (1, 0.067), (251, 0.31), (751, 2.87), (1251, 8.7), (1500, 10)]
)
def test_weight_of_the_unlabeled_loss_is_the_published_one(epoch, weight):
    output = one_step(network(**VNET), batch(size=(32, 16, 16)), epoch, None, last_epoch=1500)
    assert output["unlabeled_weight"].item() == pytest.approx(weight, abs=5e-3)
    expected = output["supervised_loss"] + output["unlabeled_weight"] * output["pseudo_loss"]
    assert output["loss"].item() == pytest.approx(expected.item())


def test_output_of_a_step():
    given = batch(2)
    output = one_step(network(), given, names=["left kidney", "liver"], max_grad_norm=1.0)
    shares = {"foreground_labeled", "foreground_unlabeled", "foreground_predicted"}
    classes = ["pseudo_background", "pseudo_left kidney", "pseudo_liver"]
    found = scalars(output)
    assert found.keys() == shares | {*LOSSES, *classes, "unlabeled_weight", "gradient_norm"}
    assert found["foreground_labeled"] == pytest.approx((given["labeled"]["label"] > 0).float().mean().item())
    assert sum(found[name] for name in classes) == pytest.approx(1)
    assert found["foreground_unlabeled"] == pytest.approx(1 - found["pseudo_background"])
    assert output["pred"].shape == (2, 3, 32, 32, 32)
    assert not output["pred"].requires_grad


def test_a_supervised_step_of_the_vnet_is_plain_training():
    trained = network(**VNET)
    own = copy.deepcopy(trained).train()
    given = batch(2, unlabeled=0, size=(32, 16, 16))
    output = one_step(trained, given, ratios=None, pulls=EmaPulls(trained))
    torch.manual_seed(4)
    loss = spelled_out(own(given["labeled"]["image"])[:, 0], given["labeled"]["label"][:, 0].long())
    assert output["loss"].item() == pytest.approx(loss.item())
    assert scalars(output).keys() == {"loss", "supervised_loss", "foreground_labeled", "foreground_predicted"}


def test_a_supervised_step_trains_the_balanced_head_too():
    trained = network(decoupled=False)
    output = one_step(trained, batch(unlabeled=0))
    assert output["loss"] == output["supervised_loss"] + output["balanced_loss"]
    assert trained.unlabeled_decoder.balanced_head.weight.grad.any()


def test_clipping_scales_the_step_to_the_norm():
    trained, free = network(), network()
    output = one_step(trained, batch(), max_grad_norm=0.25)
    one_step(free, batch())
    norms = [torch.cat([p.grad.flatten() for p in net.parameters()]).norm() for net in (trained, free)]
    assert output["gradient_norm"].item() == pytest.approx(norms[1].item(), rel=1e-4)
    assert norms[0].item() == pytest.approx(0.25, rel=1e-4)


def test_pulls_come_before_the_forward_pass():
    trained, events = network(), []
    trained.register_forward_pre_hook(lambda *_: events.append("forward"))
    one_step(trained, batch(), pulls=lambda: events.append("pulls"))
    assert events == ["pulls", "forward"]


def test_tensors_with_metadata_and_whole_labels_are_taken():
    given = batch()
    plain = one_step(network(), given)
    given["labeled"] = {key: MetaTensor(value) for key, value in given["labeled"].items()}
    given["labeled"]["label"] = given["labeled"]["label"].to(torch.uint8)
    assert one_step(network(), given)["loss"].item() == pytest.approx(plain["loss"].item())


def run(folder, max_epochs, resume=False):
    """A training with dropout, masks, pulls and momentum; returns its last weights as bytes."""
    trained = network()
    optimizer = torch.optim.SGD(trained.parameters(), 0.05, 0.9, nesterov=True)
    evaluator = SupervisedEvaluator("cpu", [batch()["labeled"]], trained)
    saved = TrainingCheckpoints(trained, optimizer, None, evaluator, folder, folder / "state.pt", resume)
    step = DecoupledStep(RATIOS, last_epoch=1, pulls=EmaPulls(trained))
    parts = {"optimizer": optimizer, "train_handlers": [EpochSeed(7), saved], "max_epochs": max_epochs}
    trainer_of(trained, step, [batch()], **parts).run()
    return (folder / "model.pt").read_bytes()


def test_a_continued_training_draws_the_same_masks(tmp_path):
    whole = run(tmp_path / "whole", 2)
    run(tmp_path / "cut", 1)
    assert run(tmp_path / "cut", 2, resume=True) == whole


@pytest.mark.parametrize(
    ("given", "arguments", "message"),
    [
        ({"pairs": 2, "unlabeled": 1}, {}, r"labeled ones, \[2, 1, .*found \[1, 1, .*same batch_size"),
        ({"unlabeled": 0}, {}, r"expected a network without labeled decoder \(decoupled false\)"),
        ({}, {"ratios": None}, "ratios: expected one for each of 3 classes, found none"),
        ({}, {"ratios": RATIOS[:2]}, "ratios: expected one for each of 3 classes, found 2"),
        ({}, {"names": ["liver"]}, r"names: expected 2, one per foreground class, found \['liver'\]"),
    ],
)
def test_batches_and_settings_that_do_not_fit_are_refused(given, arguments, message):
    with pytest.raises(InputError, match=message):
        one_step(network(), batch(**given), **arguments)


def test_other_networks_and_settings_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"network: expected logits \(1, 1 or 2 heads, .* found \[1, 1, 32"):
        one_step(nn.Conv3d(1, 1, 1), batch(unlabeled=0))
    for arguments in ({"last_epoch": 0}, {"last_epoch": 5, "max_grad_norm": 0}):
        with pytest.raises(InputError, match=rf"{list(arguments)[-1]}: expected .* found 0"):
            DecoupledStep(RATIOS, **arguments)
