"""Figures 1, 6, 7: support, query and test loss of every task under uniform weights, as radar charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean
from typing import cast

from matplotlib import rc_context
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator

from lossrag.errors import ConfigError
from lossrag.experiments.plotting import COLOURS, LOOK, PAGE, STYLES, Drawing, Skipped, legend_below, new_panels
from lossrag.experiments.record.finished import FinishedRun, by_problem, main_setting
from lossrag.schema import FINITE

SPLITS = ("support", "query", "validation", "test")
HINT = "lossrag train weighting=uniform train.query_for_baselines=support"
SHORT = 5
"""Letters of the longest name that fits around four charts in a row; else there are two."""
Losses = dict[str, list[float]]
"""By split: the loss of every task."""


def draw_gaps(runs: Sequence[FinishedRun], epochs: Sequence[int] | None = None) -> list[Drawing | Skipped]:
    """One figure per problem: a chart for each of these epochs (by default at a third, two thirds and the end), and one
    for the epoch that validation chose, the only one whose test loss a run knows. Means over the runs."""
    drawn: list[Drawing | Skipped] = []
    for problem, group in by_problem(runs).items():
        name = f"gaps-{'-'.join(problem)}"
        uniform = [run for run in group if run.method == "Uniform"]
        if not uniform:
            drawn.append(Skipped(name, f"no run with uniform weights; run `{HINT}`"))
            continue
        held = [run for run in uniform if any(f"query/loss/{run.tasks[0]}" in point for point in run.points)]
        if not held:
            silent = not any(run.points for run in uniform)
            reason = "logged nothing" if silent else "trained on their query split"
            drawn.append(Skipped(name, f"the uniform runs {reason}; run `{HINT}`"))
            continue
        drawn.append(_draw(name, main_setting(held)[0], epochs))
    return drawn


def losses_at(run: FinishedRun, epoch: int) -> Losses:
    """The losses of one epoch (from 1): on support means over its logged steps, if any; on query and validation those
    of the whole splits after it; on test only where it is the epoch that validation chose."""
    points = [point for point in run.points if point.get("epoch") == epoch]
    losses = {}
    for split in SPLITS[:3]:
        series = [
            [point[tag] for point in points if FINITE.holds(point.get(tag))]
            for tag in (f"{split}/loss/{task}" for task in run.tasks)
        ]
        if all(series):
            losses[split] = [mean(values) for values in series]
    if epoch == run.summary["best_epoch"] and not run.summary["refit"]:
        losses["test"] = [float(run.summary["test_loss"][task]) for task in run.tasks]
    return losses


def _draw(name: str, runs: list[FinishedRun], wanted: Sequence[int] | None) -> Drawing:
    last = min(int(run.summary["epochs"]) for run in runs)
    epochs = list(wanted or dict.fromkeys(max(1, round(last * part / 3)) for part in (1, 2, 3)))
    if wrong := [epoch for epoch in epochs if not 1 <= epoch <= last]:
        raise ConfigError(f"epochs={epochs}: {name} has epochs 1 to {last}, but not {wrong[0]}.")
    charts = {f"epoch {epoch}": _mean([losses_at(run, epoch) for run in runs], SPLITS[:3]) for epoch in epochs}
    best = sorted({int(run.summary["best_epoch"]) for run in runs})
    among = f"{best[0]}" if len(best) == 1 else f"{best[0]} to {best[-1]}"
    chosen = [losses_at(run, int(run.summary["best_epoch"])) for run in runs]
    charts[f"chosen epoch ({among})"] = _mean(chosen, SPLITS)
    tasks = runs[0].tasks
    columns = len(charts) if max(map(len, tasks)) <= SHORT and len(charts) <= 4 else 2
    unit = f"loss of each task, 0 at the centre ({_unit(runs[0])})"
    with rc_context(LOOK):
        line = 1.9 if columns > 2 else 2.38
        figure, grid = new_panels(len(charts), columns, PAGE, line, 0.5, subplot_kw={"projection": "polar"})
        for axes, (title, losses) in zip(grid, charts.items(), strict=True):
            _chart(cast(PolarAxes, axes), title, tasks, losses)
        legend_below(figure, 4, unit)
    notes = [
        f"{len(runs)} uniform runs; test losses are known at the chosen epoch alone, elsewhere validation stands in",
        "support losses are means over an epoch's steps, with dropout if there is any; the others are taken after it",
    ]
    return Drawing(name, figure, tuple(notes))


def _mean(runs: Sequence[Losses], splits: Sequence[str]) -> Losses:
    known = [split for split in splits if all(split in losses for losses in runs)]
    return {split: [mean(values) for values in zip(*(run[split] for run in runs), strict=True)] for split in known}


def _chart(axes: PolarAxes, title: str, tasks: Sequence[str], losses: Losses) -> None:
    ticks = MaxNLocator(nbins=3).tick_values(0, max(value for values in losses.values() for value in values))
    rings, top = ticks[1:], ticks[-1]
    angles = [2 * math.pi * t / len(tasks) for t in range(len(tasks))]
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    for split, values in losses.items():
        ring, style = [*values, values[0]], SPLITS.index(split)
        axes.plot([*angles, angles[0]], ring, linestyle=STYLES[style], color=COLOURS[style], label=split, linewidth=1.3)
    axes.set_yticks(rings, [""] * len(rings))  # numbers on them would stand on the lines
    axes.set_ylim(0, top)
    axes.set_xticks(angles, [""] * len(tasks))
    for angle, task in zip(angles, tasks, strict=True):
        # centred text would run into the chart from the sides
        side = math.sin(angle)
        beside = "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
        above = "center" if abs(side) >= 0.1 else "bottom" if math.cos(angle) > 0 else "top"
        axes.text(angle, 1.08 * top, task, ha=beside, va=above)
    axes.set_title(f"{title}\nrings {rings[0]:g} apart", pad=22)
    axes.grid(alpha=0.5)


def _unit(run: FinishedRun) -> str:
    kinds = {"regression" if task in run.summary["test_r2"] else "classification" for task in run.summary["metric"]}
    names = [str(run.settings["loss"].get(kind, "loss")) for kind in sorted(kinds)]
    return "; ".join(name.replace("_", " ") + (", nats" if name == "cross_entropy" else "") for name in names)
