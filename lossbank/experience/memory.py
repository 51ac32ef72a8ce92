"""Memory of a bank: how much every loss contributed, in which context, over tasks and runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossrag.errors import ConfigError
from lossrag.lossbank.experience.moments import ContextSpace, Neighbours
from lossrag.lossbank.experience.records import Records, check_name, concatenate, make_records, no_records, take
from lossrag.lossbank.experience.retention import keep

MAX_CAPACITY = 10_000_000
MAX_CONTEXT = 1 << 20
_PENDING = 8192


class Memory:
    """At most ``capacity`` records of contexts (C,), C = ``context_size``, made by one version of the embedding.

    What it holds and answers is a function of the set of records it was given, not of their order or grouping;
    :func:`lossrag.lossbank.experience.retention.keep` says which ones stay. Adding is cheap; the first question after
    it sorts.

    Raises ConfigError for sizes out of range or a version that is not a printable name.

    >>> memory = Memory(2, "v1")
    >>> memory.add([[0.0, 1.0]] * 2, ["mae", "brier"], [0.5, -0.1], run="r", task="REC", step=0)
    >>> len(memory)
    2
    """

    def __init__(self, context_size: int, embedding_version: str, capacity: int = 100_000) -> None:
        check_name("version of the embedding", embedding_version)
        if not 1 <= context_size <= MAX_CONTEXT:
            raise ConfigError(f"A context has between 1 and {MAX_CONTEXT:,} numbers, got {context_size!r}.")
        if not 1 <= capacity <= MAX_CAPACITY:
            raise ConfigError(f"The capacity of a memory lies between 1 and {MAX_CAPACITY:,}, got {capacity!r}.")
        self.context_size = context_size
        self.embedding_version = embedding_version
        self.capacity = capacity
        self._kept = no_records(context_size)
        self._new: list[Records] = []
        self._waiting = 0
        self._space: ContextSpace | None = None

    def add(
        self,
        contexts: ArrayLike,
        losses: Sequence[str],
        contributions: ArrayLike,
        *,
        run: str | Sequence[str],
        task: str | Sequence[str],
        step: int | ArrayLike,
    ) -> None:
        """Remember that in ``contexts`` (n, C) the ``losses`` (n) made ``contributions`` (n,), in any one unit.

        The rest, and what raises ConfigError, is as in :func:`lossrag.lossbank.experience.records.make_records`.
        """
        self.extend(make_records(contexts, losses, contributions, run=run, task=task, step=step))

    def extend(self, records: Records) -> None:
        """Remember ``records``. Raises ConfigError when their contexts have another size."""
        if records.context.shape[1] != self.context_size:
            raise ConfigError(
                f"A context of this memory has {self.context_size} numbers, got {records.context.shape[1]}: "
                "use one set of features, or a memory of its own."
            )
        self._new.append(records)
        self._waiting += len(records)
        self._space = None
        if self._waiting > max(_PENDING, len(self._kept) // 4):
            self._settle()

    @property
    def records(self) -> Records:
        """The kept records, sorted by (task, run, step, loss)."""
        self._settle()
        return self._kept

    def __len__(self) -> int:
        return len(self.records)

    def nearest(self, context: ArrayLike, k: int) -> Neighbours:
        """The records of the k nearest moments; see :meth:`ContextSpace.nearest`."""
        if self._space is None:
            self._space = ContextSpace(self.records)
        return self._space.nearest(context, k)

    def only(self, rows: NDArray[np.int64]) -> Memory:
        """A memory like this one, of its records at ``rows`` alone."""
        result = Memory(self.context_size, self.embedding_version, self.capacity)
        result.extend(take(self.records, rows))
        return result

    def _settle(self) -> None:
        if self._new:
            self._kept = keep(concatenate([self._kept, *self._new]), self.capacity)
            self._new, self._waiting = [], 0


def merge(first: Memory, second: Memory) -> Memory:
    """A memory of what either holds; commutative, associative and idempotent. The smaller capacity holds.

    Raises ConfigError when the context sizes or the versions of the embedding differ.

    >>> a, b = Memory(1, "v1"), Memory(1, "v1")
    >>> a.add([[0.0]], ["mae"], [0.5], run="a", task="REC", step=0)
    >>> b.add([[1.0]], ["mae"], [0.1], run="b", task="REC", step=0)
    >>> merge(a, b).records.contribution.tolist()
    [0.5, 0.10000000149011612]
    """
    if first.embedding_version != second.embedding_version:
        raise ConfigError(
            f"Memories of the embeddings {first.embedding_version!r} and {second.embedding_version!r} do not merge: "
            "their contexts mean different things. Start from one of them."
        )
    result = Memory(first.context_size, first.embedding_version, min(first.capacity, second.capacity))
    for source in (first, second):
        result.extend(source.records)
    return result
