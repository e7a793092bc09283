"""What each process of a test with several processes does; importable, as processes are spawned."""

import logging
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.data import MetaTensor

from common.engines.saved_files import ListSavedFiles
from tests.helpers.tiny_training import tiny_run


def train_and_list_files(rank: int, folder: Path, runs: list[dict]) -> None:
    """Train once per entry of ``runs``: options of ``tiny_run``, and ``cut_off_at`` an iteration."""
    torch.set_num_threads(1)
    for number, options in enumerate(runs):
        join(rank, folder / f"rendezvous_{number}")
        iteration = options.pop("cut_off_at", None)
        run = tiny_run(folder, is_parallel=True, **options)
        if iteration is not None:
            run.cut_off_at(iteration)
        with suppress(KeyboardInterrupt):
            run.trainer.run()
        list_files(rank, folder)
        dist.destroy_process_group()


def join(rank: int, rendezvous: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)


def list_files(rank: int, folder: Path) -> None:
    saved = MetaTensor(torch.zeros(1), meta={"saved_to": f"case_{rank}.nii.gz"})
    engine = Engine(lambda engine, batch: [{"pred": saved}])
    engine.logger = logging.getLogger(f"rank_{rank}")
    engine.logger.setLevel(logging.INFO)
    engine.logger.addHandler(logging.FileHandler(folder / f"rank_{rank}.log", mode="w"))
    ListSavedFiles().attach(engine)
    engine.run([0])
