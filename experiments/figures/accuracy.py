"""Figures 2, 3, 10, 11: the test score of every method on every task, a cluster of runs each."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lossrag.experiments.plotting import COLOURS, LOOK, PAGE, Drawing, new_panels
from lossrag.experiments.record.finished import FinishedRun, by_method, by_problem, main_setting, varying
from lossrag.experiments.studies.statistics import interval

COLUMNS = 5
OWN = ("weighting.", "optimizer.", "model.sharing", "model.adversarial", "model.orthogonal", "model.penalty")
"""Settings that may differ between methods in a fair comparison."""
PERCENT = {"accuracy": "accuracy (%)", "macro_accuracy": "macro acc. (%)", "f1": "F1 (%)"}
"""Metrics that are written in percent."""


def draw_accuracy(runs: Sequence[FinishedRun]) -> list[Drawing]:
    """One figure per problem: a panel per task and one for the mean; points are runs, diamonds means, bars their 95 %
    intervals (Student's t, from two runs on)."""
    return [_draw(problem, group) for problem, group in by_problem(runs).items()]


def _draw(problem: tuple[str, ...], runs: list[FinishedRun]) -> Drawing:
    notes = []
    methods: dict[str, list[FinishedRun]] = {}
    for name, group in by_method(runs).items():
        methods[name], values, left_out = main_setting(group)
        if left_out:
            setting = ", ".join(f"{key}={value}" for key, value in values.items())
            notes.append(f"{name} is shown with {setting}; {left_out} runs with other values are left out")
    shown = [run for group in methods.values() for run in group]
    if odd := [key for key in varying(shown) if not key.startswith(OWN)]:
        notes.append(f"methods differ in {', '.join(odd)}")
    notes.append("runs: " + ", ".join(f"{name} {len(group)}" for name, group in methods.items()))
    panels = [*runs[0].tasks, "mean"]
    with rc_context(LOOK):
        columns, line = min(COLUMNS, len(panels)), 0.62 + 0.17 * len(methods)
        figure, grid = new_panels(len(panels), columns, PAGE, line, sharey=True)
        for axes, task in zip(grid, panels, strict=True):
            _panel(axes, task, methods)
    return Drawing(f"accuracy-{'-'.join(problem)}", figure, tuple(notes))


def _panel(axes: Axes, task: str, methods: dict[str, list[FinishedRun]]) -> None:
    metrics = next(iter(methods.values()))[0].summary["metric"]
    kinds = set(metrics.values()) if task == "mean" else {metrics[task]}
    percent = kinds <= PERCENT.keys()
    for row, runs in enumerate(methods.values()):
        values = [float(run.summary["test_score_mean"]) if task == "mean" else run.score(task) for run in runs]
        values = [100 * value for value in values] if percent else values
        colour = COLOURS[row % len(COLOURS)]
        # above the bar, on two levels, so that neither it nor a like value hides them
        spread = [row - 0.2 - 0.12 * (i % 2) for i in range(len(values))]
        axes.plot(values, spread, ".", color=colour, alpha=0.45, markersize=4, markeredgewidth=0)
        half = interval(values)["half"]
        if half is not None:
            axes.plot([mean(values) - half, mean(values) + half], [row, row], "-", color=colour, linewidth=1.4)
        axes.plot([mean(values)], [row], "D", color=colour, markersize=3.5)
    axes.set_title(task)
    axes.set_yticks(range(len(methods)), list(methods))
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, min_n_ticks=2))
    error = task != "mean" and next(iter(methods.values()))[0].lower_is_better(task)
    axes.set_xlabel(_unit(kinds) + (", less is better" if error else ""))
    axes.grid(axis="x", alpha=0.4)


def _unit(kinds: set[str]) -> str:
    if len(kinds) > 1:
        return "score"
    (kind,) = kinds
    return PERCENT.get(kind, "R²" if kind == "r2" else kind.replace("_", " "))
