"""Two processes with half of each batch learn what one process learns from the whole of it."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from monai.engines import SupervisedTrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.engines.agreement_step import AgreementStep
from common.losses.agreement import BranchDiceLoss
from common.networks.dmnet import DMNet
from common.networks.pixel_discriminator import PixelDiscriminator
from tests.helpers.parallel_training import join


def without_batch_norm(module):
    """Batch norm sees the batch of its process alone, by design; all else must agree."""
    for name, part in module.named_children():
        if isinstance(part, nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        else:
            without_batch_norm(part)
    return module


def trained(wrap=nn.Sequential, first=0, step=1):
    """Weights of both players after three iterations on every ``step``-th of 4 + 4 images."""
    torch.manual_seed(0)
    players = [
        without_batch_norm(DMNet(1, 2, encoder="resnet10", width=4)).double(),
        PixelDiscriminator(2, widths=(3, 4, 5)).double(),
    ]
    network, discriminator = map(wrap, players)
    optimizers = [torch.optim.SGD(player.parameters(), 0.05) for player in players]
    images = torch.randn(3, 2, 4, 1, 32, 32, dtype=torch.float64)[:, :, first::step]
    SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[
            {"labeled": {"image": known, "label": (known > 0.5).double()}, "unlabeled": {"image": unknown}}
            for known, unknown in images
        ],
        network=network,
        optimizer=optimizers[0],
        loss_function=BranchDiceLoss(),
        iteration_update=AgreementStep(discriminator, optimizers[1]),
        decollate=False,
    ).run()
    return torch.cat([value.flatten() for player in players for value in player.parameters()]).detach()


def train_half(rank, folder):
    torch.set_num_threads(1)
    join(rank, folder / "rendezvous")
    torch.save(trained(DistributedDataParallel, rank, 2), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_the_same_batch(tmp_path):
    torch.multiprocessing.spawn(train_half, (tmp_path,), nprocs=2)
    one = trained()
    for rank in range(2):
        two = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(two, one, atol=1e-12, rtol=1e-9)
    assert not torch.equal(trained(first=0, step=2), one)
