"""Event: a decision of the composer, with what it was decided by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """A decision about a task at a step, and why.

    what: ``composed`` (its losses have changed) or ``kept`` after a question to the bank, ``silent`` where the bank
        knows nothing like it, ``ranked``; ``off`` and ``retry`` for a loss that evidence has switched off or let back,
        ``off`` also for one that raises, or whose values or gradients are no finite numbers, which never comes back.
    loss: the one it is about, or the largest of the composition.
    neighbours: the cases of the bank that decided, nearest first, with what is known of each.
    shares: what the task is made of after a question, largest share first.
    """

    step: int
    task: str
    loss: str
    what: str
    reason: str
    neighbours: tuple[Mapping[str, Any], ...] = ()
    shares: Mapping[str, float] = field(default_factory=dict)
