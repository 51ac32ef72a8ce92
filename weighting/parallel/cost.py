"""Cost of a step over several processes: what each sends and holds, which the tests compare with the real bytes."""

from __future__ import annotations

from dataclasses import dataclass

from lossrag.weighting.base import Needs


@dataclass(frozen=True)
class Traffic:
    """Of one process in one step, in bytes: ``sent``, and ``held`` for the gradient rows."""

    sent: float
    held: float


def traffic(needs: Needs, tasks: int, parameters: int, processes: int, split: str = "rows", entry: int = 4) -> Traffic:
    """Of a step of a method with these ``needs`` over T ``tasks``, d ``parameters`` of ``entry`` bytes and R processes,
    without what does not grow with d.

    A loss-reading method sums one gradient, 2 d (R - 1) / R. One that compares gradients exchanges T rows where rows
    of the batch are divided, d (R - 1) / R each, and ceil(T / R) of them where tasks are; as many again for the query
    side; and gathers the update, d (R - 1) / R.

    >>> from lossrag.weighting import MetaWeighting, Uniform
    >>> traffic(Uniform().needs, 4, 1000, 2).sent, traffic(MetaWeighting().needs, 4, 1000, 2).sent
    (4000.0, 18000.0)
    """
    part = entry * parameters * (processes - 1) / processes
    if not needs.rows:
        return Traffic(2 * part, 0.0)
    rounds = tasks if split == "rows" else -(-tasks // processes)
    sides = 1 if needs.hypergradient is None else 2
    return Traffic(part * (sides * rounds + 1), entry * tasks * parameters / processes)
