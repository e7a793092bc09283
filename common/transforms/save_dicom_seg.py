"""Predictions of DICOM series saved as DICOM SEG objects, beside the files that ``SaveImaged`` writes."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, PathLike
from monai.data import FolderLayout, MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy

from common.data.dicom import package_of_extra
from common.data.dicom_seg import Algorithm, Segment, write_dicom_seg
from common.data.label_codes import LabelCodes, code_of_class
from common.data.segment_terms import terms_of
from common.errors import InputError
from common.transforms.label_codes import source_name

logger = logging.getLogger(__name__)

# Entry in the meta data of a prediction with the path of its SEG.
DICOM_SEG = "dicom_seg"


class SaveDicomSegd(MapTransform):
    """Save masks of DICOM series as ``<name>_<postfix>.dcm``; those of other images pass.

    Stands after ``SaveImaged``, where masks are back on the grid of their source, and names files as it does.

    Args:
        keys: masks, integers (1, X, Y, Z), with affine and source path in their meta data.
        output_dir: folder to write to.
        class_names: of the foreground classes 1, 2, ...
        bundle_root: folder of the bundle, whose name and version the files note as their algorithm.
        codes: values that stand for the classes in the masks, as for
            :class:`~common.transforms.label_codes.RestoreLabelCodesd`; None for 1, 2, ...
        output_postfix: end of the file names.
        terms: coded terms of classes that :func:`~common.data.segment_terms.terms_of` does not know.
        allow_missing_keys: skip absent keys.

    Returns:
        On call, the data; masks whose SEG was written have its path as ``dicom_seg`` in their meta data.

    Raises:
        InputError: highdicom is not installed, a class without a coded term, codes that do not fit, or a
            ``bundle_root`` without ``configs/metadata.json``; on call: see
            :func:`~common.data.dicom_seg.write_dicom_seg`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: PathLike,
        class_names: Sequence[str],
        bundle_root: PathLike,
        codes: LabelCodes | None = None,
        output_postfix: str = "seg",
        terms: Mapping[str, Mapping[str, Any]] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        package_of_extra("highdicom")  # before hours of inference, not after
        values = code_of_class(codes, len(class_names) + 1)[1:]
        segments = zip(values, class_names, terms_of(class_names, terms))
        self.segments = [Segment(value, name, term) for value, name, term in segments]
        self.algorithm = _algorithm(Path(bundle_root))
        self.layout = FolderLayout(output_dir, postfix=output_postfix, extension=".dcm")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Save each mask; see the class for what is raised."""
        saved = dict(data)
        for key in self.key_iterator(saved):
            source = source_name(saved[key], key)
            if Path(source).is_dir():
                saved[key] = self._save(saved[key], source)
            else:
                logger.debug("%s: not a DICOM series, no DICOM segmentation", source)
        return saved

    def _save(self, mask: MetaTensor, source: str) -> torch.Tensor:
        path = self.layout.filename(subject=source)
        voxels = convert_to_numpy(mask)[0].astype(np.int32, copy=False)
        affine = convert_to_numpy(mask.affine)
        if write_dicom_seg(voxels, affine, source, self.segments, self.algorithm, path):
            logger.info("wrote %s", path)
            mask = mask.clone()
            mask.meta[DICOM_SEG] = path
        return mask


def _algorithm(bundle_root: Path) -> Algorithm:
    """A bundle's folder name and version; its long name in the metadata exceeds what DICOM allows."""
    path = bundle_root.expanduser().resolve() / "configs" / "metadata.json"
    try:
        version = json.loads(path.read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: expected the metadata of the bundle with its version, which a DICOM segmentation notes "
            f"({type(error).__name__}); set bundle_root"
        ) from error
    return Algorithm(path.parents[1].name, str(version))
