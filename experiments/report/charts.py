"""Charts of a report: SVG inside the page, each an image of its own, in which nothing can run and no name clashes."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossrag.experiments.plotting import COLOURS, GREY, LOOK, STYLES, new_panels
from lossrag.experiments.record.composition_plot import compositions_figure
from lossrag.experiments.record.share_series import ShareSeries
from lossrag.experiments.record.trajectory_plot import running_mean, thinned
from lossrag.experiments.report.groups import Problem
from lossrag.experiments.report.outcomes import Residuals
from lossrag.experiments.report.reading import ReportedRun, is_number, series

WIDTH = 14.0
"""Inches of a chart, which fill the page: a point is nearly a pixel and a half at 1500 pixels."""
MOST = 150
"""Points of a line."""
MARKED = 30
"""Points up to which each is marked."""
NOISY = ("support loss", "query loss", "lambda (Frank-Wolfe)")
"""Panels of values of single batches: each of their lines is a running mean over a part of it."""
PART = 10
RAW = 4
"""Lines up to which the values themselves are seen behind their means."""
Lines = Sequence[tuple[str, list[tuple[int, float]]]]
"""Names of lines with their steps and values."""
REPORT: Any = {
    **LOOK,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "svg.fonttype": "none",  # text stays text: a third of the size
    "svg.hashsalt": "lossrag",  # the same runs give the same file
    "text.parse_math": False,  # a name may hold a $
}


@dataclass(frozen=True)
class Chart:
    """uri: of the image, inside the page. text: what it shows, for those who cannot see it."""

    uri: str
    text: str


def chart(draw: Callable[[], Figure | None], text: str) -> Chart | None:
    """The chart that ``draw`` makes; None where there is nothing to show."""
    with rc_context(REPORT), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of letters that this machine's font lacks
        figure = draw()
        if figure is None:
            return None
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Chart("data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode(), text)


def plain(name: str) -> str:
    """A name without what no XML file can hold.

    >>> plain("a\\x00b")
    'a\\ufffdb'
    """
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)


def progress_chart(problem: Problem) -> Chart | None:
    """Validation scores over the steps: a panel for the mean and one for each task, in it a line for each group, the
    mean over its seeds, with its runs thin behind."""
    tags = {"mean score": "validation/score_mean"}
    for task, metric in problem.metrics.items():
        error = ", less is better" if task in problem.errors else ""
        tags[f"{task} ({metric}{error})"] = f"validation/{metric}/{task}"

    def draw() -> Figure | None:
        columns = min(4, len(tags))
        figure, grid = new_panels(len(tags), columns, WIDTH, 2.5, 0.3)
        for axes, (title, tag) in zip(grid, tags.items(), strict=True):
            for place, group in enumerate(problem.groups):
                runs = [series(run.points, tag) for run in group.runs]
                for own in runs if len(runs) > 1 else []:
                    axes.plot(*thinned(own, MOST), color=_colour(place), linewidth=0.6, alpha=0.35)
                _line(axes, _mean(runs), place)
            _finish(axes, title)
        _legend(figure, [group.label for group in problem.groups])
        return figure

    known = any("validation/score_mean" in point for run in problem.runs for point in run.points)
    return chart(draw, f"Validation scores over the steps, {problem.title}") if known else None


def trajectories_chart(run: ReportedRun) -> Chart | None:
    """Losses, validation scores, task weights and lambda of a run over its steps, a line for each task."""
    tags = {"support loss": "support/loss/", "query loss": "query/loss/", "validation loss": "validation/loss/"}
    tags |= {f"validation {metric}": f"validation/{metric}/" for metric in dict.fromkeys(run.metrics.values())}
    tags |= {"task weight": "weight/", "lambda (Frank-Wolfe)": "lambda/"}
    panels = {title: [series(run.points, begin + task) for task in run.metrics] for title, begin in tags.items()}
    panels = {title: lines for title, lines in panels.items() if any(lines)}

    def draw() -> Figure | None:
        figure, grid = new_panels(len(panels), min(3, len(panels)), WIDTH, 2.9, 0.3)
        for axes, (title, lines) in zip(grid, panels.items(), strict=True):
            smooth = title in NOISY and max(map(len, lines)) > 2 * PART
            for place, own in enumerate(lines):
                if smooth and len(lines) <= RAW:
                    axes.plot(*thinned(own, MOST), color=_colour(place), linewidth=0.5, alpha=0.25)
                _line(axes, _smoothed(own) if smooth else own, place)
            _finish(axes, f"{title}, running mean" if smooth else title)
        _legend(figure, list(run.metrics))
        return figure

    return chart(draw, f"Trajectories of {run.id}") if panels else None


def compositions_chart(run: ReportedRun) -> Chart | None:
    """Shares of the losses of every task over the steps, marked where they changed."""
    changes: dict[str, list[int]] = {}
    for event in run.events:
        if event.what == "composed" and is_number(event.step):
            changes.setdefault(plain(event.task), []).append(event.step)
    points = (
        {
            "step": point["step"],
            **{plain(key): value for key, value in point.items() if key != "step" and is_number(value)},
        }
        for point in run.points
    )
    series = ShareSeries.of(points)
    return chart(lambda: compositions_figure(series, changes), f"Compositions of {run.id}")


def residuals_chart(residuals: Sequence[Residuals], title: str) -> Chart | None:
    """Predicted against true values of the test rows, a panel for each output."""

    def draw() -> Figure | None:
        figure, grid = new_panels(len(residuals), min(4, max(3, len(residuals))), WIDTH, 3.2)
        for axes, own in zip(grid, residuals, strict=True):
            low, high = min(*own.shown_truth, *own.shown_value), max(*own.shown_truth, *own.shown_value)
            axes.plot([low, high], [low, high], color=GREY, linewidth=0.8)
            axes.plot(own.shown_truth, own.shown_value, ".", color=COLOURS[0], markersize=4, alpha=0.5)
            axes.set_xlabel("truth")
            axes.set_ylabel("prediction")
            axes.set_title(plain(own.name))
            axes.grid(alpha=0.25)
        return figure

    return chart(draw, title) if residuals else None


def _mean(runs: Sequence[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """The mean over runs at the steps that all of them logged; of those that have the series."""
    known: list[Mapping[int, float]] = [dict(own) for own in runs if own]
    steps = sorted(set.intersection(*(set(own) for own in known))) if known else []
    return [(step, sum(own[step] for own in known) / len(known)) for step in steps]


def _smoothed(own: list[tuple[int, float]]) -> list[tuple[int, float]]:
    width = max(1, len(own) // PART)
    means = running_mean([value for _, value in own], width)
    # the first ones are means of few, as noisy as what they are of
    return [(step, mean) for (step, _), mean in zip(own, means, strict=True)][width // 2 :]


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _style(place: int) -> Any:
    return STYLES[place // len(COLOURS) % len(STYLES)]


def _line(axes: Axes, own: Sequence[tuple[int, float]], place: int) -> None:
    if own:
        steps, values = thinned(own, MOST)
        marker = "o" if len(own) <= MARKED else ""
        axes.plot(steps, values, color=_colour(place), linestyle=_style(place), marker=marker, markersize=3)


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(plain(title))
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)


def _legend(figure: Figure, names: Sequence[str]) -> None:
    """One legend under all panels; by handles, as a name that begins with _ would be taken for none."""
    handles = [Line2D([], [], color=_colour(place), linestyle=_style(place)) for place in range(len(names))]
    longest = max(map(len, names))
    columns = max(1, min(len(names), int(WIDTH * 72 / (5.2 * longest + 45))))
    figure.legend(handles, list(map(plain, names)), loc="outside lower center", ncols=columns, frameon=False)
