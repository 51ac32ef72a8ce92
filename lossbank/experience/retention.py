"""Retention: the records that a memory keeps, a pure function of the set of all records it was ever given.

Keeping is order-free and can be done piecemeal: keep(keep(A) + B) = keep(A + B). Hence merging memories commutes
and associates. Two properties carry that: a record's rank within its (task, loss) depends on names and step
alone and can only worsen as records arrive; and ranks are filled level by level over all (task, loss), so what
was once behind ``capacity`` others stays behind as many.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from lossrag.lossbank.experience.records import Records, take

Rows = NDArray[np.int64]


def keep(records: Records, capacity: int) -> Records:
    """At most ``capacity`` of the records, one for each (task, run, step, loss), in that order.

    Of records with the same key the one with the smallest contribution stays, the cautious choice (then the
    smallest context). Over capacity every (task, loss) gives way evenly, so a rare loss is not
    pushed out by frequent ones, and each keeps a sample spread evenly over its runs and steps, drawn by a hash
    of (run, task, step). Not the latest steps: steps of different runs have no common clock, and the start of a
    run is what the next run's start asks for. The hash leaves the loss out, so all losses of a
    task keep the same moments and stay comparable.
    """
    order = np.lexsort((records.loss, records.step, records.run, records.task))
    rows = _without_duplicates(records, order)
    if len(rows) > capacity:
        rows = rows[_survivors(take(records, rows), capacity)]
    return take(records, rows)


def _without_duplicates(records: Records, order: Rows) -> Rows:
    """``order`` with one row of each run of equal keys."""
    columns = (records.task, records.run, records.step, records.loss)
    same = np.logical_and.reduce([column[order[1:]] == column[order[:-1]] for column in columns])
    if not same.any():
        return order
    first = np.concatenate([[True], ~same])
    key = np.cumsum(first) - 1
    doubtful = np.flatnonzero(~first | np.concatenate([same, [False]]))
    rows = order[doubtful]
    contexts = np.unique(records.context[rows], axis=0, return_inverse=True)[1].reshape(-1)
    ranked = np.lexsort((contexts, records.contribution[rows], key[doubtful]))
    _, winners = np.unique(key[doubtful][ranked], return_index=True)
    kept: Rows = order[first]
    kept[key[doubtful][ranked][winners]] = rows[ranked][winners]
    return kept


def _survivors(records: Records, capacity: int) -> Rows:
    """The rows that stay, ascending, of records without duplicates."""
    group = records.task.astype(np.int64) * len(records.losses) + records.loss
    order = np.lexsort((records.step, records.run, _moment_hash(records), group))
    place = np.arange(len(order))
    starts = np.concatenate([[True], np.diff(group[order]) != 0])
    rank = place - np.maximum.accumulate(np.where(starts, place, 0))
    return np.sort(order[np.lexsort((group[order], rank))[:capacity]])


def _moment_hash(records: Records) -> NDArray[np.uint64]:
    moment = _mix(_name_hashes(records.runs)[records.run]) ^ _name_hashes(records.tasks)[records.task]
    return _mix(_mix(moment) ^ records.step.astype(np.uint64))


def _name_hashes(names: tuple[str, ...]) -> NDArray[np.uint64]:
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    return np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64, modulo 2**64."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
