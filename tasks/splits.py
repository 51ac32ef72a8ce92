"""Seeded splits: stratified, the copies of a sample kept together, the same on every machine."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from lossrag.errors import ConfigError
from lossrag.streams import Stream, generator

Index = NDArray[np.int64]


def check_share(name: str, value: float) -> None:
    """Raises ConfigError unless 0 < value < 1."""
    if not 0.0 < value < 1.0:
        raise ConfigError(f"tasks.{name} is a share of the samples and lies between 0 and 1, not {value!r}.")


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
    keys: Sequence[Hashable], strata: Sequence[int], rho: float, validation: float, seed: int
) -> dict[str, Index]:
    """Positions of the support, query and validation samples, ascending.

    ``validation`` is the share taken first, ``rho`` = |query| / (|support| + |query|) of what remains.
    Samples with the same key are copies and go to one split, so the shares hold for distinct keys; a key
    belongs to the stratum of its first sample.

    Raises ConfigError for a share outside (0, 1).
    """
    check_share("rho", rho)
    check_share("validation", validation)
    units, unit_strata = _units(keys, strata)
    rng = generator(seed, Stream.SUPPORT_SPLIT)
    held_out = stratified_mask(unit_strata, validation, rng)
    rest = np.flatnonzero(~held_out)
    query = np.zeros_like(held_out)
    query[rest[stratified_mask(unit_strata[rest], rho, rng)]] = True
    return {
        "support": np.flatnonzero(~(held_out | query)[units]),
        "query": np.flatnonzero(query[units]),
        "validation": np.flatnonzero(held_out[units]),
    }


def split_query(keys: Sequence[Hashable], strata: Sequence[int], rho: float, seed: int) -> dict[str, Index]:
    """Positions of the support and query samples, ascending, where validation samples are given apart.

    Copies and strata as in :func:`split_train`. Raises ConfigError for a share outside (0, 1).

    >>> {name: len(index) for name, index in split_query("abcdefgh", [0] * 8, 0.25, seed=1).items()}
    {'support': 6, 'query': 2}
    """
    check_share("rho", rho)
    units, unit_strata = _units(keys, strata)
    query = stratified_mask(unit_strata, rho, generator(seed, Stream.SUPPORT_SPLIT))
    return {"support": np.flatnonzero(~query[units]), "query": np.flatnonzero(query[units])}


def _units(keys: Sequence[Hashable], strata: Sequence[int]) -> tuple[Index, Index]:
    """The number (N,) of every sample's key, and the stratum of every key."""
    unit_of: dict[Hashable, int] = {}
    units = np.array([unit_of.setdefault(key, len(unit_of)) for key in keys], dtype=np.int64)
    _, first = np.unique(units, return_index=True)
    return units, np.asarray(strata, dtype=np.int64)[first]
