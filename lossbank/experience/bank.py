"""Bank: the outcomes of whole trainings, asked for the moments that are most like one's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from lossrag.checks import check_least
from lossrag.errors import BankError, ConfigError, did_you_mean
from lossrag.lossbank.experience.coordinates import Likeness
from lossrag.lossbank.experience.files import load_experience, save_experience
from lossrag.lossbank.experience.neighbours import Moments, Neighbours, cases_by_encoder
from lossrag.lossbank.experience.outcomes import Borrowing, Outcomes
from lossrag.lossbank.experience.questions import Answer, Neighbour, Question
from lossrag.lossbank.experience.trials import CaseRecord, Experience, Floats

BUILTIN = Path(__file__).with_name("builtin.safetensors")
"""The bank that ships, made by one command; see docs/losses.md."""


@dataclass(frozen=True)
class Retrieval:
    """Way in which a bank answers: from ``neighbours`` found by their ``likeness``; ``borrowing`` between losses.

    Neighbours have the encoder that asks, where the bank has so many cases with it: the same trouble looks different to
    another encoder, and other losses are right for it. Else those with any encoder are asked.

    trainings: further neighbours are asked until so many paired trainings have made the outcomes of a loss; half of
        the cases at most. A case with one training a loss says less than one with three.
    """

    neighbours: int = 20
    trainings: int = 50
    likeness: Likeness = field(default_factory=Likeness)
    borrowing: Borrowing = field(default_factory=Borrowing)

    def __post_init__(self) -> None:
        check_least(self, 1, "neighbours", "trainings")

    def gathered(self, moments: Moments, point: Floats, repeats: NDArray[np.float64]) -> Neighbours:
        """The neighbours of a point (D,); repeats: (N,) trainings of each case."""
        most = max(self.neighbours, min(self.trainings, moments.count // 2))
        near = moments.nearest(point, most)
        made = np.searchsorted(repeats[near.cases].cumsum(), self.trainings - 1e-6) + 1
        return near.first(max(self.neighbours, int(made)))


class LossBank:
    """An experience that answers questions. Make one with :meth:`builtin` or :meth:`load`, or of an
    :class:`Experience`.

    exclude: sources that it is to know nothing of.

    Raises ConfigError for a source that is not in it.
    """

    def __init__(self, experience: Experience, exclude: Sequence[str] = (), retrieval: Retrieval | None = None) -> None:
        if isinstance(exclude, str):
            raise ConfigError(f"The sources to exclude are a list of names, not the string {exclude!r}.")
        known = set(experience.texts("source").tolist())
        for source in exclude if known else ():
            if source not in known:
                raise ConfigError(f"The bank knows no source {source!r} to exclude: {did_you_mean(source, known)}")
        self.excluded = tuple(exclude)
        self.retrieval = retrieval or Retrieval()
        self.experience = experience.without(exclude)
        self._moments: dict[tuple[str, str | None], Moments] = {}
        self._encoders: dict[str, dict[str, int]] = {}
        self._outcomes: Outcomes | None = None

    @classmethod
    def builtin(cls, exclude: Sequence[str] = ()) -> LossBank:
        """The bank that comes with the package, without the sources in ``exclude``.

        Raises BankError when this copy of the package has none.
        """
        if not BUILTIN.exists():
            raise BankError(
                f"This copy of LossRAG comes without a bank ({BUILTIN} is missing): install it again, make one with "
                "'lossrag bank collect builtin', or name a bank of your own."
            )
        return cls(load_experience(BUILTIN), exclude)

    @classmethod
    def load(cls, path: Path, exclude: Sequence[str] = ()) -> LossBank:
        """The bank of a file, without the sources in ``exclude``; raises BankError as
        :func:`lossrag.lossbank.experience.files.load_experience`."""
        return cls(load_experience(path), exclude)

    def save(self, path: Path) -> None:
        """Write it to ``path`` in place of the bank that may be there; to add to that one, use
        :func:`lossrag.lossbank.experience.files.add_experience`.

        Raises BankError when it was made without some sources, which would be lost, and when it cannot be written.
        """
        if self.excluded:
            raise BankError(
                f"This bank was made without {', '.join(self.excluded)}: saved, it would lose them. Load it whole."
            )
        save_experience(path, self.experience)

    def add(self, records: Iterable[CaseRecord]) -> None:
        """Know these cases as well, from the next question on, in memory alone; those of excluded sources are left
        out."""
        self.experience = self.experience.joined(Experience.of(records).without(self.excluded))
        self._moments = {key: space for key, space in self._moments.items() if space.grown(self.experience)}
        self._outcomes, self._encoders = None, {}

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources it knows, sorted."""
        return tuple(sorted(set(self.experience.texts("source").tolist())))

    def moments(self, target_kind: str, encoder: str | None = None) -> Moments:
        """The moments of tasks with such targets, of all encoders or of one."""
        key = target_kind, encoder
        if key not in self._moments:
            self._moments[key] = Moments(self.experience, target_kind, self.retrieval.likeness, encoder)
        return self._moments[key]

    def ask(self, question: Question) -> Answer:
        """What the losses on offer may be expected to gain at such a moment. A bank that knows nothing of such tasks
        answers with means of 0 and the largest errors there are, 1."""
        kind = question.target_kind
        if kind not in self._encoders:
            self._encoders[kind] = cases_by_encoder(self.experience, kind)
        cases = self._encoders[kind]
        if not cases:
            nothing = np.zeros(len(question.losses))
            return Answer(question, nothing, nothing + 1, nothing.astype(np.int64), (), float("inf"), ())
        enough = cases.get(question.encoder, 0) >= self.retrieval.neighbours
        moments = self.moments(kind, question.encoder if enough else None)
        if self._outcomes is None:
            self._outcomes = Outcomes(self.experience, self.retrieval.borrowing)
        context = np.asarray(question.context, np.float32)
        point = moments.point(context, question.progress, question.encoder)
        near = self.retrieval.gathered(moments, point, self._outcomes.repeats)
        expected = self._outcomes.expected(near.cases, question.losses, question.target_kind)
        told = _Told(self.experience, near.cases.tolist(), near.distances.tolist())
        novelty = moments.novelty(near.first(self.retrieval.neighbours))
        return Answer(question, expected.mean, expected.error, expected.trials, told, novelty, tuple(cases))


class _Told(Sequence[Neighbour]):
    """Neighbours that are read when somebody wants to know: that takes longer than finding them."""

    def __init__(self, experience: Experience, cases: Sequence[int], distances: Sequence[float]) -> None:
        self._experience, self._cases, self._distances = experience, cases, distances

    def __len__(self) -> int:
        return len(self._cases)

    @overload
    def __getitem__(self, place: int) -> Neighbour: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Neighbour]: ...
    def __getitem__(self, place: int | slice) -> Neighbour | Sequence[Neighbour]:
        if isinstance(place, slice):
            return _Told(self._experience, self._cases[place], self._distances[place])
        return Neighbour(self._experience.case(self._cases[place]), self._distances[place])
