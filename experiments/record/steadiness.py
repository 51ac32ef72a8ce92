"""Steadiness of compositions: when a bank first made one, and how far they went from those at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from lossrag.experiments.record.series import logged_shares
from lossrag.lossbank import Event

Shares = Mapping[str, float]


def steadiness(
    answers: Sequence[Event], points: Iterable[Mapping[str, Any]], final: Mapping[str, Shares], steps: int
) -> dict[str, Any]:
    """The entry of summary.json on a run of so many steps, from what its questions to a bank ended in, its logged
    points, and what its tasks are made of at the end.

    asked_at, composed_at: shares of the training after which the bank was first asked in it, and first composed a loss;
    None where that never was. moved: by task, the largest total variation, in [0, 1], between what it was made of at
    any time from the first question in training on and what it is made of at the end.
    """
    asked = min((event.step for event in answers if event.step), default=None)
    composed = min((event.step for event in answers if event.what == "composed"), default=None)
    moved = {}
    if asked is not None:
        told = ((event.step, event.task, event.shares) for event in answers)
        seen = ((point["step"], task, own) for point in points for task, own in logged_shares(point).items())
        moved = dict.fromkeys(final, 0.0)
        for step, task, own in chain(told, seen):
            if task in moved and step >= asked:
                moved[task] = max(moved[task], variation(own, final[task]))
    shares = {"asked_at": asked, "composed_at": composed}
    return {**{key: None if step is None else step / steps for key, step in shares.items()}, "moved": moved}


def variation(shares: Shares, other: Shares) -> float:
    """Total variation of two compositions, in [0, 1]. What ``shares`` do not name, as a log leaves out what is small,
    is taken to be like the other's: so this is never more than the truth.

    >>> variation({"mae": 0.75, "brier": 0.25}, {"mae": 0.5, "l1": 0.5})
    0.5
    >>> variation({"mae": 0.5}, {"mae": 0.5, "l1": 0.5})
    0.0
    """
    rest = max(1 - sum(shares.values()), 0.0), sum(share for name, share in other.items() if name not in shares)
    apart = sum(abs(share - other.get(name, 0.0)) for name, share in shares.items()) + abs(rest[0] - rest[1])
    return min(apart / 2, 1.0)


def steady_sentence(steady: Mapping[str, Any], sources: Sequence[str]) -> str:
    """A line on the bank's part in a run: which sources answered, and whether what they said held.

    >>> steady_sentence({"asked_at": 0.05, "composed_at": 0.05, "moved": {"A": 0.02, "B": 0.13}}, ["digits", "iris"])
    'bank: digits, iris answered; first composition after 5 % of the steps; from 5 % on within .13 of the last (B)'
    """
    parts = [f"{', '.join(sources)} answered" if sources else "no case answered"]
    if steady["composed_at"] is None:
        parts.append("no composition")
    else:
        parts.append(f"first composition after {100 * steady['composed_at']:.0f} % of the steps")
        if steady["moved"]:
            task = max(steady["moved"], key=steady["moved"].__getitem__)
            far = f"{steady['moved'][task]:.2f}".removeprefix("0")
            parts.append(f"from {100 * steady['asked_at']:.0f} % on within {far} of the last ({task})")
    return f"bank: {'; '.join(parts)}"
