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
from lossrag.lossbank.library.registration import LOSSES

OWN_POINTS = 256
"""The bank's own moments, evenly spaced, that are asked how far their neighbours lie."""
REACHED = 0.99
"""Share of the bank's own moments that have their neighbours within the limit of what is known."""
EXACT = 50_000
"""Moments up to which all of them are searched; beyond, that would take more than half a millisecond."""
CELLS = 16
"""Of the root of M cells, those that are searched first: 99 % of the 15 nearest of a million moments lie in them."""
_OTHERS = 1024
_GROWTH = 1.1
"""How far a space may grow before it is fitted anew."""
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

    def first(self, count: int) -> Neighbours:
        """The ``count`` nearest of them."""
        return Neighbours(self.cases[:count], self.moments[:count], self.distances[:count])


class Moments:
    """The M moments of one target kind, of all encoders or of one, as points to search; of the cases that tried a loss
    which is registered. See :class:`Coordinates`.

    Up to ``EXACT`` moments the answers are exact; beyond, cells of like moments are searched, the nearest ones alone.
    They do not depend on the number of threads, and of equally near moments the first one counts.
    """

    def __init__(
        self, experience: Experience, target_kind: str, likeness: Likeness | None = None, encoder: str | None = None
    ) -> None:
        self.target_kind, self.encoder = target_kind, encoder
        self.numbers, self.cases, encoders = self._members(experience, 0)
        self.count = _distinct(self.cases)
        self.encoders = tuple(sorted(experience.names["encoder"][number] for number in np.unique(encoders)))
        self._sources: Ints = experience.columns["source"].astype(np.int32)[self.cases]
        self._kinds = encoders
        self._total, self._fitted = len(experience.moment_case), len(self.numbers)
        self._told = _told(experience)
        self._limits: dict[int, float] = {}
        if not len(self.numbers):
            return
        self.coordinates = Coordinates(experience, self.numbers, likeness or Likeness())
        self.points = self._placed(experience, self.numbers, encoders)
        self.index = _index(self.points)

    def __len__(self) -> int:
        return len(self.numbers)

    def _members(self, experience: Experience, first: int) -> tuple[NDArray[np.int64], Ints, Ints]:
        """Of the moments of this kind, from the ``first`` on, the numbers, the cases and the encoders."""
        kinds = (experience.texts("target_kind") == self.target_kind) & _told(experience)
        if self.encoder is not None:
            kinds &= experience.texts("encoder") == self.encoder
        numbers = first + np.flatnonzero(kinds[experience.moment_case[first:]])
        cases = experience.moment_case[numbers]
        return numbers, cases, experience.columns["encoder"].astype(np.int32)[cases]

    def _placed(self, experience: Experience, numbers: NDArray[np.int64], encoders: Ints) -> Floats:
        blocks = [slice(at, at + _BLOCK) for at in range(0, len(numbers), _BLOCK)]
        rows = [
            self.coordinates.rows(
                experience.contexts[numbers[block]], experience.progress[numbers[block]], encoders[block]
            )
            for block in blocks
        ]
        return np.concatenate(rows)

    def grown(self, experience: Experience) -> bool:
        """Take up the moments that ``experience`` has got at its end, in the space as it is. False, and nothing
        happens, where that space no longer fits: so many are new, or an encoder is, or an old case has its first loss
        that is registered."""
        numbers, cases, encoders = self._members(experience, self._total)
        names = {experience.names["encoder"][number] for number in np.unique(encoders)}
        told = _told(experience)
        same = np.array_equal(told[: len(self._told)], self._told)
        if not same or len(self) + len(numbers) > _GROWTH * self._fitted or not names <= set(self.encoders):
            return False
        self._total, self._told = len(experience.moment_case), told
        if len(numbers):
            points = self._placed(experience, numbers, encoders)
            self.index.add(points)
            self.points = np.concatenate([self.points, points])
            self.numbers, self.cases = np.append(self.numbers, numbers), np.append(self.cases, cases)
            self._sources = np.append(self._sources, experience.columns["source"].astype(np.int32)[cases])
            self._kinds = np.append(self._kinds, encoders)
            self.count = _distinct(self.cases)
        return True

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
        width, cells = min(4 * count + 16, len(self)), CELLS
        while True:
            squares, found = _search(self.index, point[None], width, cells)
            near = self._distinct(point, found[0][found[0] >= 0], count)
            # a point that float32 has put behind the last one found may belong among them
            surely = len(near.cases) == count and squares[0][-1] > (1 + _SLACK) * near.distances[-1] ** 2
            if surely or (width == len(self) and cells >= getattr(self.index, "nlist", 0)):
                return near
            width, cells = min(4 * width, len(self)), 4 * cells

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
        moments as well, when their own source is left out (their own case, where one source alone has such an
        encoder)."""
        if not len(near.cases):
            return float("inf")
        count = len(near.cases)
        if count not in self._limits:
            self._limits[count] = self._limit(count)
        limit, mean = self._limits[count], float(near.distances.mean())
        return mean / max(limit, _LEAST)

    def _limit(self, count: int) -> float:
        """The mean distance that the own moments reach to ``count`` cases of other sources, or to other cases where
        one source alone has their encoder."""
        pairs = np.unique(np.stack([self._kinds, self._sources]), axis=1)
        kinds, sources = np.unique(pairs[0], return_counts=True)
        alone = np.isin(self._kinds, kinds[sources == 1])
        # cases of other sources that all have another encoder would lie far away for that alone
        own = np.linspace(0, len(self) - 1, min(len(self), OWN_POINTS)).round().astype(np.int64)
        squares, found = _search(self.index, self.points[own], min(_OTHERS, len(self)), CELLS)
        means = []
        for place, row, places in zip(own, squares, found, strict=True):
            apart = self.cases if alone[place] else self._sources
            other = (places >= 0) & (apart[places] != apart[place])
            first = np.sort(np.unique(self.cases[places[other]], return_index=True)[1])[:count]
            # where the nearest are all of the own source, the others lie beyond the last of them
            distances = np.sqrt((row[other][first] if len(first) else row[places >= 0][-1:]).clip(min=0))
            means.append(float(distances.mean()))
        return float(np.quantile(means, REACHED))


def _told(experience: Experience) -> NDArray[np.bool_]:
    """(N,) true for the cases with an outcome of a loss that is registered: others have nothing to say."""
    registered = np.array([*(name in LOSSES for name in experience.names["loss"]), False])
    told = np.zeros(len(experience), np.bool_)
    told[experience.outcome_case[registered[experience.outcome_loss]]] = True
    return told


def cases_by_encoder(experience: Experience, target_kind: str) -> dict[str, int]:
    """How many cases of a target kind that tried a registered loss have each encoder, by its name, sorted."""
    kinds = (experience.texts("target_kind") == target_kind) & _told(experience)
    encoders, counts = np.unique(experience.texts("encoder")[kinds], return_counts=True)
    return dict(zip(encoders.tolist(), counts.tolist(), strict=True))


def _distinct(ordered: Ints) -> int:
    return int(np.count_nonzero(np.diff(ordered))) + bool(len(ordered))


def _index(points: Floats) -> Any:
    """The FAISS index of points (M, D)."""
    flat = faiss.IndexFlatL2(points.shape[1])
    if len(points) <= EXACT:
        flat.add(points)
        return flat
    index = faiss.IndexIVFFlat(flat, points.shape[1], round(len(points) ** 0.5))
    index.cp.max_points_per_centroid = 64
    index.train(points)
    index.add(points)
    return index


def _search(index: Any, points: Floats, width: int, cells: int) -> tuple[Floats, NDArray[np.int64]]:
    """Squared distances and places (n, width) of the nearest; -1 where the cells hold no more."""
    if isinstance(index, faiss.IndexIVF):
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = min(cells, index.nlist)
        squares, found = index.search(points, width, params=parameters)
    else:
        squares, found = index.search(points, width)
    return squares, found
