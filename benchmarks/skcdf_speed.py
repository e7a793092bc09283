"""Time of SKCDF on a CPU: as released, and with the exact speed-ups of this collection, side by side.

    python -m benchmarks.skcdf_speed --size 64,128,128 --repeats 2 --threads 1

The released network stores and normalizes the logits of its attention, in evaluation for every image twice,
computes the balanced head in evaluation as well, and has transposed convolutions. All forms have the same
weights, and take turns in one run, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.side_by_side import (
    TIME_COLUMNS,
    Form,
    machine,
    markdown,
    settled,
    take_turns,
    time_cells,
)
from common.networks.blocks.channel_attention import ChannelAttention
from common.networks.encoders.vnet import VNetDecoder
from common.networks.skcdf import SKCDF

_TRAINING_BATCHES = 10
# Batch statistics need no image of full size.
_TRAINING_SIZE = (32, 32, 32)


class StoredLogits(ChannelAttention):
    """Channel attention computed as in the released code.

    Args:
        block: its layers are shared.
    """

    def __init__(self, block: ChannelAttention) -> None:
        scope = "global" if block.is_global else "local"
        channels = block.attention_norm.normalized_shape[0]
        permuted = not block.merges_heads_first
        super().__init__(channels, block.grid, scope, block.heads, permuted_heads=permuted)
        for name, layer in block.named_children():
            setattr(self, name, layer)

    def forward(self, features: Tensor, is_paired: bool = False) -> Tensor:
        """Float (B, C, D, H, W) to the same shape; in evaluation with every sample twice."""
        if self.training:
            return super().forward(features, is_paired)
        return super().forward(torch.cat([features, features]), is_paired)[: len(features)]

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        logits = F.instance_norm(queries @ keys.transpose(-2, -1), eps=1e-5)
        return self.dropout(logits.softmax(-1)) @ values


class ReleasedDecoder(VNetDecoder):
    """Decoder computed as in the released code, with both heads in evaluation as well.

    Args:
        decoder: with a balanced head; its layers are shared.
    """

    def __init__(self, decoder: VNetDecoder) -> None:
        super().__init__(decoder.main_head.out_channels, decoder.main_head.in_channels)
        for name, layer in decoder.named_children():
            setattr(self, name, layer)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Five levels, fine to coarse, to the logits of the main and of the balanced head."""
        features = levels[4]
        for up, stage, skip in zip(self.ups, self.stages, levels[3::-1]):
            conv, norm, activation = up
            finer = F.conv_transpose3d(features, conv.weight, conv.bias, stride=2)
            features = stage(activation(norm(finer)) + skip)
        features = self.dropout(features)
        return [self.main_head(features), self.balanced_head(features)]


def released_form(network: SKCDF) -> SKCDF:
    """A copy of a network that computes what the released code does.

    Args:
        network: of the published form, not fused.

    Returns:
        The copy, in the mode of ``network``.
    """
    released = copy.deepcopy(network)
    released.attention = nn.ModuleList(StoredLogits(block) for block in released.attention)
    released.labeled_decoder = ReleasedDecoder(released.labeled_decoder)
    released.unlabeled_decoder = ReleasedDecoder(released.unlabeled_decoder)
    return released.train(network.training)


def settled_network(size: Sequence[int], **arguments: int) -> SKCDF:
    """The published network with random weights, see :func:`benchmarks.side_by_side.settled`.

    Args:
        size: of the image, D, H, W.
        **arguments: of the network.

    Returns:
        In evaluation mode; always the same weights. The statistics come from passes over smaller images.
    """
    small = settled(
        functools.partial(SKCDF, roi_size=_TRAINING_SIZE, **arguments),
        (2, 1, *_TRAINING_SIZE),
        _TRAINING_BATCHES,
    )
    network = settled(functools.partial(SKCDF, roi_size=tuple(size), **arguments), (), 0)
    own = network.state_dict()
    fitting = {name: value for name, value in small.state_dict().items() if value.shape == own[name].shape}
    network.load_state_dict(own | fitting)
    return network


def forms_of(network: SKCDF) -> list[Form]:
    """The forms to compare, the released one first; none shares a tensor with ``network``.

    Args:
        network: as for :func:`released_form`.
    """
    folded = copy.deepcopy(network)
    folded.fuse()
    rearranged = copy.deepcopy(folded).to(memory_format=torch.channels_last_3d)
    return [
        Form("as released", released_form(network), torch.contiguous_format),
        Form("deployment form", folded, torch.contiguous_format),
        Form("+ channels_last_3d", rearranged, torch.channels_last_3d),
    ]


@torch.no_grad()
def speed_table(forms: Sequence[Form], image: Tensor, repeats: int) -> str:
    """Run all forms in turns.

    Args:
        forms: at least one; the outputs of the first are what the others are compared to.
        image: float (B, C, D, H, W).
        repeats: timed runs of each form, after one that is not timed.

    Returns:
        Lines of a table in Markdown: times, the largest difference of a logit, the number of voxels with
        another label, and the largest logit.
    """
    runs = [
        functools.partial(form.network, image.contiguous(memory_format=form.memory_format)) for form in forms
    ]
    outputs = [run() for run in runs]
    times = take_turns(runs, repeats)
    rows = []
    for form, seconds, output in zip(forms, times, outputs):
        difference = (output - outputs[0]).abs().max().item()
        changed = int((output.argmax(1) != outputs[0].argmax(1)).sum())
        largest = output.abs().max().item()
        cells = [f"{difference:.1e}", f"{changed} of {output[:, 0].numel()}", f"{largest:.1f}"]
        rows.append([form.title, *time_cells(seconds, times[0]), *cells])
    return markdown(["form", *TIME_COLUMNS, "off the first", "other labels", "logits to"], rows)


def skcdf_speed(
    size: Sequence[int] = (64, 128, 128), repeats: int = 2, threads: int = 1, width: int = 32
) -> str:
    """Compare the forms of SKCDF, one image at a time, in evaluation mode.

    Args:
        size: D, H, W of the image, in voxels, multiples of 32.
        repeats: timed runs of each form.
        threads: of PyTorch. Times are those of the processor, summed over the threads.
        width: channels of the first level; 32 is the published network.

    Returns:
        The machine and a table, as text.
    """
    torch.set_num_threads(threads)
    forms = forms_of(settled_network(size, width=width))
    image = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0))
    title = f"{' x '.join(map(str, size))} voxels, width {width}, {repeats} repeats"
    return f"{machine()}\n\n{title}\n\n{speed_table(forms, image, repeats)}"


if __name__ == "__main__":
    import fire

    fire.Fire(skcdf_speed)
