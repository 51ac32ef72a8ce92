"""What a composer tells of its decisions, and whom it asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Event:
    """A loss that was retrieved, dropped or switched off for a task at a step, and why."""

    step: int
    task: str
    loss: str
    what: str
    reason: str


class Retriever(Protocol):
    """Predicts contributions from what is remembered."""

    def remember(self, context: Tensor, names: Sequence[str], prices: Tensor, task: str, step: int) -> None:
        """Keep the prices (n,) that losses had in a context (C,)."""

    def predict(self, task: str, context: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Mean and uncertainty (n,) of the prices to expect."""
