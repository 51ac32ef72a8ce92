"""A hand-made bank: its answers are written down."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lossrag.lossbank import Question
from lossrag.lossbank.experience.trials import Case


def case(trouble="symmetric", source="sentiment", task="books", **more):
    """A case of some bank."""
    return Case(source, task, "textcnn", "classification", 2, 500, 400, "accuracy", 0.7, trouble, **more)


@dataclass(frozen=True)
class Near:
    """A case that answers."""

    case: Case
    distance: float


@dataclass
class Told:
    """An answer. gains: (mean, error, trials) by loss; what is left out is not known, as a number that is none."""

    gains: dict[str, tuple[float, float, int]]
    known: bool = True
    neighbours: tuple[Near, ...] = (Near(case(), 0.5), Near(case("pair", task="dvd"), 0.8))
    losses: tuple[str, ...] = ()

    def __post_init__(self):
        rows = [self.gains.get(name, (np.nan, np.nan, 0)) for name in self.losses]
        self.mean, self.error, self.trials = (
            (np.array(column) for column in zip(*rows, strict=True)) if rows else [()] * 3
        )

    def story(self, losses=None):
        worth = [f"; {name} {100 * self.gains[name][0]:+.1f}" for name in losses or ()]
        return f"{'Like two known tasks' if self.known else 'Like nothing known'}{''.join(worth)}."


@dataclass
class Adviser:
    """Answers with ``gains``, whatever is asked, or with those in ``by_progress``; ``asked`` keeps the questions."""

    gains: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    known: bool = True
    by_progress: dict[float, dict[str, tuple[float, float, int]]] = field(default_factory=dict)
    asked: list[Question] = field(default_factory=list)

    def ask(self, question):
        self.asked.append(question)
        gains = self.by_progress.get(question.progress, self.gains)
        return Told(gains, self.known, losses=question.losses)
