"""How frequent each class is in the labeled scans, for losses that balance classes.

Paper: Zhang et al., "A Semantic Knowledge Complementarity based Decoupling Framework for Semi-supervised
Class-imbalanced Medical Image Segmentation" (SKCDF), CVPR 2025.
Implements: class frequencies counted once before training, over whole scans as preprocessed, uncropped.
Differs from the paper: all labeled scans are counted, where the released code counts the first four
(``first_n=4``); a class without voxels is refused or warned of, where the released code ends with an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch
from monai.data import Dataset
from monai.transforms import Transform
from monai.transforms.traits import RandomizableTrait
from monai.utils import convert_to_tensor
from torch import Tensor

from common.data.image_files import joined
from common.errors import InputError
from common.losses.balanced import class_counts, class_ratios

logger = logging.getLogger(__name__)


def labeled_class_ratios(
    dataset: Dataset,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    first_n: int | None = None,
    allow_missing: bool = False,
    label_key: str = "label",
) -> Tensor:
    """Size of the rarest class relative to each class, over the labeled scans of a training.

    Args:
        dataset: the labeled one; of its transforms those before the first random one are applied. What a
            ``CacheDataset`` holds is not computed again. Its data have ``id``.
        num_classes: K, background included.
        class_names: of the foreground classes, for messages.
        first_n: count the first scans by id only, so many that they are counted again from the first if there
            are fewer; None counts every scan once.
        allow_missing: go on, with a warning, if no labeled scan shows a class; its ratio is 1.
        label_key: entry of the items with class indices.

    Returns:
        float64 (K,) in (0, 1], see :func:`common.losses.balanced.class_ratios`. A class that only scans
        beyond ``first_n`` show has the ratio 1, with a warning.

    Raises:
        InputError: no labeled scan shows a class and ``allow_missing`` is not set, ``first_n`` is below 1, or
            a label outside 0 ... K - 1.

    Source: Zhang 2025, released code.
    """
    if first_n is not None and first_n < 1:
        raise InputError(f"first_n: expected at least 1 scan to count, found {first_n}")
    counts = torch.stack([class_counts([label], num_classes) for label in _labels(dataset, label_key)])
    absent = _named(counts.sum(dim=0) == 0, class_names)
    if absent and not allow_missing:
        raise InputError(
            f"labeled: expected every class in {len(counts)} scan(s), found none of class {joined(absent)}; "
            "label more scans, or allow missing classes"
        )
    if absent:
        logger.warning("no labeled scan shows class %s; such a class is never thinned out", joined(absent))
    rows = range(len(counts) if first_n is None else first_n)
    counted = counts[[row % len(counts) for row in rows]].sum(dim=0)
    uncounted = [name for name in _named(counted == 0, class_names) if name not in absent]
    if uncounted:
        logger.warning(
            "the first %d labeled scan(s) do not show class %s, which is taken as rarest",
            first_n,
            joined(uncounted),
        )
    return class_ratios(counted)


def _labels(dataset: Dataset, label_key: str) -> Iterator[Tensor]:
    """Label map of every item by id, after the transforms before the first random one."""
    # What MONAI's CacheDataset stops at when it fills its cache.
    first_random = dataset.transform.get_index_of_first(
        lambda transform: isinstance(transform, RandomizableTrait) or not isinstance(transform, Transform)
    )
    # Under hash keys, items of the cache are in another order than the data.
    cache = [] if getattr(dataset, "hash_as_key", False) else getattr(dataset, "_cache", [])
    for index in sorted(range(len(dataset.data)), key=lambda index: dataset.data[index]["id"]):
        cached = cache[index] if index < len(cache) else None
        item = dataset.transform(dataset.data[index], end=first_random) if cached is None else cached
        yield convert_to_tensor(item[label_key], track_meta=False)


def _named(is_chosen: Tensor, class_names: Sequence[str] | None) -> list[str]:
    """Number and name of the classes chosen."""
    names = None if class_names is None else ["background", *class_names]
    chosen = is_chosen.nonzero().flatten().tolist()
    return [f"{k} ({names[k]})" if names else str(k) for k in chosen]
