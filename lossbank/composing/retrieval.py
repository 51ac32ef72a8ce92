"""Retrieval: what a bank of outcomes is asked about a task, and the mixture that its answer speaks for.

A loss counts by its lower bound, the gain to expect over the task's reference less ``risk`` times its error. Shares are
softmax(bound / temperature) over the k losses with the highest bounds above 0 and the reference, whose bound is 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lossrag.lossbank.composing.policies import ComposerConfig
from lossrag.lossbank.experience.questions import Z95, Answer, Question
from lossrag.lossbank.experience.snapshots import REFERENCES
from lossrag.lossbank.library.registration import LOSSES
from lossrag.lossbank.shape.geometry import TWIN, geometry_vectors

LEAST = 0.05
"""Share below which a loss is not worth what computing it costs."""

TOLD = 3
"""Losses whose worth a reason tells."""


class Adviser(Protocol):
    """A bank, or anything that answers like one."""

    def ask(self, question: Question) -> Answer:
        """What is known of the losses on offer."""


@dataclass(frozen=True)
class Gain:
    """What a loss is expected to gain over a task's reference, with its standard error, from so many own trials; as a
    text in points, with its 95 % interval."""

    mean: float
    error: float
    trials: int

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} ± {100 * Z95 * self.error:.1f}"


def gains(answer: Answer, reference: str) -> dict[str, Gain]:
    """By name, what losses gain over ``reference``, whose own gain is exactly 0; without those that nothing finite is
    known of, and those on pairs of samples that were never tried. Empty where the reference itself was never tried."""
    columns = answer.mean.tolist(), answer.error.tolist(), answer.trials.tolist()
    known = {name: Gain(*own) for name, *own in zip(answer.losses, *columns, strict=True)}
    told = REFERENCES[answer.question.target_kind]
    known[told] = nothing = Gain(0.0, 0.0, 0)
    base = known.get(reference, nothing)
    if reference != told and not (base.trials and math.isfinite(base.mean + base.error)):
        return {}
    found = {reference: nothing}
    for name, own in known.items():
        tried = own.trials > 0 or not LOSSES[name].relational
        if name != reference and tried and math.isfinite(own.mean + own.error):
            found[name] = Gain(own.mean - base.mean, math.hypot(own.error, base.error), own.trials)
    return found


def ranked(found: Mapping[str, Gain], reference: str, config: ComposerConfig, cases: int = 1) -> dict[str, float]:
    """Lower bounds above 0 by name, highest first, k at most; of twins, which are one loss twice, the first alone.

    cases: how many the errors are those of the mean over, where a loss has to be better in a single one of them as
        well: before anybody has looked at a task the mean hides what differs between the tasks that it may be.

    >>> found = {"mae": Gain(0.04, 0.01, 9), "brier": Gain(0.02, 0.01, 9)}
    >>> ranked(found, "cross_entropy", ComposerConfig(risk=1.0), cases=4)
    {'mae': 0.03}
    """
    others = {name: gain for name, gain in found.items() if name != reference}
    single = config.risk * math.sqrt(cases)
    sure = [name for name, gain in others.items() if gain.mean > single * gain.error]
    bounds = {name: others[name].mean - config.risk * others[name].error for name in sure}
    order = sorted(bounds, key=lambda name: (-bounds[name], name))
    return {name: bounds[name] for name in distinct(order)[: config.k]}


def distinct(names: Sequence[str]) -> list[str]:
    """These losses in their order, without those that an earlier one is a twin of.

    >>> distinct(["mae", "brier", "one_minus_p"])
    ['mae', 'brier']
    """
    shapes = geometry_vectors([LOSSES[name] for name in names])
    again = (shapes @ shapes.T >= TWIN).tril(diagonal=-1).any(dim=1).tolist()
    return [name for name, twin in zip(names, again, strict=True) if not twin]


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


def explained(answer: Answer, found: Mapping[str, Gain], shares: Mapping[str, float], reference: str) -> str:
    """Why a task is made of its ``shares``, largest first, after an answer in which these gains were found: what its
    cases were like, and what the losses were worth there; or why nothing can be said."""
    if not found:
        nobody = f"The bank has no trials of {reference} in such tasks to compare others with."
        return nobody if answer.known else answer.story([])
    mixed = [name for name in shares if name != reference and name in answer.losses]
    reason = answer.story(mixed[:TOLD] or None)
    return reason if mixed else f"{reason} Not surely better than {reference}, which stays alone."
