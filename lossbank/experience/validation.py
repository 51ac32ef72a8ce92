"""Validation of an experience: what a choice gains on sources that the bank has never seen, beside choices that know
less or more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lossrag.checks import check_choice, check_inside, check_least
from lossrag.lossbank.experience.bank import Retrieval
from lossrag.lossbank.experience.coordinates import lateness
from lossrag.lossbank.experience.neighbours import Moments
from lossrag.lossbank.experience.outcomes import Doubles, Expected, Outcomes, expected
from lossrag.lossbank.experience.trials import Experience
from lossrag.lossbank.library.contract import TARGET_KINDS
from lossrag.lossbank.library.registration import LOSSES

RISKS = (1.0, 1.5, 2.0)
"""Standard errors below the mean, in the rows that take a risk into account."""
BANKS = ("all", "within", "without")
NEAREST, ONE, HINDSIGHT, TOLD = "nearest", "one loss for all", "one loss in hindsight", "told the trouble"
RETRIEVED, RANDOM = "best of k retrieved", "best of k at random"
PAIRS = ((NEAREST, HINDSIGHT), (NEAREST, ONE), (NEAREST, TOLD), (RETRIEVED, RANDOM))
"""Rows whose differences are told, case by case."""
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ValidationOptions:
    """at: progress at which cases ask; of every case the nearest moment. k: candidates of the rows "best of k"; half of
    what was tried where that is less. target_kind: of the cases.

    bank: what a case is answered from, besides leaving its source out: ``all`` that a bank would ask, ``within`` its
    own encoder alone, ``without`` its own.
    """

    at: float = 0.05
    k: int = 8
    target_kind: str = "classification"
    bank: str = "all"
    retrieval: Retrieval = field(default_factory=Retrieval)

    def __post_init__(self) -> None:
        check_inside(self, "at")
        check_least(self, 1, "k")
        check_choice(self, "target_kind", TARGET_KINDS)
        check_choice(self, "bank", BANKS)


@dataclass(frozen=True)
class Estimate:
    """A mean with the half width of its 95 % interval, over so many cases; not a number for a single one."""

    mean: float
    half: float
    cases: int

    @staticmethod
    def of(values: Doubles) -> Estimate:
        """Of values (n,), n >= 1."""
        half = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return Estimate(float(values.mean()), half, len(values))


@dataclass(frozen=True, eq=False)
class Validation:
    """Of n cases that could be asked about, the gains (n,) of every row's choice, a share of 1.

    cases: (n,) their numbers in the experience. distance: (n,) mean distance of the neighbours.
    sources, encoders, troubles: (n,) of the cases.
    """

    cases: NDArray[np.int64]
    gains: Mapping[str, Doubles]
    distance: Doubles
    sources: NDArray[np.str_]
    encoders: NDArray[np.str_]
    troubles: NDArray[np.str_]

    def rows(self, where: Bools | None = None) -> dict[str, Estimate]:
        """The mean gain of every row, over the cases (n,) that are true."""
        kept = np.ones(len(self.cases), np.bool_) if where is None else where
        return {row: Estimate.of(values[kept]) for row, values in self.gains.items()} if kept.any() else {}

    def differences(self, where: Bools | None = None) -> dict[tuple[str, str], Estimate]:
        """The mean paired difference of the rows in ``PAIRS``, over the cases (n,) that are true."""
        kept = np.ones(len(self.cases), np.bool_) if where is None else where
        pairs = PAIRS if kept.any() else ()
        return {(a, b): Estimate.of((self.gains[a] - self.gains[b])[kept]) for a, b in pairs}

    def harmed(self, row: str = NEAREST, points: float = 0.01) -> float:
        """The share of cases in which a row's choice loses more than so much."""
        return float((self.gains[row] < -points).mean()) if len(self.cases) else math.nan


class Asked:
    """The cases of one target kind, each asked about at one moment and answered without its source.

    names: registered losses (L,) that any of them tried. gains: (N, L) of all cases of the experience, not a number
    where a loss was not tried.
    """

    def __init__(self, experience: Experience, options: ValidationOptions) -> None:
        self.experience, self.options = experience, options
        self.kinds: Bools = np.equal(experience.texts("target_kind"), options.target_kind)
        self.sources = experience.texts("source")
        self.encoders = experience.texts("encoder")
        self.troubles = experience.texts("trouble")
        outcomes = Outcomes(experience)
        self.repeats = outcomes.repeats
        everywhere = outcomes.gains(np.arange(len(experience)))
        self.usual = outcomes.usual.get(options.target_kind, 1.0)
        everywhere[~self.kinds] = np.nan
        tried = (~np.isnan(everywhere)).sum(axis=0)
        columns = [n for n, name in enumerate(experience.names["loss"]) if tried[n] and name in LOSSES]
        self.names = tuple(experience.names["loss"][n] for n in columns)
        self.gains: Doubles = everywhere[:, columns]

    @cached_property
    def moments(self) -> NDArray[np.int64]:
        """(N,) the moment of every case nearest to the progress at which they ask."""
        apart = np.abs(lateness(self.experience.progress) - math.log10(self.options.at))
        order = np.lexsort((apart, self.experience.moment_case))
        _, first = np.unique(self.experience.moment_case[order], return_index=True)
        return np.asarray(order[first])

    def bank(self, case: int) -> Bools:
        """(N,) the cases that may answer about this one."""
        others: Bools = self.kinds & (self.sources != self.sources[case])
        own: Bools = self.encoders == self.encoders[case]
        # as a bank does; see Retrieval
        enough = np.count_nonzero(others & own) >= self.options.retrieval.neighbours
        usual = others & own if enough else others
        answering: Bools = {"all": usual, "within": others & own, "without": others & ~own}[self.options.bank]
        return answering

    @cached_property
    def neighbours(self) -> dict[int, tuple[NDArray[np.int64], float]]:
        """By case that has any the neighbours, as numbers of cases, and their mean distance."""
        found, experience = {}, self.experience
        # one space for all cases that are answered from the same part of the bank
        groups: dict[tuple[str, str], list[int]] = {}
        for case in np.flatnonzero(self.kinds).tolist():
            groups.setdefault((self.sources[case], self.encoders[case]), []).append(case)
        retrieval = self.options.retrieval
        for group in groups.values():
            kept = self.bank(group[0])
            space = Moments(experience.where(kept), self.options.target_kind, retrieval.likeness)
            numbers = np.flatnonzero(kept)
            for case in group if len(space) else ():
                moment = self.moments[case]
                context, progress = experience.contexts[moment], float(experience.progress[moment])
                point = space.point(context, progress, self.encoders[case])
                near = retrieval.gathered(space, point, self.repeats[numbers])
                found[case] = numbers[near.cases], float(near.distances.mean())
        return found

    def expected(self, case: int, hidden: Sequence[int] = ()) -> Expected:
        """What the losses ``names`` may be expected to gain in a case, where nobody has tried those ``hidden``."""
        table = self.gains[self.neighbours[case][0]].copy()
        table[:, list(hidden)] = np.nan
        return expected(table, self.names, self.names, self.options.retrieval.borrowing, self.usual)


def validate(experience: Experience, options: ValidationOptions | None = None) -> Validation:
    """Leave one source out: every case of the target kind that others can answer about is asked about once.

    Each choice is one loss of those that were tried in the case, or the reference, with its gain there:

    - nearest: the largest expected gain; "if sure by r errors": the same, where the lower bound is above 0, or else
      the reference; "lower bound, r errors": the largest lower bound;
    - one loss for all: the best on the other sources, with the same encoder where there is any;
    - one loss in hindsight: the best on the very cases of that source and encoder, its own outcome among them;
    - told the trouble: the best on the other cases of that trouble, with the same encoder where there is any;
    - best of k: the best in hindsight of the k largest expected gains; at random, in the mean over all draws.

    The last two and the one in hindsight know the outcome of the case, so they gain from its noise as well.
    """
    options = options or ValidationOptions()
    asked = Asked(experience, options)
    found: dict[str, list[float]] = {}
    cases = [case for case in sorted(asked.neighbours) if not np.isnan(asked.gains[case]).all()]
    for case in cases:
        for row, gain in _choices(asked, case).items():
            found.setdefault(row, []).append(gain)
    gains = {row: np.array(values) for row, values in found.items()}
    numbers = np.array(cases, np.int64)
    distance = np.array([asked.neighbours[case][1] for case in cases])
    texts = (asked.sources[numbers], asked.encoders[numbers], asked.troubles[numbers])
    return Validation(numbers, gains, distance, *texts)


def _choices(asked: Asked, case: int) -> dict[str, float]:
    own = asked.gains[case]
    tried = np.flatnonzero(~np.isnan(own))
    own = own[tried]
    expected = asked.expected(case)
    mean, error = expected.mean[tried], expected.error[tried]
    bank = asked.bank(case)
    same = asked.encoders == asked.encoders[case]
    alike = asked.troubles == asked.troubles[case]
    here = asked.kinds & same & (asked.sources == asked.sources[case])
    k = min(asked.options.k, max(len(tried) // 2, 1))
    gains = {NEAREST: _chosen(own, mean)}
    for risk in RISKS:
        best = int(mean.argmax())
        gains[f"{NEAREST}, if sure by {risk:g} errors"] = gains[NEAREST] if mean[best] > risk * error[best] else 0.0
        gains[f"lower bound, {risk:g} errors"] = _chosen(own, mean - risk * error)
    return {
        **gains,
        ONE: _chosen(own, _means(asked, bank, same)[tried]),
        HINDSIGHT: _chosen(own, _means(asked, here, same)[tried]),
        TOLD: _chosen(own, _means(asked, bank & alike, same)[tried]),
        RETRIEVED: float(own[np.argsort(-mean, kind="stable")[:k]].max()),
        RANDOM: best_of_random(own, k),
    }


def _chosen(gains: Doubles, expected: Doubles) -> float:
    """The gain of the loss from which most is expected; 0, the reference's, where nothing is above that."""
    best = int(expected.argmax())
    return float(gains[best]) if expected[best] > 0 else 0.0


def _means(asked: Asked, cases: Bools, encoder: Bools) -> Doubles:
    """Mean gains (L,) over these cases with this encoder, or with any where there are none; as if one more case of
    each loss had gained nothing, so that one lucky trial is no choice."""
    kept = cases & encoder if (cases & encoder).any() else cases
    table = asked.gains[kept]
    means: Doubles = np.nansum(table, axis=0) / (1 + (~np.isnan(table)).sum(axis=0))
    return means


def best_of_random(gains: Doubles, k: int) -> float:
    """The mean, over all subsets of size k, of the best of ``gains`` (n,), n >= k.

    >>> best_of_random(np.array([3.0, 1.0, 2.0]), 2)  # (2 + 3 + 3) / 3
    2.6666666666666665
    """
    n = len(gains)
    # the j-th smallest is the best of the subsets whose others are below it
    weights = np.array([math.comb(j, k - 1) for j in range(n)], np.float64) / math.comb(n, k)
    return float(np.sort(gains) @ weights)
