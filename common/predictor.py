"""Segment an image that is already in memory with a bundle's own inference configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, SaveImaged

from common.bundle_config import inference_config
from common.engines.weights import load_weights
from common.errors import InputError
from common.transforms.save_dicom_seg import SaveDicomSegd


class Predictor:
    """A bundle's network, transforms and inferer, called with an array instead of a file.

    Args:
        parser: the merged inference configuration.
    """

    def __init__(self, parser: ConfigParser) -> None:
        self.spatial_dims: int = parser.get_parsed_content("spatial_dims")
        self.device = parser.get_parsed_content("device")
        self.network: torch.nn.Module = parser.get_parsed_content("network").eval()
        load_weights(self.network, parser.get_parsed_content("checkpoint"), self.device)
        if hasattr(self.network, "fuse"):
            self.network.fuse()
        self.inferer: Callable = parser.get_parsed_content("inferer")
        self.preprocessing = _without(parser.get_parsed_content("preprocessing"), LoadImaged)
        self.postprocessing = _without(parser.get_parsed_content("postprocessing"), SaveImaged, SaveDicomSegd)

    def __call__(self, image: np.ndarray | torch.Tensor, affine: np.ndarray | None = None) -> np.ndarray:
        """Labels of an image on its own grid.

        Args:
            image: real numbers, (H, W) or (D, H, W), axes as in a NIfTI file, or with a leading
                channel axis (C, ...); in the units of the training data (Hounsfield units for CT).
            affine: (4, 4), voxel to patient space in mm, RAS+ as in NIfTI. Identity (1 mm, RAS) if absent.

        Returns:
            Class indices, of the spatial shape of ``image``; the data set's codes if ``output_codes`` is set.

        Raises:
            InputError: the array has another number of axes or channels than the bundle expects, or NaN.
        """
        array = torch.as_tensor(np.asarray(image, dtype=np.float32))
        if array.ndim == self.spatial_dims:
            array = array[None]
        if array.ndim != self.spatial_dims + 1:
            expected = f"{self.spatial_dims} spatial axes and optionally a leading channel axis"
            raise InputError(f"array in memory: expected {expected}, found shape {tuple(np.shape(image))}")
        meta = {"filename_or_obj": "array in memory", "spatial_shape": np.array(array.shape[1:])}
        tensor = MetaTensor(
            array, affine=torch.eye(4) if affine is None else torch.as_tensor(affine), meta=meta
        )
        item = self.preprocessing({"image": tensor})
        with torch.inference_mode():
            logits = self.inferer(item["image"][None].to(self.device), self.network)
        item["pred"] = MetaTensor(logits[0], meta=item["image"].meta)
        labels = self.postprocessing(item)["pred"][0]
        return np.asarray(labels.cpu()).astype(np.int16 if labels.max() > 255 else np.uint8)


def load_predictor(
    bundle_dir: str | Path, overlays: Sequence[str | Path] = (), **overrides: Any
) -> Predictor:
    """Load a bundle once, then segment as many arrays as wanted.

    ::

        from common.predictor import load_predictor
        import nibabel as nib
        segment = load_predictor("bundles/kcbac_mmwhs")
        scan = nib.load("scan.nii.gz")
        labels = segment(scan.get_fdata(), scan.affine)

    Args:
        bundle_dir: the bundle's folder, with ``configs/inference.json`` and the weights.
        overlays: config files merged after ``inference.json``: paths, or names of files in ``configs``.
        overrides: knobs, such as ``checkpoint="model.pt"`` or ``device="cpu"``.

    Raises:
        InputError: a config file or the weights are missing or do not fit.
    """
    return Predictor(inference_config(bundle_dir, overlays, **overrides))


def _without(transforms: Compose, *unwanted: type) -> Compose:
    return Compose([transform for transform in transforms.transforms if not isinstance(transform, unwanted)])
