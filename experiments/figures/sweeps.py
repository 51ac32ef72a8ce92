"""Figures 4 and 5: the mean test accuracy against rho and against alpha, a box of runs per value."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lossrag.experiments.plotting import COLOURS, COLUMN, GREY, LOOK, PAGE, Drawing, Skipped, new_panels
from lossrag.experiments.record.finished import FinishedRun
from lossrag.schema import FINITE

KEYS = {
    "rho": ("tasks.rho", "ρ: share of the training data held out as query"),
    "alpha": ("weighting.alpha", "α: step size of the task weights"),
}
COMMANDS = {
    "rho": "lossrag sweep key=tasks.rho values=[0.05,0.1,0.2]",
    "alpha": "lossrag sweep key=weighting.alpha values=[0.005,0.02,0.1]",
}
"""What makes the runs of a figure."""


def draw_sweep(name: str, runs: Sequence[FinishedRun]) -> list[Drawing | Skipped]:
    """One figure: a panel for every set of MetaWeighting runs that differ in this key and their seeds alone. Boxes are
    quartiles, the line in them the median, whiskers minimum and maximum, dots the runs."""
    key, label = KEYS[name]
    known = [run for run in runs if FINITE.holds(run.deciding.get(key))]  # a suite of one's own may have no rho
    scored = [run for run in known if run.summary["test_accuracy_mean"] is not None]
    sweeps = _sweeps(key, [run for run in scored if run.settings["weighting"]["name"] == "metaweighting"])
    if not sweeps:
        reason = f"no two runs of MetaWeighting differ in {key} and their seeds alone; run `{COMMANDS[name]}`"
        return [Skipped(name, reason)]
    columns = min(2, len(sweeps))
    with rc_context(LOOK):
        figure, grid = new_panels(len(sweeps), columns, PAGE if columns == 2 else COLUMN, 2.4)
        for axes, sweep in zip(grid, sweeps, strict=True):
            _panel(axes, sweep, label)
    notes = [f"{next(iter(sweep.values()))[0].method} on {_name(sweep)}: {_counts(sweep)}" for sweep in sweeps]
    return [Drawing(name, figure, tuple(notes))]


Sweep = dict[float, list[FinishedRun]]


def _sweeps(key: str, runs: Sequence[FinishedRun]) -> list[Sweep]:
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        rest = {name: value for name, value in run.deciding.items() if name != key}
        groups.setdefault(repr((run.problem, sorted(rest.items()))), []).append(run)
    sweeps = []
    for group in groups.values():
        values = sorted({float(run.deciding[key]) for run in group})
        if len(values) > 1:
            sweeps.append({value: [run for run in group if float(run.deciding[key]) == value] for value in values})
    return sorted(sweeps, key=_name)


def _panel(axes: Axes, sweep: Sweep, label: str) -> None:
    places = range(len(sweep))
    mixed = any(run.summary["test_r2"] for runs in sweep.values() for run in runs)
    scores = [[100 * float(run.summary["test_accuracy_mean"]) for run in runs] for runs in sweep.values()]
    axes.boxplot(
        scores,
        positions=list(places),
        widths=0.5,
        whis=(0, 100),
        medianprops={"color": COLOURS[1], "linewidth": 1.4},
        boxprops={"linewidth": 0.8},
        whiskerprops={"linewidth": 0.8},
        capprops={"linewidth": 0.8},
    )
    for place, values in zip(places, scores, strict=True):
        axes.plot([place] * len(values), values, ".", color=GREY, alpha=0.7, markersize=4, markeredgewidth=0)
    axes.set_xticks(list(places), [f"{value:g}" for value in sweep])
    axes.set_xlabel(label)
    axes.set_ylabel("mean test accuracy (%)" + (",\nclassification tasks" if mixed else ""))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_title(_name(sweep))
    axes.grid(axis="y", alpha=0.4)


def _name(sweep: Sweep) -> str:
    return ", ".join(next(iter(sweep.values()))[0].problem)


def _counts(sweep: Sweep) -> str:
    return "runs " + ", ".join(f"{len(runs)} at {value:g}" for value, runs in sweep.items())
