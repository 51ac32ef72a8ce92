"""Top k by inner product: FAISS finds the candidates, float64 decides on their scores and their order."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossrag.errors import ConfigError

Rows = NDArray[np.float32]
Hits = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Positions of the rows found (m,), and their scores (m,), best first."""

DECIMALS = 6
"""Places of a score. What differs less is float32 noise in the vectors, so it counts as a tie."""

_SLACK = 16


def unit_rows(values: ArrayLike, dimension: int, what: str) -> Rows:
    """``values`` (n, dimension) scaled to length 1, float32 (n, dimension).

    Raises ConfigError for another shape, a value that is not finite, or a zero vector.

    >>> unit_rows([[3.0, 4.0]], 2, "vectors")
    array([[0.6, 0.8]], dtype=float32)
    """
    try:
        rows = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The {what} must be an array of numbers, (n, {dimension}): {error}.") from None
    if rows.ndim != 2:
        raise ConfigError(f"The {what} must have two axes, (n, {dimension}), got the shape {rows.shape}.")
    if rows.shape[1] != dimension:
        raise ConfigError(
            f"The {what} must have {dimension} columns, got {rows.shape[1]}: embed them in the same way as the rest."
        )
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ConfigError(f"The {what} must be finite, but row {bad} holds NaN or infinity: mend what computes it.")
    # By the largest entry first: squares of very large or very small numbers leave the range of a float.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    if not largest.all():
        bad = int(np.flatnonzero(largest == 0)[0])
        raise ConfigError(f"The {what} must have a direction, but row {bad} is zero: leave it out.")
    rows = rows / largest
    return np.ascontiguousarray(rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True)), dtype=np.float32)


def flat_index(rows: Rows) -> Any:
    """The exact FAISS index of unit rows (n, D)."""
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    return index


def exact_top_k(index: Any, rows: Rows, query: NDArray[np.float32], k: int) -> Hits:
    """The best min(k, n) of ``rows`` (n, D) for ``query`` (D,), all of unit length; n >= 1, k >= 1.

    ``index`` is :func:`flat_index` of the rows. Equal scores come in the order of the rows. The answer does not depend
    on the number of threads.
    """
    k, count = min(k, len(rows)), len(rows)
    # A float32 product of unit vectors is off by less than this, whatever the order of its sum. A row may
    # gain as much as the k-th loses, and be tied with it besides.
    error = (rows.shape[1] + 8) * 2.0**-23
    margin = 2 * error + 10.0**-DECIMALS
    width = min(k + _SLACK, count)
    while True:
        (scores,), (candidates,) = index.search(query[None], width)
        if width == count or scores[-1] < scores[k - 1] - margin:
            return _rank(rows, query, candidates, k)
        width = min(2 * width, count)


def _rank(rows: Rows, query: NDArray[np.float32], candidates: NDArray[np.int64], k: int) -> Hits:
    # Row by row: no sum depends on what else is found.
    products = rows[candidates].astype(np.float64) * query.astype(np.float64)
    scores = products.sum(axis=1).round(DECIMALS) + 0.0  # no negative zero
    order = np.lexsort((candidates, -scores))[:k]
    return candidates[order], scores[order]
