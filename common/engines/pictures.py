"""Evaluator handler that draws cases for the eye: image, reference and prediction side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.config import PathLike

from common.data.image_files import image_id
from common.data.writers import atomic_path
from common.engines.panels import Views, draw, planar_views, volume_views


class CasePictures:
    """Write ``<case name>.png`` for the first cases of a run: image, reference (if any) and prediction.

    A volume is shown in three orthogonal slices through the center of mass of the reference, or of the
    prediction where there is no reference, on the grid of the prediction; a flat image in one row. MONAI
    decollates and postprocesses before ``ITERATION_COMPLETED``, so that the output is final here.

    Args:
        output_dir: folder of the pictures.
        max_cases: number of cases to draw; 0 for none. Only the first process draws.
        class_names: foreground classes in their order, for the legend.
        codes: value of each foreground class in a label map ``pred`` that no longer holds class indices, as
            given to ``RestoreLabelCodesd``; of several values per class the first.
    """

    def __init__(
        self,
        output_dir: PathLike,
        max_cases: int = 8,
        class_names: Sequence[str] | None = None,
        codes: Sequence[int | Sequence[int]] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.max_cases = max_cases
        self.class_names = class_names
        self.codes = codes
        self._written: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose decollated output holds ``image``, ``pred``, maybe ``label``."""
        engine.add_event_handler(Events.STARTED, lambda _: self._written.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw_cases)

    def _draw_cases(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        for case in engine.state.output[: self.max_cases - len(self._written)]:
            name = self._unused_name(case["image"])
            figure = draw(self._views(case), self.class_names)
            with atomic_path(self.output_dir / f"{name}.png") as path:
                figure.savefig(path)
            self._written.append(name)

    def _views(self, case: Mapping[str, torch.Tensor]) -> list[Views]:
        prediction = label_map(case["pred"], self.codes)
        reference = None if case.get("label") is None else label_map(case["label"])
        cut = volume_views if prediction.ndim == 4 else planar_views
        return cut(case["image"], prediction, reference)

    def _unused_name(self, image: torch.Tensor) -> str:
        """Name of the source file or folder; numbered where another folder holds a file of the same name."""
        source = getattr(image, "meta", {}).get("filename_or_obj")
        name = image_id(source) if source else f"case_{len(self._written) + 1}"
        return f"{name}_{len(self._written) + 1}" if name in self._written else name


def label_map(mask: torch.Tensor, codes: Sequence[int | Sequence[int]] | None = None) -> torch.Tensor:
    """Class indices uint8 (1, [D,] H, W) of a one-hot mask (K, ...) or of a label map (1, ...) with codes."""
    mask = mask.detach().cpu()
    if mask.shape[0] > 1:
        return mask.argmax(dim=0, keepdim=True).to(torch.uint8)
    if codes is None:
        return mask.to(torch.uint8)
    classes = torch.zeros_like(mask, dtype=torch.uint8)
    for index, code in enumerate(codes, start=1):
        classes[mask == (code if isinstance(code, int) else code[0])] = index
    return classes
