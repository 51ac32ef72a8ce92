"""Bank: the losses on offer, their geometry, what is remembered of them, and the towers that learnt from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from lossrag.errors import BankError, ConfigError, did_you_mean
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.embedding import EMBEDDING_VERSION, VECTOR_SIZE, loss_vectors
from lossrag.lossbank.experience.memory import Memory
from lossrag.lossbank.experience.memory import merge as merge_memories
from lossrag.lossbank.experience.predictors import KnnPredictor, TowerPredictor
from lossrag.lossbank.experience.storage import load_files, save_memory
from lossrag.lossbank.experience.topk import exact_top_k, flat_index, unit_rows
from lossrag.lossbank.experience.towers import FitReport, Towers
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.library.registration import LOSSES
from lossrag.lossbank.shape.geometry import geometry_vectors

FIT_STEPS = 100
"""Steps that the towers are fitted with before a review, from new ones: so they depend on the memory alone."""
FEWEST_MOMENTS = 8
"""Records per loss below which towers have too little to learn from; the nearest contexts answer instead."""


class LossBank:
    """Losses by name, their geometries, a :class:`Memory` of what they did, and :class:`Towers` or None.

    A loss that is in the memory but not registered here stays in the memory and is not offered; one that is
    registered but not in the memory is offered through its geometry. Make one with :meth:`create` or :meth:`load`.

    >>> bank = LossBank.create(["mae", "one_minus_p", "cross_entropy"])
    >>> bank.neighbours("mae", 1)
    [('one_minus_p', 1.0)]
    """

    def __init__(self, names: Sequence[str], memory: Memory, towers: Towers | None = None) -> None:
        if memory.embedding_version != EMBEDDING_VERSION or memory.context_size != len(CONTEXT_NAMES):
            raise ConfigError(
                f"A bank takes a memory of version {EMBEDDING_VERSION!r} and contexts of {len(CONTEXT_NAMES)} numbers, "
                f"got {memory.embedding_version!r} with {memory.context_size}: start with an empty one."
            )
        twice = sorted(name for name in set(names) if list(names).count(name) > 1)
        if twice:
            raise ConfigError(f"The loss {twice[0]!r} comes twice: give each name once.")
        self.losses: dict[str, Loss] = {name: LOSSES[name] for name in names}
        self._geometry = geometry_vectors(list(self.losses.values()))
        self.memory = memory
        self.towers = towers

    @classmethod
    def create(cls, names: Sequence[str] | None = None, *, capacity: int = 100_000) -> LossBank:
        """An empty bank that offers the losses ``names``, all that are registered when None.

        Raises ConfigError for a name that is not registered or comes twice, and for a capacity out of range.
        """
        return cls(_offered(names), Memory(len(CONTEXT_NAMES), EMBEDDING_VERSION, capacity))

    @property
    def names(self) -> tuple[str, ...]:
        """The losses on offer, sorted."""
        return tuple(sorted(self.losses))

    def geometries(self) -> dict[str, Tensor]:
        """The geometry (G,) of every loss on offer, of length 1."""
        return dict(zip(self.losses, self._geometry.unbind(), strict=True))

    def vectors(self) -> dict[str, Tensor]:
        """The embedding (E,) of every loss on offer; see :func:`lossrag.lossbank.experience.embedding.loss_vectors`."""
        rows = loss_vectors(list(self.losses.values()), self.memory)
        return dict(zip(self.losses, rows.unbind(), strict=True))

    def neighbours(self, name: str, k: int) -> list[tuple[str, float]]:
        """The min(k, others) losses of the same target kind whose geometry is nearest, with cosines, best first.

        Raises ConfigError for a loss that is not on offer, or k < 1.
        """
        if name not in self.losses:
            raise ConfigError(f"The bank offers no {name!r}: {did_you_mean(name, self.losses)}")
        if k < 1:
            raise ConfigError(f"The number of neighbours is a whole number from 1 up, not {k!r}.")
        kind, shapes = self.losses[name].target_kind, self.geometries()
        others = [other for other in self.names if other != name and self.losses[other].target_kind == kind]
        if not others:
            return []
        rows = unit_rows(np.stack([shapes[loss].double().numpy() for loss in (*others, name)]))
        places, cosines = exact_top_k(flat_index(rows[:-1]), rows[:-1], rows[-1], k)
        return [(others[place], float(cosine)) for place, cosine in zip(places, cosines, strict=True)]

    def fit(self, *, steps: int = 200, seed: int = 0) -> FitReport:
        """Fit the towers to the memory, from where they are, or new ones; see :meth:`Towers.fit`."""
        if self.towers is None:
            self.towers = Towers(len(CONTEXT_NAMES), VECTOR_SIZE, seed=seed)
        return self.towers.fit(self.memory, self.vectors(), steps=steps, seed=seed)

    def predictor(self, kind: Literal["knn", "towers"] = "knn") -> KnnPredictor | TowerPredictor:
        """A predictor of contributions from the bank as it is now; make a new one after a fit.

        Raises ConfigError for another kind, or for "towers" before the first :meth:`fit`.
        """
        if kind == "knn":
            return KnnPredictor(self.memory, self.geometries())
        if kind != "towers":
            raise ConfigError(f"A predictor is 'knn' or 'towers', got {kind!r}.")
        if self.towers is None:
            raise ConfigError("This bank has no towers: call fit() first, or ask for the predictor 'knn'.")
        return TowerPredictor(self.towers, self.vectors())

    def save(self, folder: Path) -> None:
        """Write memory and towers to ``folder`` in one step: a crash leaves the old bank or the new one.

        Which losses are on offer is not saved: the next program may have others. Raises BankError as
        :func:`lossrag.lossbank.experience.storage.save_memory`.
        """
        save_memory(self.memory, folder, None if self.towers is None else self.towers.state_dict())

    @classmethod
    def load(cls, folder: Path, names: Sequence[str] | None = None) -> LossBank:
        """The bank of ``folder``, offering the losses ``names``, all that are registered when None.

        Raises BankError when there is none, when it is damaged, or was made by another version of the embedding.
        """
        memory, state = load_files(folder, EMBEDDING_VERSION)
        if memory.context_size != len(CONTEXT_NAMES):
            raise BankError(
                f"The bank {folder} has contexts of {memory.context_size} numbers, this program has "
                f"{len(CONTEXT_NAMES)}: name another folder, or start with an empty bank."
            )
        return cls(_offered(names), memory, _towers(folder, state) if state else None)


def merge(first: LossBank, second: LossBank) -> LossBank:
    """A bank with the records and the losses of either; commutative.

    The towers are dropped, as two of them have no sum: :meth:`LossBank.fit` makes new ones from all records.
    """
    names = sorted({*first.losses, *second.losses})
    return LossBank(names, merge_memories(first.memory, second.memory))


def check(folder: Path) -> list[str]:
    """Findings about the bank in ``folder`` that a person should know, a line each; nothing is changed.

    A bank that cannot be read at all is a finding too, not an error; an empty list means that all is well.
    """
    try:
        bank = LossBank.load(folder)
    except BankError as error:
        return [str(error)]
    records = bank.memory.records
    findings = []
    strangers = [name for name in records.losses if name not in bank.losses]
    if strangers:
        findings.append(f"Not registered here, so kept but not offered: {', '.join(strangers)}.")
    untried = [name for name in bank.names if name not in records.losses]
    if untried:
        findings.append(f"Without history, so offered through geometry alone: {', '.join(untried)}.")
    if len(records) >= bank.memory.capacity:
        findings.append(f"The memory is full ({len(records):,} records): older ones give way to new ones.")
    outside = int((abs(records.contribution) > 1).sum())
    if outside:
        findings.append(f"{outside:,} of {len(records):,} contributions are outside [-1, 1] and will be clamped.")
    if bank.towers is None or not bank.towers.fitted:
        findings.append("There are no fitted towers: call fit(), or use the predictor 'knn'.")
    return findings


def _offered(names: Sequence[str] | None) -> list[str]:
    if isinstance(names, str):
        raise ConfigError(f"The losses of a bank are a list of names, not the string {names!r}.")
    return sorted(LOSSES) if names is None else list(names)


def _towers(folder: Path, state: Mapping[str, Tensor]) -> Towers:
    try:
        members, inputs, hidden = state["context_first"].shape
        joint = state["context_last"].shape[2] - 1
        towers = Towers(inputs, state["loss_first"].shape[1], members=members, hidden=hidden, joint=joint)
        if (inputs, towers.shape.loss) != (len(CONTEXT_NAMES), VECTOR_SIZE):
            raise ValueError(f"towers for {inputs} and {towers.shape.loss} numbers")
        towers.load_state_dict(state)
    except (BankError, ConfigError, KeyError, ValueError, IndexError) as error:
        raise BankError(
            f"The towers in {folder} are damaged ({error}): restore the bank from a copy, or name another folder."
        ) from error
    return towers


class BankRetriever:
    """Predicts with the nearest contexts (``knn``) or the two towers (``two_tower``) of ``bank``.

    run: the name under which this run's records are kept.
    """

    def __init__(self, bank: LossBank, kind: str, run: str, seed: int = 0) -> None:
        self.bank, self.kind, self.run, self.seed = bank, kind, run, seed
        self._predictor: KnnPredictor | TowerPredictor | None = None

    def remember(self, context: Tensor, names: Sequence[str], contributions: Tensor, task: str, step: int) -> None:
        """Keep the contributions (n,) that losses made in a context (C,)."""
        contexts = np.broadcast_to(context.cpu().numpy(), (len(names), len(context)))
        self.bank.memory.add(contexts, list(names), contributions.cpu().numpy(), run=self.run, task=task, step=step)
        self._predictor = None

    def predict(self, task: str, context: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Mean and uncertainty (n,) of the contributions to expect in ``context`` (C,)."""
        if self._predictor is None:
            self._predictor = self._fitted()
        prediction = self._predictor.predict(context.cpu(), names)
        return prediction.mean.double(), prediction.uncertainty.double()

    def _fitted(self) -> KnnPredictor | TowerPredictor:
        enough = len(self.bank.memory) >= FEWEST_MOMENTS * len(self.bank.names)
        if self.kind == "knn" or not enough:
            return self.bank.predictor("knn")
        self.bank.towers = None
        self.bank.fit(steps=FIT_STEPS, seed=self.seed)
        return self.bank.predictor("towers")

    def resume(self, folder: Path, step: int) -> None:
        """Take the memory from ``folder`` as it was after ``step`` of this run, which may have gone on since.

        Raises BankError when there is no bank or it is damaged.
        """
        saved = LossBank.load(folder, self.bank.names).memory
        records = saved.records
        own = records.run == (records.runs.index(self.run) if self.run in records.runs else -1)
        kept = np.flatnonzero(~own | (records.step <= step))
        self.bank.memory, self._predictor = saved.only(kept), None
