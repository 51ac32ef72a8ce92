"""Outcomes to expect: mean gain and standard error of every loss over some cases, a loss that was tried little there
borrowing from losses of a like geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lossrag.checks import check_positive
from lossrag.lossbank.experience.trials import Experience
from lossrag.lossbank.library.registration import LOSSES
from lossrag.lossbank.shape.geometry import geometry_vectors

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Borrowing:
    """How far the outcomes of a loss count for another one.

    width: of the Gaussian kernel over the distance of two geometries of length 1, from 0 to 2.
    trials: of its own that weigh as much as what a loss borrows.
    doubt: weight of knowing nothing (mean 0) beside what losses alike have shown, one of the same geometry counting 1.
    """

    width: float = 0.15
    trials: float = 6.0
    doubt: float = 0.05

    def __post_init__(self) -> None:
        check_positive(self, "width", "trials", "doubt")


@dataclass(frozen=True, eq=False)
class Expected:
    """Of L losses the ``mean`` gain (L,) to expect, its standard ``error`` (L,), and the ``trials`` (L,) of their own
    that it rests on. Shares of 1."""

    mean: Doubles
    error: Doubles
    trials: NDArray[np.int64]


class Outcomes:
    """The outcomes of an experience, to look up by case and to average.

    usual: the variance of the gains by target kind: those of values are of another size than those of classes.
    repeats: (N,) paired trainings of a case, the mean over its losses.
    """

    def __init__(self, experience: Experience, borrowing: Borrowing | None = None) -> None:
        self.experience, self.borrowing = experience, borrowing or Borrowing()
        self.losses = experience.names["loss"]
        self._starts = np.searchsorted(experience.outcome_case, np.arange(len(experience) + 1))
        counts, cases = np.diff(self._starts), experience.outcome_case
        self.repeats = np.bincount(cases, experience.repeats, minlength=len(experience)) / np.maximum(counts, 1)
        gains = experience.gain.astype(np.float64)
        kinds = experience.texts("target_kind")[experience.outcome_case]
        self.usual = {str(kind): float(gains[kinds == kind].var()) for kind in np.unique(kinds)}

    def gains(self, cases: NDArray[np.int64]) -> Doubles:
        """(n, L) of some cases (n,), by the losses of the experience; not a number where a loss was not tried."""
        table = np.full((len(cases), len(self.losses)), np.nan)
        counts = self._starts[cases + 1] - self._starts[cases]
        rows = np.repeat(np.arange(len(cases)), counts)
        own = np.arange(len(rows)) + np.repeat(self._starts[cases] - counts.cumsum() + counts, counts)
        table[rows, self.experience.outcome_loss[own]] = self.experience.gain[own]
        return table

    def expected(self, cases: NDArray[np.int64], names: Sequence[str], target_kind: str) -> Expected:
        """What losses of these names, all registered and of this kind, may be expected to gain where it was like in
        these cases (n,) of the kind."""
        return expected(self.gains(cases), self.losses, names, self.borrowing, self.usual.get(target_kind, 1.0))


def expected(
    gains: Doubles, losses: Sequence[str], names: Sequence[str], borrowing: Borrowing, usual: float
) -> Expected:
    """The same from a table of gains (n, L) of ``losses``; usual: the variance of a gain where nothing is known.

    The spread of a loss over the cases is its own with that of two more cases, which vary as all losses do on average:
    so a single trial has an error too.
    """
    tried = ~np.isnan(gains)
    # one more column: of a loss that nobody ever tried
    count = np.append(tried.sum(axis=0), 0)
    means = np.append(np.where(tried, gains, 0.0).sum(axis=0), 0.0) / np.maximum(count, 1)
    squares = np.append((np.where(tried, gains - means[:-1], 0.0) ** 2).sum(axis=0), 0.0)
    freedom = np.maximum(count - 1, 0)
    shared = squares.sum() / freedom.sum() if freedom.sum() else usual
    variance = (squares + _SHARED * shared) / (freedom + _SHARED) / np.maximum(count, 1)

    lenders = [n for n, name in enumerate(losses) if name in LOSSES]
    lent, doubt = _borrowed(
        names, [losses[n] for n in lenders], count[lenders], means[lenders], variance[lenders], borrowing, usual
    )
    place = {name: number for number, name in enumerate(losses)}
    own = [place.get(name, len(losses)) for name in names]
    share = count[own] / (count[own] + borrowing.trials)
    error = np.sqrt(share**2 * variance[own] + (1 - share) ** 2 * doubt)
    return Expected(share * means[own] + (1 - share) * lent, error, count[own])


_SHARED = 2.0


def _borrowed(
    names: Sequence[str],
    lenders: Sequence[str],
    count: NDArray[np.int64],
    means: Doubles,
    variance: Doubles,
    borrowing: Borrowing,
    usual: float,
) -> tuple[Doubles, Doubles]:
    """Means and variances (L,) from the other losses that were tried: 0 and the usual variance where none is alike."""
    kernel = _alike(tuple(names), tuple(lenders), borrowing.width, len(LOSSES)) * (count / (count + borrowing.trials))
    mass = kernel.sum(axis=1, keepdims=True) + borrowing.doubt
    weight = kernel / mass
    mean = weight @ means
    spread = (weight * (variance + (means - mean[:, None]) ** 2)).sum(axis=1)
    return mean, spread + borrowing.doubt / mass[:, 0] * (usual + mean**2)


@lru_cache(maxsize=64)
def _alike(names: tuple[str, ...], lenders: tuple[str, ...], width: float, registered: int) -> Doubles:
    """Kernel (L, M) of the geometries of losses and those that may lend to them, 0 of a loss with itself; of a library
    of so many."""
    shapes = geometry_vectors([LOSSES[name] for name in (*names, *lenders)]).double().numpy()
    # half the squared distance of two unit vectors is 1 - cosine
    kernel: Doubles = np.exp((shapes[: len(names)] @ shapes[len(names) :].T - 1) / width**2)
    return np.where(np.array(names)[:, None] == np.array(lenders), 0.0, kernel)
