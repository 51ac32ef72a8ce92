"""What drawing a figure gives: the picture, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """A figure with its file's name; ``notes`` say what it shows or leaves out, a line each."""

    name: str
    figure: Figure
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A figure that cannot be drawn from these runs; ``reason`` says what is missing, and what to run."""

    name: str
    reason: str


def title_of(problem: tuple[str, ...]) -> str:
    """How figures and files call a problem.

    >>> title_of(("newsgroups", "raw", "textcnn"))
    'newsgroups-raw-textcnn'
    """
    return "-".join(problem)
