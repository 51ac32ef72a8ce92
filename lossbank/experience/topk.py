"""Top k by inner product: FAISS finds the candidates, float64 decides on their scores and their order."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Hits = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Positions of the rows found (m,), and their scores (m,), best first."""

DECIMALS = 6
"""Places of a score. What differs less is float32 noise in the vectors, so it counts as a tie."""

_SLACK = 16


def unit_rows(values: NDArray[np.float64]) -> Rows:
    """``values`` (n, D), finite and no row of zeros, scaled to length 1, float32 (n, D).

    >>> unit_rows(np.array([[3.0, 4.0]]))
    array([[0.6, 0.8]], dtype=float32)
    """
    # By the largest entry first: squares of very large or very small numbers leave the range of a float.
    rows = values / np.abs(values).max(axis=1, keepdims=True)
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
