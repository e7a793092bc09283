"""Time of the cross-domain network on a CPU, with and without its exact speed-ups, side by side.

    python -m benchmarks.crossdomain_speed --size 256 --batches 1,8 --repeats 5 --threads 1

All forms of a network have the same weights and take turns in one run. Besides, the stacks of neighboring
slices of a volume: as overlapping views, and as copies.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

import torch
from monai.utils import ensure_tuple
from torch import Tensor

from benchmarks.side_by_side import (
    TIME_COLUMNS,
    Form,
    machine,
    markdown,
    measure,
    settled,
    table,
    take_turns,
    time_cells,
)
from common.data.slice_stacks import slice_stack, slice_stacks
from common.networks.crossdomain_unet import CrossDomainUNet

_TRAINING_BATCHES = 10
_BATCH_SHAPE = (2, 3, 128, 128)
_NEIGHBORS = 1
_STACKS_AT_A_TIME = 8


def forms_of(network: CrossDomainUNet) -> list[Form]:
    """The forms to compare, the plain one first; none shares a tensor with ``network``.

    Args:
        network: not fused, in evaluation mode.
    """
    folded = copy.deepcopy(network)
    folded.fuse()
    forms = []
    for title, form in (("plain", copy.deepcopy(network)), ("folded", folded)):
        rearranged = copy.deepcopy(form).to(memory_format=torch.channels_last)
        forms.append(Form(title, form, torch.contiguous_format))
        forms.append(Form(f"{title} + channels_last", rearranged, torch.channels_last))
    return forms


def copied_stacks(volume: Tensor, neighbors: int) -> Tensor:
    """What :func:`common.data.slice_stacks.slice_stacks` returns, every stack in memory of its own.

    Args:
        volume: (X, Y, Z).
        neighbors: slices on either side.

    Returns:
        (Z, 2 neighbors + 1, X, Y).
    """
    return torch.stack([slice_stack(volume, index, neighbors) for index in range(volume.shape[-1])])


def stack_table(volume: Tensor, repeats: int) -> str:
    """Views against copies of the stacks of a volume, each cut into the batches that a network gets.

    Args:
        volume: float (X, Y, Z).
        repeats: timed runs of each way, after one that is not timed.

    Returns:
        Lines of a table in Markdown. Memory is what the stacks hold besides the batch.
    """
    ways = {"copies": copied_stacks, "overlapping views": slice_stacks}
    runs = [functools.partial(_batches, way, volume) for way in ways.values()]
    found = [run() for run in runs]
    times = take_turns(runs, repeats)
    rows = []
    for (title, way), batches, seconds in zip(ways.items(), found, times):
        is_equal = all(map(torch.equal, batches, found[0]))
        held_mib = way(volume, _NEIGHBORS).untyped_storage().nbytes() / 2**20
        cells = time_cells(seconds, times[0])
        rows.append([title, *cells, f"{held_mib:.1f}", "yes" if is_equal else "no"])
    return markdown(["stacks", *TIME_COLUMNS, "MiB", "equal to the first"], rows)


def _batches(way: Callable[[Tensor, int], Tensor], volume: Tensor) -> list[Tensor]:
    return [batch.contiguous() for batch in way(volume, _NEIGHBORS).split(_STACKS_AT_A_TIME)]


def crossdomain_speed(
    size: int = 256,
    batches: int | Sequence[int] = (1, 8),
    structures: str | Sequence[str] = ("pre", "post"),
    slices: int = 80,
    repeats: int = 5,
    threads: int = 1,
) -> str:
    """Compare the forms of the network in evaluation mode, and two ways to make stacks of slices.

    Args:
        size: edge length of the square slices, in pixels, divisible by 16.
        batches: stacks of three slices that the network gets at a time.
        structures: ``pre``, ``post`` or both.
        slices: of the volume whose stacks are made.
        repeats: timed runs of each form.
        threads: of PyTorch. Times are those of the processor, summed over the threads.

    Returns:
        The machine, one table per structure and batch, and that of the stacks, as text.
    """
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    parts = [machine()]
    for structure in ensure_tuple(structures):
        build = functools.partial(CrossDomainUNet, structure=structure)
        forms = forms_of(settled(build, _BATCH_SHAPE, _TRAINING_BATCHES))
        for batch in ensure_tuple(batches):
            image = torch.randn(batch, 3, size, size, generator=generator)
            title = f"{structure}, {batch} x {size} x {size} pixels, {repeats} repeats"
            parts.append(f"{title}\n\n{table(measure(forms, image, repeats))}")
    volume = torch.rand(size, size, slices, generator=generator)
    title = f"stacks of three slices, {size} x {size} x {slices} voxels, {repeats} repeats"
    return "\n\n".join([*parts, f"{title}\n\n{stack_table(volume, repeats)}"])


if __name__ == "__main__":
    import fire

    fire.Fire(crossdomain_speed)
