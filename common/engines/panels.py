"""Slices of a case as panels of a figure: gray or color image, and class masks laid over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from monai.data import MetaTensor
from monai.transforms import Orientation, ResampleToMatch, Resize, SpatialCrop
from monai.utils import convert_to_numpy

OPACITY = 0.5


class Views(NamedTuple):
    """One row of panels.

    Attributes:
        image: float (H, W) or (H, W, 3) between 0 and 1, rows from top to bottom as drawn.
        masks: title -> class indices uint8 (H, W).
        aspect: height of a pixel divided by its width.
    """

    image: np.ndarray
    masks: dict[str, np.ndarray]
    aspect: float


def planar_views(
    image: torch.Tensor, prediction: torch.Tensor, reference: torch.Tensor | None
) -> list[Views]:
    """The single row of a flat image.

    Args:
        image: float (C, W, H) as MONAI reads pictures; three channels are red, green, blue, of others the
            first is shown. Resized to the grid of ``prediction`` if that is another one.
        prediction: class indices (1, W, H).
        reference: like ``prediction``; None if there is none.
    """
    image = image.detach().cpu().float()
    if image.shape[1:] != prediction.shape[1:]:
        image = Resize(prediction.shape[1:], mode="bilinear")(image)
    pixels = _stretched(convert_to_numpy(image).T if image.shape[0] == 3 else convert_to_numpy(image)[0].T)
    masks = {title: convert_to_numpy(mask)[0].T for title, mask in _titled(reference, prediction).items()}
    return [Views(pixels, masks, aspect=1.0)]


def volume_views(
    image: torch.Tensor, prediction: torch.Tensor, reference: torch.Tensor | None
) -> list[Views]:
    """Sagittal, coronal and axial slice as radiologists see them: upright, the patient's right on the left.

    Args:
        image: float (C, ...) on any grid; its first channel is interpolated on the grid of ``prediction``.
        prediction: class indices (1, ...), with the affine of its grid.
        reference: like ``prediction``, on the same grid; None if there is none.
    """
    radiological = Orientation(axcodes="LAS", labels=None)
    masks = {title: radiological(MetaTensor(mask)) for title, mask in _titled(reference, prediction).items()}
    image = MetaTensor(image.detach().cpu()[:1].float())
    first = next(iter(masks.values()))
    shown = next((mask for mask in masks.values() if mask.any()), first)
    center = _center(shown)
    match = ResampleToMatch(mode="bilinear", padding_mode="border", dtype=torch.float32)
    views = []
    for axis, index in enumerate(center):
        box = [slice(index, index + 1) if a == axis else slice(0, n) for a, n in enumerate(first.shape[1:])]
        crop = SpatialCrop(roi_slices=box)
        slabs = {title: crop(mask) for title, mask in masks.items()}
        pixels = _upright(match(image, crop(first)), axis)
        width, height = (size for a, size in enumerate(first.pixdim.tolist()) if a != axis)
        planes = {title: _upright(slab, axis) for title, slab in slabs.items()}
        views.append(Views(_stretched(pixels), planes, aspect=height / width))
    return views


def draw(rows: Sequence[Views], class_names: Sequence[str] | None = None) -> Figure:
    """Figure with one row of panels per view and a legend of the classes.

    Args:
        rows: views with the same titles.
        class_names: foreground classes in their order; by default the classes that occur, by number.
    """
    if class_names is None:
        highest = max(int(mask.max()) for view in rows for mask in view.masks.values())
        class_names = [f"class {index}" for index in range(1, highest + 1)]
    colors = _colors(len(class_names))
    num_columns = 1 + len(rows[0].masks)
    figure = Figure(figsize=(3.2 * num_columns, 3.4 * len(rows) + 0.5), dpi=110, layout="constrained")
    axes = figure.subplots(len(rows), num_columns, squeeze=False)
    for line, view in zip(axes, rows):
        _show(line[0], view.image, view.aspect, "image")
        for panel, (title, mask) in zip(line[1:], view.masks.items()):
            _show(panel, _overlay(view.image, mask, colors), view.aspect, title)
    handles = [Patch(color=color, label=name) for color, name in zip(colors, class_names)]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7), frameon=False)
    return figure


def _titled(reference: torch.Tensor | None, prediction: torch.Tensor) -> dict[str, torch.Tensor]:
    return (
        {"prediction": prediction}
        if reference is None
        else {"reference": reference, "prediction": prediction}
    )


def _center(mask: torch.Tensor) -> list[int]:
    """Voxel nearest to the center of mass of the foreground; middle of the volume if there is none."""
    foreground = np.argwhere(convert_to_numpy(mask)[0] > 0)
    if not len(foreground):
        return [size // 2 for size in mask.shape[1:]]
    return np.rint(foreground.mean(axis=0)).astype(int).tolist()


def _upright(slab: torch.Tensor, axis: int) -> np.ndarray:
    """Plane of a slab (1, x, y, z) that is thin along ``axis``: its later axis up, the other right."""
    return np.flipud(convert_to_numpy(slab)[0].squeeze(axis).T)


def _stretched(pixels: np.ndarray) -> np.ndarray:
    """Gray values or colors stretched to 0 .. 1; outliers (metal, noise) are clipped."""
    low, high = np.percentile(pixels, (0.5, 99.5))
    return np.clip((pixels - low) / max(high - low, 1e-6), 0.0, 1.0)


def _colors(num_classes: int) -> list[tuple[float, ...]]:
    """Fixed color of each foreground class; ten are easy to tell apart, more need the larger table."""
    table = colormaps["tab10" if num_classes <= 10 else "tab20"]
    return [table(index % table.N)[:3] for index in range(num_classes)]


def _overlay(image: np.ndarray, mask: np.ndarray, colors: Sequence[tuple[float, ...]]) -> np.ndarray:
    rgb = np.array(image if image.ndim == 3 else np.stack([image] * 3, axis=-1), dtype=np.float64)
    for index, color in enumerate(colors, start=1):
        inside = mask == index
        rgb[inside] = (1 - OPACITY) * rgb[inside] + OPACITY * np.asarray(color)
    return rgb


def _show(panel: Axes, pixels: np.ndarray, aspect: float, title: str) -> None:
    panel.imshow(pixels, cmap="gray", vmin=0.0, vmax=1.0, aspect=aspect, interpolation="nearest")
    panel.set_title(title)
    panel.set_axis_off()
