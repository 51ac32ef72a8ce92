"""Decisions about the losses of a run, as a report lists them: what entered, what left or was switched off, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lossrag.experiments.record.summary import sentence, share_text
from lossrag.experiments.report.reading import ReportedRun, is_number
from lossrag.lossbank import Event

MOST = 200
"""Decisions that a page lists for a run."""
WORDS = {
    "composed": "composed",
    "kept": "kept",
    "silent": "nothing alike",
    "off": "switched off",
    "retry": "let back",
}
"""What happened, in words, by kind of event."""
ABOUT_ONE = ("off", "retry")
"""Kinds of events that are about one loss."""


@dataclass(frozen=True)
class Decision:
    """what: in words. losses: that entered and left, or the one it is about. shares: what the task is made of then."""

    step: int
    task: str
    what: str
    losses: str
    shares: str
    why: str


def decisions(run: ReportedRun) -> list[Decision]:
    """Of a run, in the order of its steps."""
    before: dict[str, set[str]] = {}
    found = []
    for event in run.events:
        shares = _shares(event)
        losses = str(event.loss) if event.what in ABOUT_ONE else ""
        if event.what == "composed":
            losses = _difference(before.get(event.task, set()), set(shares))
        if shares:
            before[event.task] = set(shares)
        told = ", ".join(f"{name} {share_text(share)}" for name, share in shares.items())
        what = WORDS.get(event.what, str(event.what))
        found.append(Decision(event.step, event.task, what, losses, told, str(event.reason)))
    return found


def _difference(before: set[str], after: set[str]) -> str:
    """Losses that entered and left.

    >>> _difference({"mae", "brier"}, {"mae", "focal_2"})
    '+ focal_2; - brier'
    """
    signs = {"+": after - before, "-": before - after}
    return "; ".join(f"{sign} {', '.join(sorted(names))}" for sign, names in signs.items() if names)


def _shares(event: Event) -> dict[str, float]:
    shares: Mapping[str, float] = event.shares if isinstance(event.shares, Mapping) else {}
    return {str(name): share for name, share in shares.items() if is_number(share)}


def sentences(run: ReportedRun) -> list[str]:
    """What every task is made of at the end, a sentence each; none where no losses were composed."""
    summary = run.run.summary
    reasons = summary.get("reasons", {})
    return [
        sentence(task, shares, len(summary["off"][task]), str(reasons.get(task, "")))
        for task, shares in summary.get("compositions", {}).items()
    ]
