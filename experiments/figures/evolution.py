"""Figures 8, 9, 12: how the weight of every task moves over training, a panel per method."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lossrag.experiments.plotting import COLOURS, LOOK, PAGE, STYLES, Drawing, Skipped, legend_below, new_panels
from lossrag.experiments.record.finished import LABELS, FinishedRun, by_method, by_problem, main_setting
from lossrag.schema import FINITE

STILL = ("STL", "Uniform", "Fixed", "AdvMTL")
"""Methods whose weights do not move."""
PAPER = ("uncertainty", "gradnorm", "mgda", "bandit_mtl", "metaweighting")
WINDOWS = 150
"""Longer series are averaged in so many windows: more cannot be told apart in print."""
MOST = len(COLOURS)
"""Tasks of a panel; a suite with more gets several columns of panels."""
Lines = tuple[list[float], list[list[float]]]
"""Epochs (n,), and the weights of every task over them (T lists of n)."""


def draw_weights(runs: Sequence[FinishedRun]) -> list[Drawing | Skipped]:
    """One figure per problem: thin lines are runs, thick ones their means."""
    drawn: list[Drawing | Skipped] = []
    for problem, group in by_problem(runs).items():
        name = f"weights-{'-'.join(problem)}"
        moving = {name: own for name, own in by_method(group).items() if name not in STILL}
        logged = [run for own in moving.values() for run in own if _weight_points(run)]
        methods = {name: main_setting(own)[0] for name, own in by_method(logged).items()}
        lacking = [method for method in PAPER if not _has(method, methods)]
        if not methods:
            reason = "no run of a method that moves its weights has logged them"
            drawn.append(Skipped(name, f"{reason}; run `lossrag train weighting=metaweighting`"))
            continue
        notes = ["runs: " + ", ".join(f"{method} {len(own)}" for method, own in methods.items())]
        if silent := sum(map(len, moving.values())) - len(logged):
            notes.append(f"left out: {silent} of {silent + len(logged)} runs that logged no weights")
        if lacking:
            commands = ", ".join(f"weighting={method}" for method in lacking)
            notes.append(f"no panel for {', '.join(LABELS[m] for m in lacking)}: run `lossrag train` with {commands}")
        drawn.append(Drawing(name, _figure(methods), tuple(notes)))
    return drawn


def _has(method: str, methods: dict[str, list[FinishedRun]]) -> bool:
    return LABELS[method] in methods or (method == "mgda" and LABELS["mgda_ub"] in methods)


def _figure(methods: dict[str, list[FinishedRun]]) -> Figure:
    tasks = next(iter(methods.values()))[0].tasks
    parts = -(-len(tasks) // MOST)
    size = -(-len(tasks) // parts)
    groups = [range(start, min(start + size, len(tasks))) for start in range(0, len(tasks), size)]
    columns = parts if parts > 1 else min(2, len(methods))
    panels = [(method, group) for method in methods for group in groups]
    with rc_context(LOOK):
        figure, grid = new_panels(len(panels), columns, PAGE, 1.6, 0.5, sharey="row" if parts > 1 else False)
        series = {method: [weights_over_epochs(run) for run in runs] for method, runs in methods.items()}
        for axes, (method, group) in zip(grid, panels, strict=True):
            _panel(axes, method, series[method], group, tasks)
        if parts == 1:
            legend_below(figure, _legend_columns(tasks, PAGE))
        for axes in grid[-parts:] if parts > 1 else ():
            across = _legend_columns(tasks, PAGE / parts)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.42), ncols=across, frameon=False)
    return figure


def _legend_columns(tasks: Sequence[str], width: float) -> int:
    """The number of names that fit side by side into so many inches: a line's sample, and .075 inches a letter."""
    return max(1, int(width / (0.55 + 0.075 * max(map(len, tasks)))))


def weights_over_epochs(run: FinishedRun) -> Lines:
    """The logged weights of a run, averaged in :data:`WINDOWS` windows if there are more."""
    points = _weight_points(run)
    scale = int(run.summary["epochs"]) / points[-1]["step"]
    width = -(-len(points) // WINDOWS)
    windows = [points[start : start + width] for start in range(0, len(points), width)]
    epochs = [scale * mean(point["step"] for point in window) for window in windows]
    return epochs, [[mean(point[f"weight/{task}"] for point in window) for window in windows] for task in run.tasks]


def _weight_points(run: FinishedRun) -> list[dict[str, Any]]:
    tags = [f"weight/{task}" for task in run.tasks]
    return [point for point in run.points if point["step"] and all(FINITE.holds(point.get(tag)) for tag in tags)]


def _panel(axes: Axes, method: str, runs: Sequence[Lines], group: range, tasks: Sequence[str]) -> None:
    length = min(len(epochs) for epochs, _ in runs)
    epochs = runs[0][0][:length]
    for place, t in enumerate(group):
        for own, weights in runs if len(runs) > 1 else ():
            axes.plot(own, weights[t], color=COLOURS[place], linewidth=0.4, alpha=0.4)
        middle = [mean(values) for values in zip(*(weights[t][:length] for _, weights in runs), strict=True)]
        axes.plot(epochs, middle, linestyle=STYLES[place], color=COLOURS[place], linewidth=1.2, label=tasks[t])
    axes.set_title(method)
    axes.set_xlabel("epoch")
    axes.set_ylabel("task weight")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.grid(alpha=0.4)
