"""Time and memory of a training step on a CPU: plain, and with the exact speed-ups of this collection.

    python -m benchmarks.training_step --methods kcbac,m2snet,dmnet,crossdomain,skcdf --repeats 3 --threads 1

Both sides start from the same weights and batch, and take turns in one run. They are compared after their
first step: the loss, and all parameters of the network, whose largest change in that step is given, too. What
is plain: kCBAC-Net resizes each skip by itself; M2SNet (without the loss of its VGG-16, which is the same in
both) convolves with kernels of ones; DMNet and the cross-domain network run once more for the discriminator;
SKCDF stores the logits of its attention and masks in float64, as released.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from monai.engines import SupervisedTrainer
from monai.utils import ensure_tuple
from torch import Tensor, nn

from benchmarks.form_table import MIB, SPREAD_COLUMNS, peak_bytes, spread_cells
from benchmarks.m2snet_speed import dense_form
from benchmarks.plain_forms.bipartite import plain_form
from benchmarks.plain_forms.steps import PlainAdversarialStep, PlainAgreementStep
from benchmarks.side_by_side import machine, markdown, take_turns
from benchmarks.skcdf_memory import step_loss
from benchmarks.skcdf_speed import released_form
from common.engines.adversarial import AdversarialStep
from common.engines.agreement_step import AgreementStep
from common.losses.agreement import BranchDiceLoss
from common.losses.deep_supervision import DeepSupervisedLoss
from common.losses.structure import StructureLoss
from common.networks.crossdomain_unet import CrossDomainUNet
from common.networks.discriminators import ConditionalDiscriminator
from common.networks.dmnet import DMNet
from common.networks.kcbac import KCBACNet
from common.networks.m2snet import M2SNet
from common.networks.pixel_discriminator import PixelDiscriminator
from common.networks.skcdf import SKCDF

RATE = 1e-2


class Side(NamedTuple):
    """One way to train.

    Attributes:
        network: whose parameters change.
        step: takes a step and returns the loss before it.
    """

    network: nn.Module
    step: Callable[[], Tensor]


def descending(network: nn.Module, loss_of: Callable[[nn.Module], Tensor]) -> Side:
    """Plain gradient descent on a loss."""
    optimizer = torch.optim.SGD(network.parameters(), RATE)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(network)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Side(network, step)


def adversarial(
    network: nn.Module,
    discriminator: nn.Module,
    loss: nn.Module,
    iteration: Callable[..., Any],
    batch: dict[str, Any],
) -> Side:
    """An iteration of a trainer with two players, both by gradient descent.

    Args:
        network: trained.
        discriminator: trained beside it.
        loss: of the segmentation.
        iteration: makes the iteration of discriminator and optimizer.
        batch: of every iteration.
    """
    theirs = torch.optim.SGD(discriminator.parameters(), RATE)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[batch],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), RATE),
        loss_function=loss,
        decollate=False,
    )
    update = iteration(discriminator, theirs)
    return Side(network, lambda: update(trainer, batch)["loss"].detach())


def kcbac_sides(edge: int = 64, width: int = 8, num_scales: int = 5) -> list[Side]:
    """kCBAC-Net in 3D with deep supervision, two patches."""
    ours = KCBACNet(3, 1, 8, base_width=width, num_scales=num_scales)
    image, label = torch.randn(2, 1, edge, edge, edge), torch.randint(0, 8, (2, 1, edge, edge, edge))
    loss = DeepSupervisedLoss()
    return [descending(form, lambda net: loss(net(image), label)) for form in (plain_form(ours), ours)]


def m2snet_sides(edge: int = 128, **arguments: Any) -> list[Side]:
    """M2SNet, structure loss, two pictures."""
    ours = M2SNet(**arguments)
    image, label = torch.randn(2, 3, edge, edge), (torch.rand(2, 1, edge, edge) > 0.5).float()
    loss = StructureLoss()
    return [descending(form, lambda net: loss(net(image), label)) for form in (dense_form(ours), ours)]


def dmnet_sides(
    edge: int = 96, batch_size: int = 4, encoder: str = "resnet18", width: int = 32
) -> list[Side]:
    """DMNet with its discriminator, labeled and unlabeled slices."""
    network, judge = DMNet(encoder=encoder, width=width), PixelDiscriminator(2)
    image, other = torch.randn(2, batch_size, 1, edge, edge)
    label = torch.randint(0, 2, (batch_size, 1, edge, edge))
    batch = {"labeled": {"image": image, "label": label}, "unlabeled": {"image": other}}
    return [
        adversarial(*copy.deepcopy((network, judge)), BranchDiceLoss(), iteration, batch)
        for iteration in (PlainAgreementStep, AgreementStep)
    ]


def crossdomain_sides(edge: int = 128, batch_size: int = 4, **arguments: Any) -> list[Side]:
    """The cross-domain network with its discriminator."""
    network, judge = CrossDomainUNet(**arguments), ConditionalDiscriminator(5, edge)
    image = torch.randn(batch_size, 3, edge, edge)
    batch = {"image": image, "label": torch.randint(0, 2, (batch_size, 1, edge, edge))}
    loss = DeepSupervisedLoss(weights=(1.0,))
    return [
        adversarial(*copy.deepcopy((network, judge)), loss, iteration, batch)
        for iteration in (PlainAdversarialStep, AdversarialStep)
    ]


def skcdf_sides(size: Sequence[int] = (64, 64, 64), pairs: int = 1, width: int = 16) -> list[Side]:
    """SKCDF without dropout, whose random numbers differ between the two; losses of all four kinds."""
    ours = SKCDF(1, 14, tuple(size), width, dropout=0.0, attention_dropout=0.0)
    image, label = torch.randn(2 * pairs, 1, *size), torch.randint(0, 14, (pairs, 1, *size))

    def loss_of(network: nn.Module, mask_dtype: torch.dtype) -> Tensor:
        # Both draw the same masks.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return step_loss(network(image, pairs), label, pairs, mask_dtype)

    forms = ((released_form(ours), torch.float64), (ours, torch.bool))
    return [descending(form, functools.partial(loss_of, mask_dtype=dtype)) for form, dtype in forms]


METHODS: dict[str, Callable[..., list[Side]]] = {
    "kcbac": kcbac_sides,
    "m2snet": m2snet_sides,
    "dmnet": dmnet_sides,
    "crossdomain": crossdomain_sides,
    "skcdf": skcdf_sides,
}


def step_rows(title: str, sides: Sequence[Side], repeats: int) -> list[list[str]]:
    """Let two sides take turns, after a first step in which they are compared.

    Args:
        title: of the method.
        sides: the plain one first; in training mode from here on.
        repeats: timed steps of each side.

    Returns:
        A row of cells for each side.
    """
    before = [value.detach().clone() for value in sides[0].network.parameters()]
    losses = []
    for side in sides:
        side.network.train()
        losses.append(side.step().double().item())
    first = [list(side.network.parameters()) for side in sides][0]
    change = _largest_difference(first, before)
    differences = [
        (abs(loss - losses[0]), _largest_difference(side.network.parameters(), first))
        for side, loss in zip(sides, losses)
    ]
    times = take_turns([side.step for side in sides], repeats)
    rows = []
    for name, side, seconds, (in_loss, in_weights) in zip(("plain", "ours"), sides, times, differences):
        cells = [f"{in_loss:.1e}", f"{in_weights:.1e} of {change:.1e}", f"{peak_bytes(side.step) / MIB:.0f}"]
        rows.append([f"{title}, {name}", *spread_cells(seconds, times[0]), *cells])
    return rows


def _largest_difference(first: Any, second: Any) -> float:
    return max((one - other).detach().abs().max().item() for one, other in zip(first, second))


def training_step(methods: str | Sequence[str] = tuple(METHODS), repeats: int = 3, threads: int = 1) -> str:
    """Compare training steps, plain and ours.

    Args:
        methods: names of ``METHODS``.
        repeats: timed steps of each side.
        threads: of PyTorch. Times are those of the processor, summed over the threads.

    Returns:
        The machine and a table, as text. Peak memory is what a step needs above weights and batch.
    """
    torch.set_num_threads(threads)
    rows = []
    for name in ensure_tuple(methods):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            rows += step_rows(name, METHODS[name](), repeats)
    columns = ["step", *SPREAD_COLUMNS, "loss off", "weights off, of their change", "peak, MiB"]
    return f"{machine()}\n\n{markdown(columns, rows)}"


if __name__ == "__main__":
    import fire

    fire.Fire(training_step)
