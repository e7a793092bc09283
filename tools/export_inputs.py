"""What a network takes, as a bundle's metadata state it, and images of that form: random or real ones."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from common.errors import InputError

FREE = "*"
FREE_MULTIPLE = 32  # networks with four or five halvings compute sizes exactly at these
EXAMPLE_SIZE = 64
AXIS_NAMES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
_PATTERN = re.compile(r"[\d\s*np]+")


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a network's input.

    Args:
        name: of the axis in exported files.
        size: of an example, in pixels or voxels.
        multiple: allowed sizes are multiples of this number; 0: ``size`` is the only one.
        least: smallest allowed factor of ``multiple``.
    """

    name: str
    size: int
    multiple: int = 0
    least: int = 1


@dataclass(frozen=True)
class InputFormat:
    """The image that a network takes.

    Args:
        channels: of the image.
        axes: spatial axes in their order.
        value_range: least and largest value; empty if the metadata state none.
    """

    channels: int
    axes: tuple[Axis, ...]
    value_range: tuple[float, ...]

    def random_image(self, batch: int, seed: int, steps: Sequence[int] = ()) -> Tensor:
        """Random values from the whole range, float32 (batch, channels, ...).

        Args:
            batch: number of images.
            seed: of the values.
            steps: for each axis, by how many multiples it is longer than the example; fixed ones stay.
        """
        sizes = [axis.size + step * axis.multiple for axis, step in zip(self.axes, steps or [0] * 3)]
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, self.channels, *sizes)
        if len(self.value_range) != 2:
            return torch.randn(shape, generator=generator)
        low, high = self.value_range
        return low + (high - low) * torch.rand(shape, generator=generator)

    def random_images(self, least_factor: int = 1) -> list[Tensor]:
        """The example, two images with a longer last axis, and one with the other axes longer.

        Args:
            least_factor: if the example has fewer multiples than this on an axis, a larger one follows.
        """
        others = len(self.axes) - 1
        images = [self.random_image(1, 0), self.random_image(2, 1, [0] * others + [1])]
        if any(axis.multiple for axis in self.axes[:-1]):
            images.append(self.random_image(1, 2, [1] * others + [0]))
        if not self.has_factor(images[0], least_factor):
            images.append(self.random_image(1, 3, self.missing_steps(least_factor)))
        return images

    def has_factor(self, image: Tensor, least_factor: int) -> bool:
        """Whether every axis of an image (B, C, ...) is at least so many multiples long; fixed ones are."""
        sizes = zip(image.shape[2:], self.axes)
        return all(size >= least_factor * axis.multiple for size, axis in sizes)

    def missing_steps(self, least_factor: int) -> list[int]:
        """Steps from the example to a size of at least so many multiples on each axis."""
        return [
            max(0, least_factor - axis.size // axis.multiple) if axis.multiple else 0 for axis in self.axes
        ]


def input_format(
    metadata: Mapping[str, Any],
    network: torch.nn.Module,
    size: Sequence[int] = (),
    arguments: Mapping[str, Any] | None = None,
) -> InputFormat:
    """Read a network's input from a bundle's metadata.

    They describe the published network. Where overlays make another one, its arguments and attributes count.

    A free size (``*``) becomes multiples of the network's attribute ``size_multiple``; without one, of 32
    from 64 on, as at other sizes what a network does may depend on the size. A fixed size is that of the
    network's attribute ``roi_size``, if it has one: the metadata state that of the published network.

    Args:
        metadata: content of ``metadata.json``.
        network: the network.
        size: of the example, where the smallest one from 64 on is not wanted.
        arguments: of the network; ``in_channels`` and ``spatial_dims`` go before the metadata.

    Returns:
        The format. A size with ``n`` is a multiple of its value for n = 1, one with ``p`` of that for p = 5.

    Raises:
        InputError: the metadata give no image, a size that cannot be read, or ``size`` does not fit it.
    """
    try:
        image = metadata["network_data_format"]["inputs"]["image"]
        channels, shape = int(image["num_channels"]), list(image["spatial_shape"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"metadata.json: expected network_data_format::inputs::image, lacks {error}"
        ) from None
    arguments = arguments or {}
    channels, shape = arguments.get("in_channels", channels), shape[: arguments.get("spatial_dims")]
    names = AXIS_NAMES.get(len(shape))
    if names is None:
        raise InputError(f"metadata.json: expected one to three spatial axes, found {shape}")
    own_sizes = tuple(getattr(network, "roi_size", ()))
    if len(own_sizes) == len(shape):
        shape = [own if isinstance(text, int) else text for own, text in zip(own_sizes, shape)]
    own_multiple = getattr(network, "size_multiple", 0)
    axes = [_axis(name, text, own_multiple) for name, text in zip(names, shape)]
    if size:
        axes = _with_size(axes, size)
    value_range = tuple(float(value) for value in image.get("value_range", ()))
    return InputFormat(channels, tuple(axes), value_range)


def real_images(parser: ConfigParser, limit: int) -> list[Tensor]:
    """What the network gets when the bundle segments an image: its patches or slices, preprocessed.

    The bundle's own inferer cuts them, with a network in place of the real one that only looks on.

    Args:
        parser: inference configuration, ``dataset_dir`` set to the image. Its network is not built.
        limit: at most so many calls of the network are kept, evenly spread.

    Returns:
        float32 (B, channels, ...) for each of these calls.
    """
    item = parser.get_parsed_content("dataset")[0]
    recorder = _Recorder(limit)
    with torch.inference_mode():
        parser.get_parsed_content("inferer")(item["image"][None], recorder)
    return [torch.as_tensor(image).clone() for image in recorder.images]


class _Recorder(torch.nn.Module):
    """Stands in for a network; keeps every n-th input, n doubling whenever too many have come together."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.images: list[Tensor] = []
        self.calls = 0
        self.every = 1

    def forward(self, image: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Zeros (B, 2, ...) for an image (B, channels, ...); nobody looks at them."""
        plain = image.as_tensor() if hasattr(image, "as_tensor") else image
        if self.calls % self.every == 0:
            if len(self.images) == self.limit:
                self.images = self.images[::2]
                self.every *= 2
            if self.calls % self.every == 0:
                self.images.append(plain.detach().clone())
        self.calls += 1
        return plain.new_zeros(plain.shape[0], 2, *plain.shape[2:])


def _axis(name: str, text: Any, own_multiple: int) -> Axis:
    if isinstance(text, int):
        return Axis(name, text)
    if text == FREE:
        multiple, least = (own_multiple, 1) if own_multiple else (FREE_MULTIPLE, 2)
    elif isinstance(text, str) and _PATTERN.fullmatch(text):
        # Only digits, blanks, asterisks and these two names can get here.
        multiple, least = int(eval(text, {"__builtins__": {}}, {"n": 1, "p": 5})), 1  # noqa: S307
    else:
        raise InputError(f"metadata.json: spatial_shape: expected a number, '*' or '16 * n', found {text!r}")
    if own_multiple:
        multiple = math.lcm(multiple, own_multiple)
    factor = max(least, -(-EXAMPLE_SIZE // multiple))
    return Axis(name, factor * multiple, multiple, least)


def _with_size(axes: Sequence[Axis], size: Sequence[int]) -> list[Axis]:
    allowed = [f"multiples of {axis.multiple}" if axis.multiple else str(axis.size) for axis in axes]
    fits = len(size) == len(axes) and all(
        wanted == axis.size or (axis.multiple and wanted >= axis.least * axis.multiple)
        for wanted, axis in zip(size, axes)
    )
    if not fits or any(axis.multiple and wanted % axis.multiple for wanted, axis in zip(size, axes)):
        raise InputError(f"size: expected {' x '.join(allowed)}, found {' x '.join(map(str, size))}")
    return [Axis(axis.name, wanted, axis.multiple, axis.least) for wanted, axis in zip(size, axes)]
