"""The bank as a run uses it: remembers what it sees, and predicts from all that is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from lossbank.bank import LossBank
from lossbank.memory import Memory
from lossbank.records import take
from lossbank.retrieval import KnnPredictor, TowerPredictor

FIT_STEPS = 100
"""Steps that the towers are fitted with before a review, from new ones: so they depend on the memory alone."""
FEWEST_MOMENTS = 8
"""Records per loss below which towers have too little to learn from; the nearest contexts answer instead."""


class BankRetriever:
    """Predicts with the nearest contexts (``knn``) or the two towers (``two_tower``) of ``bank``.

    run: the name under which this run's records are kept.
    """

    def __init__(self, bank: LossBank, kind: str, run: str, seed: int = 0) -> None:
        self.bank, self.kind, self.run, self.seed = bank, kind, run, seed
        self._predictor: KnnPredictor | TowerPredictor | None = None

    def remember(self, context: Tensor, names: Sequence[str], prices: Tensor, task: str, step: int) -> None:
        """Keep the prices (n,) that losses had in a context (C,)."""
        contexts = np.broadcast_to(context.cpu().numpy(), (len(names), len(context)))
        self.bank.memory.add(contexts, list(names), prices.cpu().numpy(), run=self.run, task=task, step=step)
        self._predictor = None

    def predict(self, task: str, context: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Mean and uncertainty (n,) of the prices to expect in ``context`` (C,)."""
        if self._predictor is None:
            self._predictor = self._fitted()
        found = self._predictor.predict(context.cpu(), names)
        return found.mean.double(), found.uncertainty.double()

    def _fitted(self) -> KnnPredictor | TowerPredictor:
        enough = len(self.bank.memory) >= FEWEST_MOMENTS * len(self.bank.names)
        if self.kind == "knn" or not enough:
            return self.bank.predictor("knn")
        self.bank.towers = None
        self.bank.fit(steps=FIT_STEPS, seed=self.seed)
        return self.bank.predictor("towers")

    def save(self, folder: Path) -> None:
        """Write the bank to ``folder``; a kill leaves the old one or the new one."""
        self.bank.save(folder)

    def resume(self, folder: Path, step: int) -> None:
        """Take the memory from ``folder`` as it was after ``step`` of this run, which may have gone on since.

        Raises BankError when there is no bank or it is damaged.
        """
        saved = LossBank.load(folder, self.bank.names).memory
        records = saved.records
        own = records.run == (records.runs.index(self.run) if self.run in records.runs else -1)
        kept = np.flatnonzero(~own | (records.step <= step))
        memory = Memory(saved.context_size, saved.embedding_version, saved.capacity)
        if len(kept):
            memory.extend(take(records, kept))
        self.bank.memory, self._predictor = memory, None


def starting_retriever(source: Path | None, kind: str, run: str, seed: int) -> BankRetriever:
    """A retriever over the bank in ``source``, or over an empty one, that offers all registered losses."""
    bank = LossBank.create() if source is None else LossBank.load(source)
    return BankRetriever(bank, kind, run, seed)
