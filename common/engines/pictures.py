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
from common.errors import InputError

Codes = Sequence[int | Sequence[int]] | Mapping[int, int]


class CasePictures:
    """Write ``<case name>.png`` for the first cases of a run: image, reference (if any) and prediction.

    A volume is shown in three orthogonal slices through the center of mass of the reference, or of the
    prediction where there is no reference, on the grid of the prediction; a flat image in one row. MONAI
    decollates and postprocesses before ``ITERATION_COMPLETED``, so that the output is final here.

    Args:
        output_dir: folder of the pictures.
        max_cases: number of cases to draw; 0 for none. Only the first process draws.
        class_names: foreground classes in their order, for the legend.
        codes: what the values mean in a label map of the prediction that no longer holds class indices:
            ``value -> class``, or for each foreground class its value or values, as given to
            ``RestoreLabelCodesd``; of several values per class the first.
        prediction_key: entry of the output with the predicted mask, one-hot or label map.
        reference_key: entry with the reference, which may be absent.

    Raises:
        InputError: while running, an output without prediction, or a prediction that is no mask.
    """

    def __init__(
        self,
        output_dir: PathLike,
        max_cases: int = 8,
        class_names: Sequence[str] | None = None,
        codes: Codes | None = None,
        prediction_key: str = "pred",
        reference_key: str = "label",
    ) -> None:
        self.output_dir = Path(output_dir)
        self.max_cases = max_cases
        self.class_names = class_names
        self.codes = codes
        self.keys = prediction_key, reference_key
        self._written: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose decollated output holds ``image`` and the masks."""
        engine.add_event_handler(Events.STARTED, lambda _: self._written.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw_cases)

    def _draw_cases(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        for case in engine.state.output[: self.max_cases - len(self._written)]:
            name = self._unused_name(case["image"])
            prediction, reference = case_masks(case, *self.keys, self.codes)
            save_picture(
                mask_views(case["image"], prediction, reference),
                self.class_names,
                self.output_dir / f"{name}.png",
            )
            self._written.append(name)

    def _unused_name(self, image: torch.Tensor) -> str:
        """Name of the case; numbered where another folder holds a file of the same name."""
        name = case_name(image, len(self._written) + 1)
        return f"{name}_{len(self._written) + 1}" if name in self._written else name


def case_masks(
    case: Mapping[str, torch.Tensor], prediction_key: str, reference_key: str, codes: Codes | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Predicted and reference class indices of a decollated output; see :func:`label_map`.

    Args:
        case: decollated and postprocessed output of one case.
        prediction_key: entry with the predicted mask.
        reference_key: entry with the reference.
        codes: of the prediction; the reference holds class indices.

    Returns:
        Two masks, uint8 (1, [D,] H, W); None as second where there is no reference.

    Raises:
        InputError: there is no prediction, or a mask holds values between class indices.
    """
    prediction = _class_indices(case, prediction_key, codes)
    if prediction is None:
        raise absent_entry("prediction_key", prediction_key, case)
    return prediction, _class_indices(case, reference_key, None)


def absent_entry(argument: str, key: str, case: Mapping[str, torch.Tensor]) -> InputError:
    """The error for a mask that an argument names and the output does not hold."""
    found = ", ".join(name for name, value in case.items() if value is not None)
    return InputError(f"{argument}: expected an entry of the output ({found}), found {key!r}")


def case_name(image: torch.Tensor, number: int) -> str:
    """Name of the file or folder an image was read from; ``case_<number>`` if it was made in memory."""
    source = getattr(image, "meta", {}).get("filename_or_obj")
    return image_id(source) if source else f"case_{number}"


def mask_views(image: torch.Tensor, prediction: torch.Tensor, reference: torch.Tensor | None) -> list[Views]:
    """Rows of panels of a volume (1, D, H, W) or a flat image (1, H, W) with its class indices."""
    cut = volume_views if prediction.ndim == 4 else planar_views
    return cut(image, prediction, reference)


def save_picture(rows: Sequence[Views], class_names: Sequence[str] | None, path: Path) -> None:
    """Draw views, with the foreground classes in the legend, and write them to a file."""
    figure = draw(rows, class_names)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def label_map(mask: torch.Tensor, codes: Codes | None = None) -> torch.Tensor:
    """Class indices of a one-hot mask, or of a label map with codes.

    Args:
        mask: one-hot (K, [D,] H, W), or label map (1, [D,] H, W).
        codes: value in a label map -> class, several of which may mean the same; or for class 1, 2, ... its
            value or list of values, of which the first counts. Values without class are background.

    Returns:
        uint8 (1, [D,] H, W).

    Raises:
        ValueError: a label map with values between whole numbers, as a map of probabilities has.
    """
    mask = mask.detach().cpu()
    if mask.shape[0] > 1:
        return mask.argmax(dim=0, keepdim=True).to(torch.uint8)
    if mask.is_floating_point() and not torch.equal(mask, mask.round()):
        raise ValueError("expected class indices or a one-hot mask, found values between whole numbers")
    if codes is None:
        return mask.to(torch.uint8)
    classes = torch.zeros_like(mask, dtype=torch.uint8)
    for code, index in _class_of_code(codes).items():
        classes[mask == code] = index
    return classes


def _class_of_code(codes: Codes) -> dict[int, int]:
    if isinstance(codes, Mapping):
        return {int(code): int(index) for code, index in codes.items()}
    values = [code if isinstance(code, int) else code[0] for code in codes]
    return {value: index for index, value in enumerate(values, start=1)}


def _class_indices(case: Mapping[str, torch.Tensor], key: str, codes: Codes | None) -> torch.Tensor | None:
    if case.get(key) is None:
        return None
    try:
        return label_map(case[key], codes)
    except ValueError as error:
        raise InputError(f"{key}: {error}") from error
