"""The look of all figures: sizes of a printed page, 8-point text, colours that the colour-blind can tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

COLUMN, PAGE = 3.3, 7.0
"""Widths in inches: one column of a two-column page, and both."""
# Okabe and Ito's palette without its yellow, which thin lines on white do not show.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)))
"""One per colour, so that lines differ in grey, too."""
GREY = "#777777"

LOOK: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # text stays text
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches; to be made and filled inside ``rc_context(LOOK)``."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png (300 dpi) and NAME.pdf; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    with rc_context(LOOK):
        figure.savefig(paths[0], dpi=300)
        figure.savefig(paths[1], metadata={"CreationDate": None})
    return paths


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
    """Name of a problem in figures and files.

    >>> title_of(("newsgroups", "raw", "textcnn"))
    'newsgroups-raw-textcnn'
    """
    return "-".join(problem)
