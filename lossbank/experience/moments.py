"""Moments of a memory as a space to search by context: what was tried where it looked like here?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossrag.errors import ConfigError
from lossrag.lossbank.experience.records import Records, finite_floats
from lossrag.lossbank.experience.topk import Rows, exact_top_k, flat_index, unit_rows

_REACH = 5.0
_FLOOR = 1e-6


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Records at the nearest moments: positions (r,) int64 in the records, the nearest moment first, and the
    similarity (r,) in (0, 1] of each one's context. A moment has one record a loss that was tried.
    """

    positions: NDArray[np.int64]
    similarities: NDArray[np.float64]


class ContextSpace:
    """The m moments (task, run, step) of ``records``, indexed by context.

    Context features have units of their own, so each is standardised by its mean and standard deviation over the
    moments, held to within 5 deviations lest one outlier decides alone, and dropped when it never varied. A
    constant is appended, so that distance from the mean counts as well as direction and no context is zero.
    """

    def __init__(self, records: Records) -> None:
        # Records come sorted by (task, run, step): those of a moment (and context) are neighbours already.
        new = np.ones(len(records), dtype=np.bool_)
        columns = (records.task, records.run, records.step)
        new[1:] = np.logical_or.reduce([np.diff(column) != 0 for column in columns])
        new[1:] |= (records.context[1:] != records.context[:-1]).any(axis=1)
        self._starts = np.append(np.flatnonzero(new), len(records))
        self.context_size = records.context.shape[1]
        contexts = records.context[new].astype(np.float64)
        if not len(contexts):
            return
        self._mean = contexts.mean(axis=0)
        spread = contexts.std(axis=0)
        # A column that never varied has a spread of rounding noise at most.
        varied = spread > 1e-6 * np.abs(contexts).max(axis=0)
        self._scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=varied)
        self._rows: Rows = self._embed(contexts)
        self._index: Any = flat_index(self._rows)

    @property
    def moments(self) -> int:
        """Number of moments."""
        return len(self._starts) - 1

    def nearest(self, context: ArrayLike, k: int) -> Neighbours:
        """The records of the min(k, m) moments nearest to ``context`` (C,); of equally near ones the first in order.

        Raises ConfigError for k < 1, or a context of another size or not finite.
        """
        query = finite_floats("numbers of a context", context)  # rounded as the stored ones were
        if query.shape != (self.context_size,):
            raise ConfigError(
                f"A context of this memory is ({self.context_size},), got the shape {query.shape}: "
                "ask with the features that the memory was filled with."
            )
        if k < 1:
            raise ConfigError(f"The number of neighbours is a whole number from 1 up, not {k!r}.")
        if not self.moments:
            return Neighbours(np.empty(0, np.int64), np.empty(0))
        moments, cosines = exact_top_k(self._index, self._rows, self._embed(query[None].astype(np.float64))[0], k)
        sizes = self._starts[moments + 1] - self._starts[moments]
        offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        positions = np.repeat(self._starts[moments], sizes) + offsets
        return Neighbours(positions, np.repeat(np.maximum((1 + cosines) / 2, _FLOOR), sizes))

    def _embed(self, contexts: NDArray[np.float64]) -> Rows:
        standard = np.clip((contexts - self._mean) * self._scale, -_REACH, _REACH)
        share = max(float(np.sqrt((self._scale > 0).sum())), 1.0)
        return unit_rows(np.concatenate([standard / share, np.ones((len(standard), 1))], axis=1))
