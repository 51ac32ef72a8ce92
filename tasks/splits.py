"""Seeded splits: stratified, the copies of a sample kept together, the same on every machine."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from lossrag.errors import ConfigError
from lossrag.streams import Stream, generator

Index = NDArray[np.int64]


def stratified_mask(strata: Index, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(N,) true for round(share * N) samples: within one of ``share`` of every stratum.

    A stratum (N,) of two samples or more keeps one on either side, whatever the share.

    >>> stratified_mask(np.array([0] * 8 + [1] * 4), 0.25, np.random.default_rng(0)).sum()
    np.int64(3)
    """
    order = rng.permutation(len(strata))
    mask = np.zeros(len(strata), dtype=np.bool_)
    done = 0
    for stratum in np.unique(strata):
        members = order[strata[order] == stratum]
        # Cumulative rounding, so that the rounding of many small strata does not add up.
        take = round(share * (done + len(members))) - round(share * done)
        done += len(members)
        if len(members) > 1:
            take = min(max(take, 1), len(members) - 1)
        mask[members[:take]] = True
    return mask


def split_train(
    keys: Sequence[Hashable], strata: Sequence[int], rho: float, seed: int, validation: float | None = None
) -> dict[str, Index]:
    """Positions of the ``support`` and ``query`` samples, and of ``validation`` ones where a share is given; ascending.

    keys, strata: of N samples. ``validation`` is the share taken first, ``rho`` = |query| / (|support| + |query|) of
    what remains, both in (0, 1). Samples with the same key are copies and go to one split, so the shares hold for
    distinct keys; a key belongs to the stratum of its first sample.

    Raises ConfigError for a share outside (0, 1) or a negative seed.

    >>> {name: len(index) for name, index in split_train("abcdefgh", [0] * 8, 0.25, seed=1).items()}
    {'support': 6, 'query': 2}
    """
    for name, share in (("rho", rho), ("validation", 0.5 if validation is None else validation)):
        if not 0.0 < share < 1.0:
            raise ConfigError(f"{name} is a share of the samples and lies between 0 and 1, not {share!r}.")
    units, unit_strata = _units(keys, strata)
    rng = generator(seed, Stream.SUPPORT_SPLIT)
    none = np.zeros(len(unit_strata), dtype=np.bool_)
    held_out = none if validation is None else stratified_mask(unit_strata, validation, rng)
    rest = np.flatnonzero(~held_out)
    query = np.zeros_like(held_out)
    query[rest[stratified_mask(unit_strata[rest], rho, rng)]] = True
    masks = {"support": ~(held_out | query), "query": query}
    if validation is not None:
        masks["validation"] = held_out
    return {name: np.flatnonzero(mask[units]) for name, mask in masks.items()}


def _units(keys: Sequence[Hashable], strata: Sequence[int]) -> tuple[Index, Index]:
    """The number (N,) of every sample's key, and the stratum of every key."""
    unit_of: dict[Hashable, int] = {}
    units = np.array([unit_of.setdefault(key, len(unit_of)) for key in keys], dtype=np.int64)
    _, first = np.unique(units, return_index=True)
    return units, np.asarray(strata, dtype=np.int64)[first]
