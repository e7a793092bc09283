"""Labels of volumes of any length, reduced from overlapping windows while these are still being computed.

Axes: B batch, C channel, K class, D H W space; the same with two axes of space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from monai.config import PathLike
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map
from monai.inferers import Inferer, SlidingWindowInferer, SlidingWindowInfererAdapt
from monai.utils import (
    BlendMode,
    convert_to_dst_type,
    convert_to_tensor,
    ensure_tuple,
    ensure_tuple_rep,
    fall_back_tuple,
)
from torch import Tensor
from tqdm import tqdm

from common.data.image_files import image_id
from common.data.writers import atomic_path
from common.engines.label_blocks import ACTIVATIONS, BlockReduction, ProbabilityFile, activate, label_dtype
from common.engines.label_slabs import Index, RollingSums, Slices, WindowGrid
from common.errors import InputError

Predictor = Callable[[Tensor], Tensor]
Block = tuple[Slices, Tensor, "Tensor | None"]


class LabelInferer(Inferer):
    """What ``SlidingWindowInferer`` and an argmax or a threshold after it give, in much less memory.

    A voxel is reduced to its label as soon as no later window reaches it. So sums over windows are held for
    the stretch of the volume that windows still change, not for the whole volume with all classes; the
    transforms that follow get labels. Labels differ from those of MONAI's inferer and an argmax only where
    two averages are equal but for rounding: windows may be added in another order, without a threshold sums
    are compared instead of averages, and sums are float32 where image or logits are in half precision.

    Args:
        windows: MONAI's inferer with the settings of the windows (size, overlap, blending, padding, number at
            a time, devices, progress bar). ``sw_device`` holds the sums, ``device`` the labels. Its own means
            against large outputs (``buffer_steps``, ``cpu_thresh``) are not needed and not used.
        activation: ``softmax`` or ``sigmoid``, to average probabilities of windows; None to average logits.
        threshold: None for the class with the largest average, or a number: label 1, for each channel alone,
            where the average is at least that. Averages of logits are logits, 0 being probability 0.5.
        skip_below: windows in which no value of the image exceeds this are not computed, except the first
            one; windows that overlap with them decide alone, and voxels in no other window are background.
            None to compute all.
        probabilities_dir: folder for ``<case>_probabilities.npy``, float16 (K, D, H, W) on the grid of the
            network, written block by block; averages of logits pass a softmax, or, with a threshold, a
            sigmoid. None to write none.
        axis: of space, along which the volume is worked off; None for the one that takes the least memory,
            which is the longest one as a rule.

    Raises:
        InputError: another kind of inferer, windows with coordinates, or an unknown activation.
    """

    def __init__(
        self,
        windows: SlidingWindowInferer,
        activation: str | None = None,
        threshold: float | None = None,
        skip_below: float | None = None,
        probabilities_dir: PathLike | None = None,
        axis: int | None = None,
    ) -> None:
        if type(windows) not in (SlidingWindowInferer, SlidingWindowInfererAdapt):
            raise InputError(f"windows: expected a SlidingWindowInferer, found {type(windows).__name__}")
        if windows.with_coord:
            raise InputError("windows: expected with_coord=False, found True")
        if activation not in (None, *ACTIVATIONS):
            raise InputError(f"activation: expected {' or '.join(ACTIVATIONS)} or None, found {activation!r}")
        self.windows = windows
        self.activation = activation
        self.reduction = BlockReduction(activation, threshold)
        self.skip_below = skip_below
        self.probabilities_dir = None if probabilities_dir is None else Path(probabilities_dir)
        self.axis = axis
        self._sources: dict[Path, str] = {}

    @property
    def probability_files(self) -> list[Path]:
        """Files of probabilities that were written so far."""
        return list(self._sources)

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Labels of images.

        Args:
            inputs: (B, C, D, H, W) or (B, C, H, W).
            network: from windows (N, C, ...) to logits (N, K, ...) of the same size.
            *args: passed to ``network``.
            **kwargs: passed to ``network``.

        Returns:
            (B, 1, ...), or (B, K, ...) with a threshold; uint8, above 256 classes int16. On the ``device`` of
            the windows, or else of ``inputs``; a ``MetaTensor`` with the metadata of ``inputs`` if that is
            one.

        Raises:
            InputError: ``roi_size``, ``overlap`` or ``axis`` do not fit the image, a network of one class
                without a threshold, or probabilities cannot be written.
            ValueError: another shape of the logits.
        """
        grid = self._grid(inputs.shape[2:])
        images = convert_to_tensor(inputs, track_meta=False)
        labels = torch.empty(0)
        total = len(images) * len(grid)
        with tqdm(total=total, desc="windows", unit="window", disable=not self.windows.progress) as bar:
            for number, image in enumerate(images):
                outputs = self._outputs(image, grid, lambda batch: network(batch, *args, **kwargs), bar)
                with self._probability_file(inputs, number) as file:
                    for place, sums, weights in self._blocks(image, grid, outputs):
                        if not len(labels):
                            labels = self._empty(images, len(sums))
                        labels[(number, slice(None), *place)] = self._reduced(place, sums, weights, file)
        if isinstance(inputs, MetaTensor):
            return convert_to_dst_type(labels, inputs, dtype=labels.dtype, device=labels.device)[0]
        return labels

    def _grid(self, image_size: torch.Size) -> WindowGrid:
        num_axes, windows = len(image_size), self.windows
        for name in ("roi_size", "overlap"):
            values = ensure_tuple(getattr(windows, name))
            if len(values) not in (1, num_axes):
                raise InputError(f"{name}: expected {num_axes} values for {num_axes} axes, found {values}")
        overlap = ensure_tuple_rep(windows.overlap, num_axes)
        if not all(0 <= share < 1 for share in overlap):
            raise InputError(f"overlap: expected at least 0 and below 1, found {windows.overlap}")
        if self.axis is not None and not -num_axes <= self.axis < num_axes:
            raise InputError(f"axis: expected 0 to {num_axes - 1}, found {self.axis}")
        roi_size = fall_back_tuple(windows.roi_size, image_size)
        return WindowGrid(image_size, roi_size, overlap, self.axis)

    def _empty(self, images: Tensor, num_classes: int) -> Tensor:
        threshold = self.reduction.threshold
        if threshold is None and num_classes == 1:
            raise InputError("threshold: expected a number for a network with one output channel, found None")
        channels, dtype = (1, label_dtype(num_classes)) if threshold is None else (num_classes, torch.uint8)
        device = self.windows.device or images.device
        return torch.empty(len(images), channels, *images.shape[2:], dtype=dtype, device=device)

    def _outputs(
        self, image: Tensor, grid: WindowGrid, network: Predictor, bar: tqdm
    ) -> Iterator[tuple[Index, Tensor | None]]:
        """Each window with its output (K, ...), or None if it was skipped."""
        for indices, batch in self._batches(image, grid):
            found = list(self._predicted(network, batch)) if batch else []
            for index, is_computed in indices:
                # Taken out, so that nothing holds it while the network works on the next windows.
                yield index, found.pop(0) if is_computed else None
            bar.update(len(indices))

    def _batches(
        self, image: Tensor, grid: WindowGrid
    ) -> Iterator[tuple[list[tuple[Index, bool]], list[Tensor]]]:
        """Windows in their order, each with whether it is computed, and the contents of those that are."""
        indices: list[tuple[Index, bool]] = []
        batch: list[Tensor] = []
        for number, index in enumerate(grid):
            window = self._window(image, grid, index)
            # The first one tells the number of classes. Written so that a window with NaN is computed.
            is_empty = self.skip_below is not None and number > 0 and bool(window.amax() <= self.skip_below)
            indices.append((index, not is_empty))
            batch += [] if is_empty else [window]
            if len(batch) == self.windows.sw_batch_size:
                yield indices, batch
                indices, batch = [], []
        if indices:
            yield indices, batch

    def _window(self, image: Tensor, grid: WindowGrid, index: Index) -> Tensor:
        """(1, C, ...), padded where the image is smaller, so that no padded copy of the image is needed."""
        place = grid.window(index)
        is_padded = [any(margins) for margins in grid.padding]
        inside = [slice(None) if padded else part for padded, part in zip(is_padded, place)]
        window = image[(slice(None), *inside)][None]
        if not any(is_padded):
            return window
        margins = [margin for before_after in reversed(grid.padding) for margin in before_after]
        return F.pad(window, margins, mode=str(self.windows.padding_mode), value=self.windows.cval)

    def _predicted(self, network: Predictor, contents: list[Tensor]) -> Tensor:
        batch = contents[0] if len(contents) == 1 else torch.cat(contents)
        batch = batch.to(self.windows.sw_device or batch.device)
        output = network(batch)
        if not isinstance(output, Tensor):
            raise ValueError(f"network: expected one tensor, got {type(output).__name__}")
        if output.ndim != batch.ndim or (len(output), *output.shape[2:]) != (len(batch), *batch.shape[2:]):
            raise ValueError(
                f"network: expected logits ({len(batch)}, K, {', '.join(map(str, batch.shape[2:]))}), "
                f"got {tuple(output.shape)}"
            )
        return activate(output, self.activation, dim=1)

    def _blocks(
        self, image: Tensor, grid: WindowGrid, outputs: Iterator[tuple[Index, Tensor | None]]
    ) -> Iterator[Block]:
        """Place in the image, sums and sums of weights of all blocks, each as soon as it is finished."""
        sums = None
        num_classes = 0
        for index, values in outputs:
            if values is not None:
                if sums is None:
                    sums, num_classes = self._rolling_sums(image, grid, values), len(values)
                sums.add(index, values)
            del values
            for place, total, weights in sums.finish(index, num_classes):
                inside, part = _without_padding(place, grid, image.shape[1:])
                yield inside, total[(slice(None), *part)], None if weights is None else weights[part]

    def _rolling_sums(self, image: Tensor, grid: WindowGrid, values: Tensor) -> RollingSums:
        dtype = torch.promote_types(image.dtype, torch.float32)
        weights = self._importance(grid.roi_size, dtype, values.device)
        needs_weights = self.reduction.threshold is not None or self.probabilities_dir is not None
        return RollingSums(grid, weights, needs_weights, dtype, values.device)

    def _importance(self, roi_size: Index, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        windows = self.windows
        if windows.roi_weight_map is not None and tuple(windows.roi_weight_map.shape) == roi_size:
            return windows.roi_weight_map.to(device, dtype)
        if windows.mode == BlendMode.CONSTANT:
            return None
        return compute_importance_map(roi_size, windows.mode, windows.sigma_scale, device, dtype)

    def _reduced(
        self, place: Slices, sums: Tensor, weights: Tensor | None, file: ProbabilityFile | None
    ) -> Tensor:
        if weights is None:
            return self.reduction.labels(sums, None)
        averages, seen = self.reduction.averages(sums, weights), weights > 0
        if file is not None:
            file.write(place, self.reduction.probabilities(averages, seen))
        return self.reduction.labels(averages, seen)

    @contextmanager
    def _probability_file(self, inputs: Tensor, number: int) -> Iterator[ProbabilityFile | None]:
        """File of one image, which appears under its name once it is complete."""
        if self.probabilities_dir is None:
            yield None
            return
        source = getattr(inputs, "meta", {}).get("filename_or_obj")
        source = source[number] if isinstance(source, (list, tuple)) else source
        source = source or f"case_{len(self._sources) + 1}"
        name = image_id(source)
        # Another folder may hold a file of the same name; a case that is computed again replaces its file.
        stems = chain([name], (f"{name}_{repeat}" for repeat in count(2)))
        paths = (self.probabilities_dir / f"{stem}_probabilities.npy" for stem in stems)
        path = next(path for path in paths if self._sources.get(path, source) == source)
        with atomic_path(path) as temporary:
            yield ProbabilityFile(temporary, inputs.shape[2:])
        self._sources[path] = source


def _without_padding(place: Slices, grid: WindowGrid, image_size: torch.Size) -> tuple[Slices, Slices]:
    """Place of a block in the image, and the part of the block that lies in the image."""
    inside, part = [], []
    for edges, (before, _), size in zip(place, grid.padding, image_size):
        start, stop = max(edges.start - before, 0), min(edges.stop - before, size)
        inside.append(slice(start, stop))
        part.append(slice(start + before - edges.start, stop + before - edges.start))
    return tuple(inside), tuple(part)
