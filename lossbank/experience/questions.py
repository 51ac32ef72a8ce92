"""Question to a bank, and its answer: what losses may be expected to gain at a moment, and from which cases."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossrag.checks import check_choice, check_least, require
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.trials import UNKNOWN, Case
from lossrag.lossbank.library.contract import TARGET_KINDS
from lossrag.lossbank.library.registration import LOSSES

Z95 = 1.96
"""Standard errors on either side of a mean that a 95 % interval has."""
_FAR = 1.1
"""Novelty from which on it is told in numbers."""
_TROUBLES = {
    "clean": "were clean",
    "symmetric": "had symmetric noise",
    "pair": "had pair noise",
    "imbalance": "had imbalanced classes",
    "both": "had noise and imbalanced classes",
    UNKNOWN: "had troubles that nobody knows",
}


@dataclass(frozen=True, eq=False)
class Question:
    """A task at a moment: its ``context`` (C,), taken under its reference loss, at a ``progress`` in [0, 1].

    encoder: its kind, as in :class:`Case`. losses: the names on offer, all registered, of the target kind.

    Raises OptionError for a context that is not finite or of another size, and for losses that do not fit.
    """

    context: ArrayLike
    progress: float
    encoder: str
    target_kind: str
    losses: Sequence[str]

    def __post_init__(self) -> None:
        given = np.asarray(self.context, np.float32)
        fits = given.shape == (len(CONTEXT_NAMES),)
        require(fits, self, f"{{context}} has {len(CONTEXT_NAMES)} entries, got the shape {given.shape}.")
        require(bool(np.isfinite(given).all()), self, "{context} has entries that are not finite.")
        check_least(self, 0, "progress", most=1)
        check_choice(self, "target_kind", TARGET_KINDS)
        others = [name for name in self.losses if LOSSES[name].target_kind != self.target_kind]
        require(not others, self, f"{{losses}} must be for {self.target_kind}, got {', '.join(others)}.")


@dataclass(frozen=True)
class Neighbour:
    """A case that was asked, and how far from the question its nearest moment lies."""

    case: Case
    distance: float


@dataclass(frozen=True, eq=False)
class Answer:
    """Of L losses the ``mean`` gain (L,) to expect over the reference, a share of 1, its standard ``error`` (L,), and
    the ``trials`` (L,) among the neighbours that it rests on: 0 where a loss borrows from losses alike.

    neighbours: nearest first; none in a bank without trials of such tasks with losses that are registered.
    novelty: how far they lie; up to 1, so far lie the bank's own cases from those of other sources, or from other
        cases where one source alone has their encoder.
    known: they lie within that, and the bank knows this kind of encoder. Else keep close to the reference.
    encoders: the kinds of encoder that the bank knows for such targets.
    """

    question: Question
    mean: NDArray[np.float64]
    error: NDArray[np.float64]
    trials: NDArray[np.int64]
    neighbours: Sequence[Neighbour]
    novelty: float
    encoders: tuple[str, ...]

    @property
    def losses(self) -> tuple[str, ...]:
        """Names (L,) of the losses, as they were on offer."""
        return tuple(self.question.losses)

    @property
    def known(self) -> bool:
        """False where the answer is a guess; see above."""
        return self.novelty <= 1 and self.question.encoder in self.encoders

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that answered, sorted."""
        return tuple(sorted({near.case.source for near in self.neighbours}))

    def best(self, count: int = 1) -> list[str]:
        """The ``count`` best losses by their mean, best first, equal ones by name."""
        return [name for _, name in sorted(zip((-self.mean).tolist(), self.losses, strict=True))[:count]]

    def story(self, losses: Sequence[str] | None = None) -> str:
        """The answer in a sentence or two: what it was like, and what these losses, by default the best one, were
        worth there, with 95 % intervals."""
        if not self.neighbours:
            return f"The bank has no trials of losses for {self.question.target_kind} that are registered here."
        number = len(self.neighbours)
        (trouble, times), *_ = Counter(near.case.trouble for near in self.neighbours).most_common()
        like = f"{times} of {number} like it {_TROUBLES.get(trouble, f'had {trouble}')}"
        told = [self._worth(name) for name in (self.best() if losses is None else losses)]
        return ". ".join(["; ".join([like, *told]), *self._doubts()]) + "."

    def _worth(self, name: str) -> str:
        place = self.losses.index(name)
        half = Z95 * self.error[place]
        worth = f"{name} was worth {100 * self.mean[place]:+.1f} ± {100 * half:.1f} points there"
        return worth if self.trials[place] else f"{worth}, as losses like it show"

    def _doubts(self) -> list[str]:
        doubts = []
        if self.question.encoder not in self.encoders:
            doubts.append(f"No case had the encoder {self.question.encoder}, only {', '.join(self.encoders)}")
        if self.novelty > 1:
            times = math.isfinite(self.novelty) and self.novelty >= _FAR
            far = f"{self.novelty:.1f} times as far as" if times else "farther than"
            doubts.append(f"It is unlike anything known: {far} the bank's own cases lie from each other")
        return doubts
