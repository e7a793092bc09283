"""Time of all networks on a CPU: plain, in their deployment form, and that frozen for this processor.

    python -m benchmarks.frozen_speed --methods kcbac,m2snet,dmnet,crossdomain,skcdf --repeats 3 --threads 1

    python -m benchmarks.frozen_speed --methods crossdomain --compiled True

Frozen: TorchScript with the weights as constants (``torch.jit.optimize_for_inference``). Its convolutions and
their activations are those of oneDNN, whatever their size, and have their weights rearranged once; otherwise
PyTorch does that in every pass, and takes another, slower way for small features. Nothing else changes.
Compiled: ``torch.compile`` with frozen weights, which needs a C++ compiler and up to minutes per network.
"""

from __future__ import annotations

import copy
import functools
import time
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch._inductor.config as inductor
from monai.utils import ensure_tuple
from torch import Tensor, nn

from benchmarks import crossdomain_speed, dmnet_speed, kcbac_speed, m2snet_speed, skcdf_speed
from benchmarks.form_table import averaging, form_table
from benchmarks.side_by_side import Form, machine, settled
from common.networks.crossdomain_unet import CrossDomainUNet
from common.networks.m2snet import M2SNet
from common.networks.skcdf import SKCDF

_BATCHES = 2
_WARM_PASSES = 3


class Method(NamedTuple):
    """What is measured of a network.

    Attributes:
        build: makes it.
        forms: of it, the plain one first.
        size: (C, [D,] H, W) of an image.
        small: edge lengths of the images that settle its statistics.
    """

    build: Callable[[], nn.Module]
    forms: Callable[[nn.Module], list[Form]]
    size: tuple[int, ...]
    small: tuple[int, ...]


_SCAN = (64, 64, 64)
METHODS = {
    "kcbac": Method(
        functools.partial(kcbac_speed.untrained, spatial_dims=3, base_width=8),
        kcbac_speed.forms_of,
        (1, *_SCAN),
        _SCAN,
    ),
    "m2snet": Method(M2SNet, m2snet_speed.forms_of, (3, 352, 352), (128, 128)),
    "dmnet": Method(
        functools.partial(dmnet_speed.untrained, "resnet101", 64),
        dmnet_speed.forms_of,
        (1, 224, 224),
        (96, 96),
    ),
    "crossdomain": Method(CrossDomainUNet, crossdomain_speed.forms_of, (3, 256, 256), (128, 128)),
    "skcdf": Method(functools.partial(SKCDF, roi_size=_SCAN), skcdf_speed.forms_of, (1, *_SCAN), _SCAN),
}


@torch.no_grad()
def frozen(network: nn.Module, image: Tensor) -> nn.Module:
    """A network as TorchScript for this processor.

    Args:
        network: in its deployment form and in evaluation mode.
        image: for the first passes, which TorchScript watches.

    Returns:
        The frozen network; it is tied to CPU and float32.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".torch.jit.*", DeprecationWarning)
        script = torch.jit.optimize_for_inference(torch.jit.script(network))
    for _ in range(_WARM_PASSES):
        script(image)
    return script


@torch.no_grad()
def as_compiled(form: Form, image: Tensor) -> Form:
    """A form of a network as ``torch.compile`` makes it for this processor; the title tells how long it took.

    Args:
        form: in evaluation mode.
        image: of the size that it is compiled for.
    """
    start_s = time.perf_counter()
    network = torch.compile(copy.deepcopy(form.network))
    with inductor.patch(freezing=True):
        network(image.contiguous(memory_format=form.memory_format))
    return Form(
        f"{form.title}, compiled in {time.perf_counter() - start_s:.0f} s", network, form.memory_format
    )


def forms_of(network: nn.Module, forms: Callable[[nn.Module], list[Form]], image: Tensor) -> list[Form]:
    """The plain form, all deployment forms, and the frozen one.

    Args:
        network: not fused, in evaluation mode.
        forms: of a network, the plain one first.
        image: as for :func:`frozen`.
    """
    plain, *others = forms(network)
    deployed = [form for form in others if getattr(form.network, "fused", False)]
    return [plain, *deployed, Form("deployment form, frozen", frozen(deployed[0].network, image), plain[2])]


def frozen_speed(
    methods: str | Sequence[str] = tuple(METHODS),
    batch: int = 1,
    repeats: int = 3,
    threads: int = 1,
    compiled: bool = False,
) -> str:
    """Compare the forms of networks in evaluation mode.

    Args:
        methods: names of ``METHODS``.
        batch: images at a time.
        repeats: timed runs of each form.
        threads: of PyTorch. Times are those of the processor, summed over the threads.
        compiled: also compile the deployment forms.

    Returns:
        The machine and a table for each method, as text.
    """
    torch.set_num_threads(threads)
    parts = [machine()]
    for name in ensure_tuple(methods):
        method = METHODS[name]
        channels, *edges = method.size
        network = settled(
            lambda method=method: averaging(method.build()), (2, channels, *method.small), _BATCHES
        )
        image = torch.randn(batch, channels, *edges, generator=torch.Generator().manual_seed(0))
        title = f"{name}, {batch} x {' x '.join(map(str, edges))}, {repeats} repeats"
        forms = forms_of(network, method.forms, image)
        forms += [as_compiled(form, image) for form in forms[1:-1] if compiled]
        parts.append(f"{title}\n\n{form_table(forms, image, repeats)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    import fire

    fire.Fire(frozen_speed)
