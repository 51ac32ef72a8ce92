"""Neighbours of a moment: the cases whose moments are most alike, by FAISS, and how far beyond the bank's own points a
moment lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from lossrag.lossbank.experience.coordinates import Coordinates, Likeness
from lossrag.lossbank.experience.trials import Experience, Floats, Ints

OWN_POINTS = 256
"""The bank's own moments, evenly spaced, that are asked how far their neighbours lie."""
REACHED = 0.99
"""Share of the bank's own moments that have their neighbours within the limit of what is known."""
_OTHERS = 1024
_BLOCK = 1 << 16
_LEAST = 1e-6
_SLACK = 1e-4
"""A float32 distance is right to less than this share of itself."""
_DECIMALS = 9
"""Places of a distance: what differs less is noise of the machine, so it counts as a tie."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Cases (n,) of an experience, nearest first, the moment (n,) of each that lies nearest, and its distance (n,)."""

    cases: NDArray[np.int64]
    moments: NDArray[np.int64]
    distances: NDArray[np.float64]


class Moments:
    """The M moments of one target kind as points to search; see :class:`Coordinates`.

    The answers are exact, do not depend on the number of threads, and of equally near moments the first one counts.
    """

    def __init__(self, experience: Experience, target_kind: str, likeness: Likeness | None = None) -> None:
        kinds = experience.texts("target_kind") == target_kind
        self.numbers = np.flatnonzero(kinds[experience.moment_case])
        self.cases: Ints = experience.moment_case[self.numbers]
        self.count = int(kinds.sum())
        self._sources: Ints = experience.columns["source"].astype(np.int32)[self.cases]
        self._limits: dict[int, float] = {}
        encoders = experience.columns["encoder"].astype(np.int32)[self.cases]
        self.encoders = tuple(sorted(experience.names["encoder"][number] for number in np.unique(encoders)))
        if not len(self.numbers):
            return
        self.coordinates = Coordinates(experience, self.numbers, likeness or Likeness())
        blocks = [slice(at, at + _BLOCK) for at in range(0, len(self.numbers), _BLOCK)]
        self.points: Floats = np.concatenate(
            [
                self.coordinates.rows(
                    experience.contexts[self.numbers[block]],
                    experience.progress[self.numbers[block]],
                    encoders[block],
                )
                for block in blocks
            ]
        )
        self.index: Any = faiss.IndexFlatL2(self.points.shape[1])
        self.index.add(self.points)

    def __len__(self) -> int:
        return len(self.numbers)

    def point(self, context: Floats, progress: float, encoder: str) -> Floats:
        """The point (D,) of a context (C,) at a progress, of a task with an encoder of this kind."""
        number = np.array([self.coordinates.encoder(encoder)], np.int32)
        point: Floats = self.coordinates.rows(context[None], np.array([progress], np.float32), number)[0]
        return point

    def nearest(self, point: Floats, count: int) -> Neighbours:
        """The min(count, cases) nearest cases to a point (D,)."""
        count = min(count, self.count)
        if not count:
            return Neighbours(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        width = min(4 * count + 16, len(self))
        while True:
            (squares,), (found,) = self.index.search(point[None], width)
            found = found[found >= 0]
            near = self._distinct(point, found, count)
            # a point that float32 has put behind the last one found may belong among them
            surely = len(near.cases) == count and squares[-1] > (1 + _SLACK) * near.distances[-1] ** 2
            if surely or width == len(self):
                return near
            width = min(4 * width, len(self))

    def _distinct(self, point: Floats, found: NDArray[np.int64], count: int) -> Neighbours:
        # row by row, in float64: no distance depends on what else is found
        apart = self.points[found].astype(np.float64) - point.astype(np.float64)
        distances = np.sqrt((apart * apart).sum(axis=1)).round(_DECIMALS)
        order = np.lexsort((found, distances))
        found, distances = found[order], distances[order]
        first = np.sort(np.unique(self.cases[found], return_index=True)[1])[:count]
        moments = self.numbers[found[first]]
        return Neighbours(self.cases[found[first]].astype(np.int64), moments, distances[first])

    def novelty(self, near: Neighbours) -> float:
        """How far the neighbours of a moment lie, in units of the limit: up to 1, so far lie those of the bank's own
        moments as well, when their own source is left out (their own case, in a bank of one source)."""
        if not len(near.cases):
            return float("inf")
        count = len(near.cases)
        if count not in self._limits:
            self._limits[count] = self._limit(count)
        limit, mean = self._limits[count], float(near.distances.mean())
        return mean / max(limit, _LEAST)

    def _limit(self, count: int) -> float:
        """The mean distance to ``count`` cases of other sources that the own moments reach."""
        apart = self._sources if len(np.unique(self._sources)) > 1 else self.cases
        own = np.linspace(0, len(self) - 1, min(len(self), OWN_POINTS)).round().astype(np.int64)
        squares, found = self.index.search(self.points[own], min(_OTHERS, len(self)))
        means = []
        for place, row, places in zip(own, squares, found, strict=True):
            other = (places >= 0) & (apart[places] != apart[place])
            first = np.sort(np.unique(self.cases[places[other]], return_index=True)[1])[:count]
            # where the nearest are all of the own source, the others lie beyond the last of them
            distances = np.sqrt((row[other][first] if len(first) else row[places >= 0][-1:]).clip(min=0))
            means.append(float(distances.mean()))
        return float(np.quantile(means, REACHED))
