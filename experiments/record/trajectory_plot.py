"""Trajectories of a run as one picture: losses, scores, task weights and lambda over its steps."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from matplotlib.axes import Axes

from lossrag.experiments.plotting import COLOURS, GREY, STYLES, legend_below, new_panels, write_png
from lossrag.experiments.record.jsonl import iter_points
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
    panels = [
        ("support loss", "support/loss/{task}"),
        ("query loss", "query/loss/{task}"),
        ("validation loss", "validation/loss/{task}"),
        ("validation score", "validation/{metric}/{task}"),
        ("task weight", "weight/{task}"),
        ("lambda (Frank-Wolfe)", "lambda/{task}"),
    ]
    series = _series(metrics, {_tag(pattern, task) for _, pattern in panels for task in tasks})
    drawn = [(title, pattern) for title, pattern in panels if _tag(pattern, tasks[0]) in series]
    columns = 3 if len(drawn) > 4 else 2
    figure, grid = new_panels(len(drawn), columns, 4.2 * columns, 3.1, 0.5)
    for axes, (title, pattern) in zip(grid, drawn, strict=True):
        _panel(axes, title, pattern, tasks, series)
        for number, task in enumerate(tasks):
            for step in (changes or {}).get(task.name, ()):
                axes.axvline(step, color=COLOURS[number % len(COLOURS)], linestyle=":", linewidth=1.0)
    if changes:
        grid[0].plot([], [], ":", color=GREY, label="its losses change")
    legend_below(figure, min(len(tasks), 7))
    write_png(figure, target)


def _tag(pattern: str, task: Task) -> str:
    return pattern.format(task=task.name, metric=task.metric)


def _series(metrics: Path, tags: Set[str]) -> dict[str, tuple[array[float], array[float]]]:
    """Steps and values of the logged series among the tags: those of a long run, not all that its lines say."""
    series: dict[str, tuple[array[float], array[float]]] = {}
    for point in iter_points(metrics):
        for tag in tags & point.keys():
            steps, values = series.setdefault(tag, (array("d"), array("d")))
            steps.append(point["step"])
            values.append(point[tag])
    return series


def _panel(
    axes: Axes,
    title: str,
    pattern: str,
    tasks: Sequence[Task],
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> None:
    for number, task in enumerate(tasks):
        steps, values = thinned(list(zip(*series.get(_tag(pattern, task), ((), ())), strict=True)))
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
