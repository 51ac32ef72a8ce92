"""Trajectories of a run as one picture: losses, scores, task weights and lambda over its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from lossrag.experiments.plotting import COLOURS, GREY, STYLES, legend_below, new_panels, write_png
from lossrag.experiments.record.jsonl import read_points
from lossrag.tasks import Task

SMOOTHING = 20
"""Points that the running mean over a long series looks back on."""
MAX_POINTS = 400
"""Longer series are averaged in so many windows."""


def plot_trajectories(
    metrics: Path, tasks: Sequence[Task], target: Path, changes: Mapping[str, Sequence[int]] | None = None
) -> None:
    """Draw metrics.jsonl of a run as one PNG with a panel per quantity and a line per task.

    changes: by task the steps after which its losses changed, which are marked.
    """
    points = read_points(metrics)
    panels = [
        ("support loss", "support/loss/{task}"),
        ("query loss", "query/loss/{task}"),
        ("validation loss", "validation/loss/{task}"),
        ("validation score", "validation/{metric}/{task}"),
        ("task weight", "weight/{task}"),
        ("lambda (Frank-Wolfe)", "lambda/{task}"),
    ]
    drawn = [(title, pattern) for title, pattern in panels if any(_tag(pattern, tasks[0]) in p for p in points)]
    columns = 3 if len(drawn) > 4 else 2
    figure, grid = new_panels(len(drawn), columns, 4.2 * columns, 3.1, 0.5)
    for axes, (title, pattern) in zip(grid, drawn, strict=True):
        _panel(axes, title, pattern, tasks, points)
        for number, task in enumerate(tasks):
            for step in (changes or {}).get(task.name, ()):
                axes.axvline(step, color=COLOURS[number % len(COLOURS)], linestyle=":", linewidth=1.0)
    if changes:
        grid[0].plot([], [], ":", color=GREY, label="its losses change")
    legend_below(figure, min(len(tasks), 7))
    write_png(figure, target)


def _tag(pattern: str, task: Task) -> str:
    return pattern.format(task=task.name, metric=task.metric)


def _panel(axes: Axes, title: str, pattern: str, tasks: Sequence[Task], points: list[dict[str, Any]]) -> None:
    for number, task in enumerate(tasks):
        tag = _tag(pattern, task)
        steps, values = thinned([(p["step"], p[tag]) for p in points if tag in p])
        colour = COLOURS[number % len(COLOURS)]
        # line styles take over when there are more tasks than colours
        style = STYLES[number // len(COLOURS) % len(STYLES)]
        if len(values) > 2 * SMOOTHING:
            # the raw line stays visible behind its running mean
            axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
            values = running_mean(values)
        axes.plot(steps, values, linestyle=style, color=colour, label=task.name, linewidth=1.5)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)


def thinned(series: Sequence[tuple[float, float]], most: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """Steps and values of a series, a longer one averaged in at most so many windows.

    >>> thinned([(1, 0.0), (2, 1.0), (3, 4.0)], most=2)
    ([1.5, 3.0], [0.5, 4.0])
    """
    width = max(1, -(-len(series) // most))
    windows = [series[start : start + width] for start in range(0, len(series), width)]
    means = [tuple(sum(column) / len(window) for column in zip(*window, strict=True)) for window in windows]
    return [step for step, _ in means], [value for _, value in means]


def running_mean(values: Sequence[float], width: int = SMOOTHING) -> list[float]:
    """The mean of every value and those before it, so many in all.

    >>> running_mean([1.0, 3.0, 5.0], width=2)
    [1.0, 2.0, 4.0]
    """
    windows = (values[max(0, end - width) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]
