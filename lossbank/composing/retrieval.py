"""Retrieval: what a bank of outcomes is asked about a task, and the mixture that its answer speaks for.

A loss counts by its lower bound, the gain to expect over the task's reference less ``risk`` times its error. Shares are
softmax(bound / temperature) over the k losses with the highest bounds above 0 and the reference, whose bound is 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from lossrag.lossbank.composing.policies import ComposerConfig
from lossrag.lossbank.experience.snapshots import REFERENCES
from lossrag.lossbank.experience.trials import Case
from lossrag.lossbank.library.registration import LOSSES

LEAST = 0.02
"""Share below which a loss is not worth what computing it costs."""


@dataclass(frozen=True, eq=False)
class Question:
    """A task at a moment, its ``context`` (C,), and the losses on offer to it."""

    context: ArrayLike
    progress: float
    encoder: str
    target_kind: str
    losses: tuple[str, ...]


class Neighbour(Protocol):
    """A case of the bank, and how far from the question it lies."""

    @property
    def case(self) -> Case: ...

    @property
    def distance(self) -> float: ...


class Answer(Protocol):
    """What is known of losses (L,) in tasks like the one in question: ``mean`` and standard ``error`` of their gains
    over the reference, shares of 1, and how many ``trials`` of their own that rests on.

    neighbours: the cases that it was made from, nearest first. known: whether they are near enough.
    """

    @property
    def losses(self) -> Sequence[str]: ...

    @property
    def mean(self) -> ArrayLike: ...

    @property
    def error(self) -> ArrayLike: ...

    @property
    def trials(self) -> ArrayLike: ...

    @property
    def neighbours(self) -> Sequence[Neighbour]: ...

    @property
    def known(self) -> bool: ...

    def story(self, losses: Sequence[str] | None = None) -> str:
        """What the task is like, and what these losses, the best one unless named, were worth there."""


class Adviser(Protocol):
    """A bank, or anything that answers like one."""

    def ask(self, question: Question) -> Answer:
        """What is known of the losses on offer."""


@dataclass(frozen=True)
class Gain:
    """What a loss is expected to gain over a task's reference, with its standard error, from so many own trials."""

    mean: float
    error: float
    trials: int

    def bound(self, risk: float, unseen: bool) -> float:
        """Lower bound of what it gains on average in tasks like this one; of what it gains in a single one of them
        where nobody has looked at the task yet (``unseen``), as then the average hides what differs between them.

        >>> Gain(0.04, 0.01, 9).bound(1.0, unseen=False), round(Gain(0.04, 0.01, 9).bound(1.0, unseen=True), 3)
        (0.03, 0.01)
        """
        return self.mean - risk * self.error * (math.sqrt(max(self.trials, 1)) if unseen else 1.0)

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} ± {100 * self.error:.1f}"


def gains(answer: Answer, reference: str) -> dict[str, Gain]:
    """By name, what losses gain over ``reference``, whose own gain is exactly 0; without those that nothing finite is
    known of, and those on pairs of samples that were never tried. Empty where the reference itself is unknown."""
    columns = [np.asarray(column).tolist() for column in (answer.mean, answer.error, answer.trials)]
    known = {name: Gain(*own) for name, *own in zip(answer.losses, *columns, strict=True)}
    known |= {name: Gain(0.0, 0.0, 0) for name in known if name in REFERENCES.values()}
    base = Gain(0.0, 0.0, 0) if reference in REFERENCES.values() else known.get(reference)
    if base is None or not math.isfinite(base.mean + base.error):
        return {}
    found = {reference: Gain(0.0, 0.0, base.trials)}
    for name, own in known.items():
        tried = own.trials > 0 or not LOSSES[name].relational
        if name != reference and tried and math.isfinite(own.mean + own.error):
            found[name] = Gain(own.mean - base.mean, math.hypot(own.error, base.error), own.trials)
    return found


def ranked(found: Mapping[str, Gain], reference: str, config: ComposerConfig, unseen: bool) -> dict[str, float]:
    """Lower bounds above 0 by name, highest first, k at most."""
    bounds = {name: gain.bound(config.risk, unseen) for name, gain in found.items() if name != reference}
    order = sorted((name for name in bounds if bounds[name] > 0), key=lambda name: (-bounds[name], name))
    return {name: bounds[name] for name in order[: config.k]}


def shares_of(bounds: Mapping[str, float], reference: str, temperature: float) -> dict[str, float]:
    """softmax(bound / temperature) over these losses and the reference, at 0; but for shares too small to be worth it.

    >>> shares_of({}, "cross_entropy", 0.01)
    {'cross_entropy': 1.0}
    >>> {name: round(share, 2) for name, share in shares_of({"mae": 0.01}, "cross_entropy", 0.01).items()}
    {'mae': 0.73, 'cross_entropy': 0.27}
    """
    every = {**bounds, reference: 0.0}
    top = max(every.values())
    weights = {name: math.exp((bound - top) / temperature) for name, bound in every.items()}
    total = sum(weights.values())
    kept = {name: weight for name, weight in weights.items() if weight / total >= LEAST or name == reference}
    return {name: weight / sum(kept.values()) for name, weight in kept.items()}


def beats(new: Mapping[str, float], running: Mapping[str, float], found: Mapping[str, Gain]) -> bool:
    """True where a mixture gains more than the ``running`` one by more than the standard error of the difference.

    Losses that nothing is known of gain nothing, for sure.

    >>> found = {"mae": Gain(0.05, 0.01, 9), "brier": Gain(0.04, 0.01, 9), "cross_entropy": Gain(0.0, 0.0, 9)}
    >>> beats({"mae": 1.0}, {"cross_entropy": 1.0}, found), beats({"mae": 1.0}, {"brier": 1.0}, found)
    (True, False)
    """
    nothing = Gain(0.0, 0.0, 0)
    changes = {name: new.get(name, 0.0) - running.get(name, 0.0) for name in sorted({*new, *running})}
    more = sum(change * found.get(name, nothing).mean for name, change in changes.items())
    error = math.sqrt(sum((change * found.get(name, nothing).error) ** 2 for name, change in changes.items()))
    return more > error
