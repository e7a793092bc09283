"""A complete MONAI training in miniature: random crops, flips and noise, dropout, validation, schedule."""

from dataclasses import dataclass
from pathlib import Path

import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader, DistributedSampler
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, MeanDice, ValidationHandler, from_engine
from monai.losses import DiceCELoss
from monai.transforms import AsDiscreted, Compose, RandCropByLabelClassesd, RandFlipd, RandGaussianNoised
from monai.utils import set_determinism
from torch import nn

from common.engines.checkpoints import TrainingCheckpoints
from common.engines.epoch_seed import EpochSeed


@dataclass
class TinyRun:
    """The parts of one training."""

    trainer: SupervisedTrainer
    evaluator: SupervisedEvaluator
    network: nn.Module
    optimizer: torch.optim.Optimizer
    checkpoints: TrainingCheckpoints
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "models" / "model.pt"

    @property
    def best(self) -> Path:
        return self.folder / "models" / "model_best.pt"

    @property
    def state(self) -> Path:
        return self.folder / "run" / "state.pt"

    def set_validation_scores(self, scores: list[float]) -> None:
        """Replace the key metric by given values, one per validation."""
        remaining = iter(scores)

        def overwrite():
            self.evaluator.state.metrics["val_mean_dice"] = next(remaining)

        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, overwrite)

    def cut_off_at(self, iteration: int) -> None:
        """Let the run die in the middle of an iteration."""

        def die():
            raise KeyboardInterrupt

        self.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), die)


def tiny_network(width: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(width, 2, 1),
    )


def tiny_cases(count: int = 6) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn((1, 12, 12), generator=generator) for _ in range(count)]
    return [{"image": image, "label": (image > 0).float()} for image in images]


def tiny_loader(num_workers: int = 0, is_parallel: bool = False, **options) -> DataLoader:
    both = ("image", "label")
    augmentation = Compose(
        [
            RandCropByLabelClassesd(both, "label", spatial_size=(8, 8), num_classes=2, num_samples=2),
            RandFlipd(both, prob=0.5, spatial_axis=0),
            RandGaussianNoised("image", prob=0.5),
        ]
    )
    dataset = CacheDataset(tiny_cases(), augmentation, progress=False)
    order = {"sampler": DistributedSampler(dataset)} if is_parallel else {"shuffle": True}
    return DataLoader(dataset, num_workers, **{"batch_size": 2, **order, **options})


def tiny_run(
    folder: Path,
    max_epochs: int = 3,
    val_interval: int = 1,
    num_workers: int = 0,
    width: int = 3,
    is_parallel: bool = False,
    **checkpoint_options,
) -> TinyRun:
    set_determinism(seed=5)
    network = nn.parallel.DistributedDataParallel(tiny_network(width)) if is_parallel else tiny_network(width)
    loader = tiny_loader(num_workers, is_parallel)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.PolynomialLR(
        optimizer, total_iters=max_epochs * len(loader), power=0.9
    )
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(tiny_cases(2), batch_size=1),
        network=network,
        postprocessing=AsDiscreted(("pred", "label"), argmax=(True, False), to_onehot=2),
        key_val_metric={"val_mean_dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
    )
    checkpoints = TrainingCheckpoints(
        network,
        optimizer,
        schedule,
        evaluator,
        folder / "models",
        folder / "run" / "state.pt",
        **checkpoint_options,
    )
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
        train_handlers=[
            checkpoints,  # before the handlers whose results it saves: the order must not matter
            EpochSeed(seed=7),
            ValidationHandler(val_interval, evaluator),
            LrScheduleHandler(schedule, print_lr=False, epoch_level=False),
        ],
    )
    return TinyRun(trainer, evaluator, network, optimizer, checkpoints, folder)
