"""Palette, sizes and panels of all figures, and the look of those for print: 8-point text, one or two columns wide.

No pyplot: a figure is an object of its own, and nothing of it is global.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from lossrag.proof import replace_proven

COLUMN, PAGE = 3.3, 7.0
"""Widths in inches: one column of a two-column page, and both."""
SCREEN = 130
"""Dots per inch of a figure for the screen."""
# Okabe and Ito's palette, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of lines and points: without yellow, which thin lines on white do not show."""
AREAS = (*COLOURS[:-1], "#F0E442")
"""Colours of areas: yellow in the place of black, which is left for text."""
GREY, LIGHT_GREY = "#777777", "#BBBBBB"
STYLES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)))
"""One per colour, so that lines differ in grey, too."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")

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
    """An empty figure of so many inches; one for print is made and filled inside ``rc_context(LOOK)``."""
    return Figure(figsize=(width, height), layout="constrained")


def new_panels(
    number: int, columns: int, width: float, line: float, below: float = 0, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels in so many columns; ``line`` and ``below`` are the heights of a line of panels and of
    what stands under them, in inches; ``options`` are those of ``Figure.subplots``."""
    lines = -(-number // columns)
    figure = new_figure(width, line * lines + below)
    every = list(figure.subplots(lines, columns, squeeze=False, **options).flat)
    for axes in every[number:]:
        axes.set_visible(False)
    return figure, every[:number]


def legend_below(figure: Figure, columns: int, title: str | None = None) -> None:
    """One legend under all panels with every label of any of them, in so many columns, or fewer where they would be
    wider than the figure."""
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    for number in range(columns, 0, -1):
        legend = figure.legend(
            handles.values(), handles, loc="outside lower center", ncols=number, frameon=False, title=title
        )
        if number == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def rendered(figure: Figure) -> NDArray[np.uint8]:
    """Pixels (H, W, 4) of a figure for the screen. Drawing is dear: several uses of a figure share them."""
    figure.set_dpi(SCREEN)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def write_png(figure: Figure, path: Path) -> NDArray[np.uint8]:
    """Write a figure for the screen; its pixels (H, W, 4)."""
    pixels = rendered(figure)
    buffer = io.BytesIO()
    imsave(buffer, pixels, dpi=SCREEN, format="png")
    replace_proven(path, buffer.getvalue())
    return pixels


def write_figure(figure: Figure, path: Path, **options: Any) -> None:
    """Write a figure in the format that the name ends with, PNG where it says nothing; ``options`` of ``savefig``.

    Raises OSError, and ValueError for a format that there is not.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix(".").lower() or "png", **options)
    replace_proven(path, buffer.getvalue())


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png (300 dpi) and NAME.pdf; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    with rc_context(LOOK):
        write_figure(figure, paths[0], dpi=300)
        write_figure(figure, paths[1], metadata={"CreationDate": None})
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
