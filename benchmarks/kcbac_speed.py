"""Time of kCBAC-Net on a CPU: as printed, and with the exact speed-ups of this collection, side by side.

    python -m benchmarks.kcbac_speed --spatial_dims 3 --size 64 --base_width 8 --repeats 3 --threads 1

There is no released code. As printed: branches apart, every skip pooled in one step or upsampled before its
1x1 convolution. The training form shares one pyramid of pooled features and upsamples after the 1x1
convolution; the deployment form has a single convolution in place of the branches. All forms have the same
weights, and take turns in one run, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch

from benchmarks.form_table import averaging, form_table
from benchmarks.plain_forms.bipartite import plain_form
from benchmarks.side_by_side import Form, machine, settled
from common.networks.kcbac import KCBACNet

_TRAINING_BATCHES = 2
_NUM_CLASSES = 8


def untrained(**arguments: Any) -> KCBACNet:
    """A network for eight classes whose statistics few batches settle."""
    return averaging(KCBACNet(in_channels=1, num_classes=_NUM_CLASSES, **arguments))


def forms_of(network: KCBACNet) -> list[Form]:
    """The forms to compare, the printed one first; none shares a tensor with ``network``.

    Args:
        network: as for :func:`benchmarks.plain_forms.bipartite.plain_form`, in evaluation mode.
    """
    folded = copy.deepcopy(network)
    folded.fuse()
    is_volume = network.spatial_dims == 3
    last = torch.channels_last_3d if is_volume else torch.channels_last
    rearranged = copy.deepcopy(folded).to(memory_format=last)
    plain = torch.contiguous_format
    return [
        Form("as printed", plain_form(network), plain),
        Form("training form", copy.deepcopy(network), plain),
        Form("deployment form", folded, plain),
        Form(f"+ channels_last{'_3d' if is_volume else ''}", rearranged, last),
    ]


def kcbac_speed(
    spatial_dims: int = 3,
    size: int = 64,
    base_width: int = 8,
    num_scales: int = 5,
    repeats: int = 3,
    threads: int = 1,
) -> str:
    """Compare the forms of kCBAC-Net, one image at a time, in evaluation mode.

    Args:
        spatial_dims: 2 or 3.
        size: edge length of the square or cube, a multiple of 64 with five scales.
        base_width: channels of the first encoder; the published network has 32 in 3D and 64 in 2D.
        num_scales: encoders of each of the two networks; the published network has 5.
        repeats: timed runs of each form.
        threads: of PyTorch. Times are those of the processor, summed over the threads.

    Returns:
        The machine and a table, as text.
    """
    torch.set_num_threads(threads)
    build = functools.partial(
        untrained, spatial_dims=spatial_dims, base_width=base_width, num_scales=num_scales
    )
    # The smallest images whose coarsest features still have one value per image, two images being a batch.
    small = [2 ** (num_scales + 1)] * spatial_dims
    forms = forms_of(settled(build, (2, 1, *small), _TRAINING_BATCHES))
    shape = [size] * spatial_dims
    image = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    title = f"{' x '.join(map(str, shape))}, C = {base_width}, {num_scales} scales, {repeats} repeats"
    return f"{machine()}\n\n{title}\n\n{form_table(forms, image, repeats)}"


if __name__ == "__main__":
    import fire

    fire.Fire(kcbac_speed)
