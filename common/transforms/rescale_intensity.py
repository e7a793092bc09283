"""Intensities of one volume to 0 .. 1, so that scans of different scanners and modalities share a range.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv 2020.
Implements: its rescaling of intensities to a common range.
Differs from the paper: it tells neither range nor method. The modes are our choice.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, ScaleIntensityRange
from monai.transforms.utils_pytorch_numpy_unification import percentile
from monai.utils import convert_to_dst_type, convert_to_tensor

from common.data.image_files import joined
from common.errors import InputError
from common.transforms.label_codes import source_name

_MODES = ("percentile", "window", "body_percentile", "minmax", "covid")
_WHOLE_PERCENT, _BODY_PERCENT = (0.5, 99.5), (2.0, 98.0)
# What the authors of the COVID-19 CT data set applied to ten of its scans, which hold 0 to 255 since then.
_COVID_WINDOW_HU, _COVID_GRAY = (-1250.0, 250.0), (0.0, 255.0)


class RescaleIntensityd(MapTransform):
    """Map two limits of the intensities of each volume to 0 and 1, linearly, and clip.

    The limits are, by ``mode``:

    - ``"percentile"``: the percentiles 0.5 and 99.5 of the volume; needs no modality;
    - ``"body_percentile"``: the percentiles 2 and 98 of the voxels above the mean of the volume, which leaves
      most of the air out; needs no modality;
    - ``"minmax"``: the smallest and the largest value;
    - ``"window"``: ``window`` in domains with a fixed scale (CT), as for ``"percentile"`` in all others;
    - ``"covid"``: 0 and 255 if all values are inside, else -1250 and 250 HU; ten scans of COVID-19-CT-Seg
      come with this window already applied.

    Stands before resizing: the limits are those of the voxels that were measured.

    Args:
        keys: images, any dtype, (1, spatial...).
        mode: see above.
        window: limits in HU. The default is the window that the scanner noted in a CHAOS series.
        window_domains: domains to which ``window`` applies.
        domain_key: entry with the domain of the case; read for ``"window"`` only.
        default_domain: domain of cases without that entry, such as scans to segment. It is not guessed:
            without it they are refused in the mode ``"window"``.
        allow_missing_keys: skip absent keys.

    Returns:
        On call, the data with float32 images of the same shape, 0 to 1. Where both limits are one value (a
        constant volume), voxels above it become 1 and all others 0.

    Raises:
        InputError: ``mode`` is none of those, ``window`` is not two finite numbers in ascending order; on
            call: no domain in the mode ``"window"``, or NaN or Inf voxels that spoil the limits.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mode: str = "percentile",
        window: Sequence[float] = (-150.0, 250.0),
        window_domains: Sequence[str] = ("CT",),
        domain_key: str = "domain",
        default_domain: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if mode not in _MODES:
            raise InputError(f"mode: expected one of {joined(_MODES)}, found {mode!r}")
        low, high = window if len(window) == 2 else (math.nan, math.nan)
        if not -math.inf < low < high < math.inf:
            raise InputError(f"window: expected [low, high] with low < high, found {window}")
        self.mode = mode
        self.window = (float(low), float(high))
        self.window_domains = tuple(window_domains)
        self.domain_key = domain_key
        self.default_domain = default_domain

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Rescale each image; see the class for what is raised."""
        rescaled = dict(data)
        has_window = self.mode == "window" and self._domain(rescaled) in self.window_domains
        for key in self.key_iterator(rescaled):
            image = rescaled[key]
            values = convert_to_tensor(image, dtype=torch.float32, track_meta=False)
            low, high = self.window if has_window else _limits(values, self.mode)
            if not (math.isfinite(low) and math.isfinite(high)):
                name = source_name(image, key)
                raise InputError(f"{name}: expected finite voxels, found the limits {low} and {high}")
            rescaled[key] = _between(image, low, high)
        return rescaled

    def _domain(self, data: Mapping[Hashable, Any]) -> str:
        domain = data.get(self.domain_key, self.default_domain)
        if domain is None:
            raise InputError(
                f"{data.get('id', 'case')}: the intensity window depends on the modality; expected "
                f"{self.domain_key} in the case or a default_domain ({joined(self.window_domains)} for the "
                "window, any other for percentiles), found neither"
            )
        return domain


def _limits(values: torch.Tensor, mode: str) -> tuple[float, float]:
    """Intensities that become 0 and 1."""
    smallest, largest = float(values.min()), float(values.max())
    if mode == "covid":
        is_gray = _COVID_GRAY[0] <= smallest and largest <= _COVID_GRAY[1]
        return _COVID_GRAY if is_gray else _COVID_WINDOW_HU
    percents = _WHOLE_PERCENT
    if mode == "body_percentile":
        body = values[values > values.mean(dtype=torch.float64)]
        values, percents = (body, _BODY_PERCENT) if body.numel() else (values, percents)
    if mode == "minmax" or not math.isfinite(smallest + largest):
        return smallest, largest
    low, high = percentile(values, list(percents)).tolist()
    return low, high


def _between(image: torch.Tensor, low: float, high: float) -> torch.Tensor:
    if low < high:
        return ScaleIntensityRange(a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)(image)
    is_above = convert_to_tensor(image, track_meta=False) > high
    return convert_to_dst_type(is_above, image, dtype=torch.float32)[0]
