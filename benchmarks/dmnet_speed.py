"""Time of DMNet on a CPU, with and without its exact speed-ups, side by side.

    python -m benchmarks.dmnet_speed --size 224 --batches 1,4 --repeats 3 --threads 1

There is no released code. The plain form runs the encoder once for both decoders, as ours does; the last row
is what two separate networks of the same weights take. All forms have the same weights, and take turns in one
run, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import torch
from monai.utils import ensure_tuple
from torch import Tensor, nn

from benchmarks.form_table import averaging, form_table
from benchmarks.side_by_side import Form, machine, settled
from common.networks.dmnet import DMNet

_TRAINING_BATCHES = 2
_TRAINING_SIZE = 96


def untrained(encoder: str, width: int) -> DMNet:
    """A network whose statistics few batches settle."""
    return averaging(DMNet(encoder=encoder, width=width))


class EncoderTwice(nn.Module):
    """The network with an encoder pass for each decoder.

    Args:
        network: with one encoder; it is run.
    """

    def __init__(self, network: DMNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Float (B, C, H, W) to (B, K, H, W), see :class:`~common.networks.dmnet.DMNet`."""
        self.network.encoders[0](image)
        return self.network(image)


def forms_of(network: DMNet) -> list[Form]:
    """The forms to compare, the plain one first; none shares a tensor with ``network``.

    Args:
        network: with one encoder for both decoders, not fused, in evaluation mode.
    """
    folded = copy.deepcopy(network)
    folded.fuse()
    plain, last = torch.contiguous_format, torch.channels_last
    return [
        Form("plain", copy.deepcopy(network), plain),
        Form("plain + channels_last", copy.deepcopy(network).to(memory_format=last), last),
        Form("deployment form", folded, plain),
        Form("deployment form + channels_last", copy.deepcopy(folded).to(memory_format=last), last),
        Form("plain, encoder for each decoder", EncoderTwice(copy.deepcopy(network)), plain),
    ]


def dmnet_speed(
    size: int = 224,
    batches: int | Sequence[int] = (1, 4),
    encoder: str = "resnet101",
    width: int = 64,
    repeats: int = 3,
    threads: int = 1,
) -> str:
    """Compare the forms of DMNet in evaluation mode.

    Args:
        size: edge length of the square slices, in pixels.
        batches: slices that the network gets at a time.
        encoder: the published network has ``resnet101``.
        width: channels of the encoder's first level; the published network has 64.
        repeats: timed runs of each form.
        threads: of PyTorch. Times are those of the processor, summed over the threads.

    Returns:
        The machine and one table per batch, as text.
    """
    torch.set_num_threads(threads)
    build = functools.partial(untrained, encoder, width)
    forms = forms_of(settled(build, (2, 1, _TRAINING_SIZE, _TRAINING_SIZE), _TRAINING_BATCHES))
    parts = [machine()]
    for batch in ensure_tuple(batches):
        image = torch.randn(batch, 1, size, size, generator=torch.Generator().manual_seed(batch))
        title = f"{batch} x {size} x {size} pixels, {encoder}, width {width}, {repeats} repeats"
        parts.append(f"{title}\n\n{form_table(forms, image, repeats)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    import fire

    fire.Fire(dmnet_speed)
