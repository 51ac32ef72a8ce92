"""Experience: outcomes of whole trainings, with the contexts in which they were made.

A *case* is a task in a training: its source, encoder, size and trouble. It has *moments*, contexts of the task under
its reference loss at some share of the steps, and *outcomes*: the final score with a loss, less that with the reference
in a paired training (same start, same batches), a share of 1. A *trial* is one case with one loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lossrag.checks import check_choice, check_least, require
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.library.contract import TARGET_KINDS

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

TEXTS = ("source", "task", "encoder", "target_kind", "metric", "trouble", "version")
WHOLE = ("outputs", "samples", "steps", "seed")
REAL = ("reference", "strength")
"""Fields of a case by their kind."""
LONGEST_NAME = 200
LARGEST = 2**31 - 1
UNKNOWN = "unknown"
"""The trouble of a case of which nobody knows what was wrong with it."""


def is_name(text: object) -> bool:
    """True for a text that an experience may hold: printable, and not so long that a column of it fills the memory."""
    return isinstance(text, str) and len(text) <= LONGEST_NAME and text.isprintable()


@dataclass(frozen=True)
class Case:
    """A task in a training.

    source: the suite or data set. encoder: its kind (``mlp``, ``textcnn``, ``bert``, ``bert_frozen``, or one's own).
    outputs: classes, or values of a regression. samples: support rows. steps: of the training.
    trouble: what was wrong with the training labels (``clean``, ``symmetric``, ``pair``, ``imbalance``, ``both``,
        ``outliers`` ...), ``unknown`` where nobody knows; strength: a rate, or a ratio of class sizes; not a number
        where there is none.
    metric: of the scores. reference: the score of the reference loss. clean: scored on labels known to be right.
    """

    source: str
    task: str
    encoder: str
    target_kind: str
    outputs: int
    samples: int
    steps: int
    metric: str
    reference: float
    trouble: str = UNKNOWN
    strength: float = math.nan
    clean: bool = True
    seed: int = 0
    version: str = ""

    def __post_init__(self) -> None:
        check_choice(self, "target_kind", TARGET_KINDS)
        check_least(self, 1, "outputs", "samples", "steps", most=LARGEST)
        check_least(self, 0, "seed", most=LARGEST)
        require(math.isfinite(self.reference), self, "{reference} must be a finite score.")
        for name in TEXTS:
            text = f"{{{name}}} must be a printable text of at most {LONGEST_NAME} characters."
            require(is_name(getattr(self, name)), self, text)


@dataclass(frozen=True)
class Outcome:
    """Score of a loss less the reference's: ``gain``, and its standard ``error`` over ``repeats`` paired trainings; not
    a number for a single one."""

    gain: float
    error: float = math.nan
    repeats: int = 1

    def __post_init__(self) -> None:
        require(math.isfinite(self.gain), self, "{gain} must be finite: leave out what is not known.")
        unsure = math.isnan(self.error) or 0 <= self.error < math.inf
        require(unsure, self, f"{{error}} must be 0 or more, or not a number, got {self.error!r}.")
        check_least(self, 1, "repeats", most=LARGEST)


@dataclass(frozen=True, eq=False)
class CaseRecord:
    """A case with its moments, contexts (C,) by progress in [0, 1], and its outcomes by the names of the losses."""

    case: Case
    moments: Mapping[float, Floats]
    outcomes: Mapping[str, Outcome]


@dataclass(frozen=True, eq=False)
class Experience:
    """N cases, M moments and R outcomes in columns; immutable.

    names: the texts that columns of int32 point into, by column. columns: (N,) of every field of :class:`Case`.
    moment_case (M,), progress (M,), contexts (M, C); outcome_case (R,), outcome_loss (R,), gain (R,), error (R,),
    repeats (R,). Every gain is finite: what nobody knows is not there.
    """

    names: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict.fromkeys((*TEXTS, "loss"), ()))
    columns: Mapping[str, NDArray[np.generic]] = field(
        default_factory=lambda: {
            **dict.fromkeys((*TEXTS, *WHOLE), np.zeros(0, np.int32)),
            **dict.fromkeys(REAL, np.zeros(0, np.float32)),
            "clean": np.zeros(0, np.bool_),
        }
    )
    moment_case: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    progress: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    contexts: Floats = field(default_factory=lambda: np.zeros((0, len(CONTEXT_NAMES)), np.float32))
    outcome_case: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    outcome_loss: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    gain: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    error: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    repeats: Ints = field(default_factory=lambda: np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.columns["seed"])

    @staticmethod
    def of(records: Iterable[CaseRecord]) -> Experience:
        """Columns of these records; a case without moments or outcomes is left out. Raises OptionError for a context
        of another size or with numbers that are not finite, and for a progress outside [0, 1]."""
        kept = [record for record in records if record.moments and record.outcomes]
        for record in kept:
            for progress, context in record.moments.items():
                require(0 <= progress <= 1, record, f"{{moments}} lie in [0, 1], got one at {progress!r}.")
                fits = context.shape == (len(CONTEXT_NAMES),) and bool(np.isfinite(context).all())
                require(fits, record, "{moments} hold contexts of another size, or numbers that are not finite.")
            for loss in record.outcomes:
                require(is_name(loss), record, f"{{outcomes}} are called by printable, short names, got {loss!r:.50}.")
        tables: dict[str, dict[str, int]] = {name: {} for name in (*TEXTS, "loss")}

        def number(table: str, text: str) -> int:
            return tables[table].setdefault(text, len(tables[table]))

        cases = [record.case for record in kept]
        columns: dict[str, NDArray[np.generic]] = {
            name: np.array([number(name, getattr(case, name)) for case in cases], np.int32) for name in TEXTS
        }
        columns |= {name: np.array([getattr(case, name) for case in cases], np.int32) for name in WHOLE}
        columns |= {name: np.array([getattr(case, name) for case in cases], np.float32) for name in REAL}
        columns["clean"] = np.array([case.clean for case in cases], np.bool_)
        moments = [(n, at, context) for n, record in enumerate(kept) for at, context in sorted(record.moments.items())]
        trials = [
            (n, number("loss", loss), outcome)
            for n, record in enumerate(kept)
            for loss, outcome in sorted(record.outcomes.items())
        ]
        contexts = [context for _, _, context in moments]
        return Experience(
            {name: tuple(table) for name, table in tables.items()},
            columns,
            np.array([n for n, _, _ in moments], np.int32),
            np.array([at for _, at, _ in moments], np.float32),
            np.array(contexts, np.float32).reshape(len(contexts), len(CONTEXT_NAMES)),
            np.array([n for n, _, _ in trials], np.int32),
            np.array([loss for _, loss, _ in trials], np.int32),
            np.array([outcome.gain for _, _, outcome in trials], np.float32),
            np.array([outcome.error for _, _, outcome in trials], np.float32),
            np.array([outcome.repeats for _, _, outcome in trials], np.int32),
        )

    def texts(self, column: str) -> NDArray[np.str_]:
        """(N,) the texts of a column, such as ``source``."""
        return np.array([*self.names[column], ""])[self.columns[column].astype(np.int64)]

    def case(self, number: int) -> Case:
        """The case of this number."""
        given = {name: self.names[name][self.columns[name].item(number)] for name in TEXTS}
        return Case(**given, **{name: self.columns[name].item(number) for name in (*WHOLE, *REAL, "clean")})

    def where(self, cases: NDArray[np.bool_]) -> Experience:
        """The cases (N,) that are true, with their moments and outcomes."""
        place = np.cumsum(cases, dtype=np.int32) - 1
        moments, trials = cases[self.moment_case], cases[self.outcome_case]
        return replace(
            self,
            columns={name: column[cases] for name, column in self.columns.items()},
            moment_case=place[self.moment_case[moments]],
            progress=self.progress[moments],
            contexts=self.contexts[moments],
            outcome_case=place[self.outcome_case[trials]],
            outcome_loss=self.outcome_loss[trials],
            gain=self.gain[trials],
            error=self.error[trials],
            repeats=self.repeats[trials],
        )

    def without(self, sources: Sequence[str]) -> Experience:
        """What was not learned on these sources."""
        return self.where(~np.isin(self.texts("source"), list(sources))) if sources else self

    def joined(self, other: Experience) -> Experience:
        """The cases of either, those of ``other`` last. A case that both have is there once, as the first has it, with
        the outcomes of both; a loss that both have tried there as the first has it."""
        if not len(self) or not len(other):
            return other if not len(self) else self
        known = {key: number for number, key in enumerate(self._keys())}
        new = np.array([key not in known for key in other._keys()], np.bool_)
        place = np.where(new, len(self) + np.cumsum(new) - 1, [known.get(key, 0) for key in other._keys()])
        names = {name: tuple(dict.fromkeys([*self.names[name], *other.names[name]])) for name in (*TEXTS, "loss")}

        def moved(table: str, column: NDArray[np.generic]) -> Ints:
            number = {text: i for i, text in enumerate(names[table])}
            return np.array([number[text] for text in other.names[table]] or [0], np.int32)[column.astype(np.int64)]

        columns = {
            name: np.concatenate([column, (moved(name, theirs) if name in TEXTS else theirs)[new]])
            for name, column in self.columns.items()
            for theirs in [other.columns[name]]
        }
        seen = new[other.moment_case]
        case, loss = place[other.outcome_case].astype(np.int32), moved("loss", other.outcome_loss)
        tried = set(zip(self.outcome_case.tolist(), self.outcome_loss.tolist(), strict=True))
        fresh = np.array([trial not in tried for trial in zip(case.tolist(), loss.tolist(), strict=True)], np.bool_)
        outcome_case = np.concatenate([self.outcome_case, case[fresh]])
        order = np.argsort(outcome_case, kind="stable")
        of_trials = {
            name: np.concatenate([getattr(self, name), getattr(other, name)[fresh]])[order]
            for name in ("gain", "error", "repeats")
        }
        return Experience(
            names,
            columns,
            moment_case=np.concatenate([self.moment_case, place[other.moment_case[seen]].astype(np.int32)]),
            progress=np.concatenate([self.progress, other.progress[seen]]),
            contexts=np.concatenate([self.contexts, other.contexts[seen]]),
            outcome_case=outcome_case[order],
            outcome_loss=np.concatenate([self.outcome_loss, loss[fresh]])[order],
            **of_trials,
        )

    def _keys(self) -> list[tuple[object, ...]]:
        """What tells cases apart."""
        texts = [self.texts(name).tolist() for name in ("source", "task", "encoder", "trouble")]
        numbers = [self.columns[name].tolist() for name in ("outputs", "samples", "steps", "seed", "reference")]
        return list(zip(*texts, *numbers, strict=True))
