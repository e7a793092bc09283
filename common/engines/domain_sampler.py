"""Batches in which every domain has its share.

Paper: Baydar et al., "Cross-Domain Segmentation with Adversarial Loss and Covariate Shift for Biomedical
Imaging", arXiv 2020.
Implements: batches of several domains, over which batch normalization takes its statistics.
Differs from the paper: it does not tell the shares. Equal ones, and patients before slices, are our choice:
CT has several times the slices of MR, so that slices drawn from one pool would be mostly CT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.utils.data import Sampler

from common.data.image_files import joined
from common.errors import InputError


class DomainBatchSampler(Sampler[list[int]]):
    """Batches of indices for ``DataLoader(batch_sampler=...)``, drawn with replacement.

    Random numbers follow from torch's global state when an iteration starts, as those of torch's own
    ``RandomSampler`` do, so that :class:`~common.engines.epoch_seed.EpochSeed` makes epochs repeatable and
    gives every process its own batches; the number of workers changes nothing.

    Args:
        domains: of every volume, in the order of the data set.
        batch_size: volumes in a batch, of which one slice each is taken.
        num_batches: batches in an epoch, for each process.
        ratio: share of each domain in a batch, as in ``{"CT": 2, "MR": 1}``; None: equal shares. For
            ``"balanced"`` only.
        sampling: ``"balanced"``: every batch has the shares of ``ratio``, and all volumes of a domain are
            equally likely; ``"pooled"``: volumes are drawn with probabilities in proportion to ``weights``,
            whatever their domain, so that with numbers of slices all slices are equally likely. A batch may
            then lack a domain.
        weights: of every volume, its number of slices (:func:`common.data.slice_stacks.slice_counts`); for
            ``"pooled"`` only.
        allow_single_domain: accept volumes of one domain, for the networks of one modality that the paper
            compares with (Table 4).

    Raises:
        InputError: no volumes, a single domain, shares for other domains or that do not divide
            ``batch_size``, or arguments that do not belong to ``sampling``.
    """

    def __init__(
        self,
        domains: Sequence[str],
        batch_size: int,
        num_batches: int,
        ratio: Mapping[str, float] | None = None,
        sampling: str = "balanced",
        weights: Sequence[float] | None = None,
        allow_single_domain: bool = False,
    ) -> None:
        names = sorted(set(domains))
        if len(names) < (1 if allow_single_domain else 2):
            raise InputError(
                f"domains: expected volumes of at least two, found {joined(names) or 'none'}; "
                "to train on a single one set allow_single_domain"
            )
        if min(batch_size, num_batches) < 1:
            raise InputError(
                f"expected batch_size and num_batches of 1 or more, found {batch_size} and {num_batches}"
            )
        if sampling not in ("balanced", "pooled"):
            raise InputError(f"sampling: expected balanced or pooled, found {sampling!r}")
        if (weights is None) != (sampling == "balanced") or (ratio is not None and sampling == "pooled"):
            raise InputError(
                "expected weights for pooled sampling and only there, and ratio for balanced only, "
                f"found sampling {sampling!r} with weights {weights} and ratio {ratio}"
            )
        self.batch_size = batch_size
        self.num_batches = num_batches
        # Pools to draw from, one after the other: (indices, their weights, how many per batch).
        if sampling == "pooled":
            self._pools = [(torch.arange(len(domains)), _checked(weights, len(domains)), batch_size)]
            return
        counts = _counts(names, batch_size, ratio)
        members = {name: [i for i, domain in enumerate(domains) if domain == name] for name in names}
        self._pools = [(torch.tensor(members[n]), torch.ones(len(members[n])), counts[n]) for n in names]

    def __iter__(self) -> Iterator[list[int]]:
        # One number from the global state and all others from a generator of its own: what dropout, or a
        # loader with more workers, draws meanwhile does not change the batches.
        generator = torch.Generator()
        generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
        for _ in range(self.num_batches):
            batch = [
                indices[torch.multinomial(weights, count, replacement=True, generator=generator)]
                for indices, weights, count in self._pools
            ]
            yield torch.cat(batch).tolist()

    def __len__(self) -> int:
        return self.num_batches


def _counts(names: Sequence[str], batch_size: int, ratio: Mapping[str, float] | None) -> dict[str, int]:
    """Volumes of each domain in a batch."""
    shares = dict.fromkeys(names, 1) if ratio is None else dict(ratio)
    if sorted(shares) != list(names) or any(share <= 0 for share in shares.values()):
        raise InputError(f"ratio: expected a share above 0 for each of {joined(names)}, found {ratio}")
    counts = {name: batch_size * share / sum(shares.values()) for name, share in shares.items()}
    if any(abs(count - round(count)) > 1e-9 for count in counts.values()):
        raise InputError(
            f"batch_size: expected one that can be divided as {shares}, found {batch_size} "
            f"({joined(f'{count:.4g} {name}' for name, count in counts.items())})"
        )
    return {name: round(count) for name, count in counts.items()}


def _checked(weights: Sequence[float], num_volumes: int) -> torch.Tensor:
    found = torch.tensor(list(weights), dtype=torch.float64)
    if len(found) != num_volumes or not bool((torch.isfinite(found) & (found > 0)).all()):
        raise InputError(
            f"weights: expected {num_volumes} numbers above 0 (one per volume), found {len(found)}: "
            f"{joined(weights)}"
        )
    return found
