"""Picture of a scaling benchmark: cost against tasks, batch and parameters, with the floor drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from lossrag.errors import ConfigError
from lossrag.experiments.plotting import COLOURS, MARKERS, legend_below, new_panels, write_figure
from lossrag.files import read_json

AXES = {"tasks": "tasks T", "batch": "support rows per step, all tasks", "parameters": "trained parameters"}
Row = dict[str, Any]


def plot_costs(files: Sequence[Path], target: Path) -> None:
    """Draw the rows of ``lossrag benchmark scaling`` in these files as one PNG; raises ConfigError without any."""
    rows = [row for file in files for row in read_rows(file)]
    swept = [sweep for sweep in AXES if any(row.get("sweep") == sweep for row in rows)]
    if not swept:
        raise ConfigError(
            f"No rows of the subject scaling in {', '.join(map(str, files))}: "
            "write them with `lossrag benchmark scaling output=scaling.json`."
        )
    figure, grid = new_panels(len(swept), len(swept), 4.3 * len(swept), 4.1, sharey=True)
    figure.suptitle("A MetaWeighting step beside a uniform step: medians of paired ratios, bars: quartile distance")
    for axes, sweep in zip(grid, swept, strict=True):
        _panel(axes, sweep, [row for row in rows if row.get("sweep") == sweep])
    grid[0].set_ylim(bottom=0)  # shared, and fixed from here on: not before all panels are drawn
    legend_below(figure, 2)
    try:
        write_figure(figure, target, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot write output={target}: {error}") from None


def read_rows(file: Path) -> list[Row]:
    """The rows of a benchmark.json; raises ConfigError when it is none."""
    try:
        rows = read_json(file)
    except OSError as error:
        raise ConfigError(f"Cannot read {file}: {error}. Name files that `lossrag benchmark` wrote.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "ratio" in row for row in rows):
        raise ConfigError(f"{file} is no list of benchmark rows: name files that `lossrag benchmark` wrote.")
    return rows


def _panel(axes: Axes, sweep: str, rows: Sequence[Row]) -> None:
    for number, query in enumerate(dict.fromkeys(row["query"] for row in rows)):
        points = sorted((row for row in rows if row["query"] == query), key=lambda row: row[sweep])
        at = [row[sweep] for row in points]
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar(
            at,
            [row["ratio"] for row in points],
            # the spread is the distance of the quartiles, drawn around their median
            yerr=[row["spread"] / 2 for row in points],
            fmt=f"{MARKERS[number % len(MARKERS)]}-",
            color=colour,
            markersize=5,
            capsize=3,
            label=f"measured, {query}",
        )
        axes.plot(at, [row["floor"] for row in points], "--", color=colour, label=f"floor, {query}")
    ticks = sorted({row[sweep] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_xlabel(AXES[sweep])
    axes.set_ylabel("step time / uniform step time")
    axes.set_title(_held(sweep, rows), fontsize=9)
    axes.grid(alpha=0.25)


def _held(sweep: str, rows: Sequence[Row]) -> str:
    """The values that all points of the panel have in common."""
    units = {"tasks": "tasks", "batch": "rows", "parameters": "parameters"}
    values = {name: {row[name] for row in rows} for name in AXES if name != sweep}
    fixed = [f"{short(*distinct)} {units[name]}" for name, distinct in values.items() if len(distinct) == 1]
    return "at " + ", ".join(fixed) if fixed else ""


def short(value: float) -> str:
    """A number as a tick label.

    >>> short(64), short(1024), short(48192), short(2.5e6)
    ('64', '1024', '48k', '2.5M')
    """
    if value >= 1e6:
        return f"{value / 1e6:.1f}M"
    return f"{value / 1e3:.0f}k" if value >= 10_000 else f"{value:.0f}"
