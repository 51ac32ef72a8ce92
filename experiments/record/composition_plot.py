"""Pictures of compositions: stacked shares over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossrag.experiments.plotting import AREAS, LIGHT_GREY, new_panels
from lossrag.experiments.record.share_series import ShareSeries

MOST_AREAS = len(AREAS)
"""Losses of a task that are drawn apart."""
HATCHES = ("", "///", "...")
Look = tuple[str, str]
"""Colour and hatch of an area."""
LOOKS: tuple[Look, ...] = tuple((colour, hatch) for hatch in HATCHES for colour in AREAS)
"""All there are, the plain ones first."""


def loss_looks(series: ShareSeries) -> dict[str, Look]:
    """Colours and hatches of the losses that are among the largest of any task, as far as they go."""
    weight: dict[str, float] = {}
    for _, shares in series.by_task().values():
        for value, name in _mass(shares)[:MOST_AREAS]:
            weight[name] = min(weight.get(name, 0.0), value)
    order = sorted(weight, key=lambda name: (weight[name], name))
    return dict(zip(order, LOOKS, strict=False))


def compositions_figure(series: ShareSeries, changes: Mapping[str, Sequence[int]] | None = None) -> Figure | None:
    """A stacked area per task, None when nothing was logged: the largest losses in colour, the others grey.

    A loss looks the same in all panels: the losses that are largest anywhere have colours, the next ones colours with
    hatches, and those beyond are among the others. Steps in ``changes`` of a task are marked.
    """
    tasks = series.by_task()
    if not tasks:
        return None
    looks = loss_looks(series)
    columns = min(len(tasks), 2)
    figure, grid = new_panels(len(tasks), columns, 5.6 * columns + 0.4, 2.9, 0.4)
    for axes, (task, (steps, shares)) in zip(grid, tasks.items(), strict=True):
        own = {name: looks[name] for _, name in _mass(shares)[:MOST_AREAS] if name in looks}
        _panel(axes, task, steps, shares, own, series.step)
        for step in (changes or {}).get(task, ()):
            axes.plot([step], [1.0], "v", color="black", markersize=7, clip_on=False, zorder=5)
    return figure


def _mass(shares: Mapping[str, Sequence[float]]) -> list[tuple[float, str]]:
    """Losses of a task by what they came to over the run, its end counting half as much as all of it."""
    return sorted((-(sum(values) / len(values) + values[-1] / 2), name) for name, values in shares.items())


def _panel(
    axes: Axes, task: str, steps: list[int], shares: Mapping[str, list[float]], looks: Mapping[str, Look], end: int
) -> None:
    drawn = [shares[name] for name in looks]
    rest = [max(1.0 - sum(values[place] for values in drawn), 0.0) for place in range(len(steps))]
    labels = [f"{name}  {values[-1]:.2f}" for name, values in zip(looks, drawn, strict=True)]
    if max(rest) > 0.001:
        drawn.append(rest)
        labels.append(f"others  {rest[-1]:.2f}")
    # shares stay what they are until the next moment, the last ones to the end
    at = [*steps, max(end, steps[-1] + 1)]
    axes.stackplot(
        at,
        [[*values, values[-1]] for values in drawn],
        labels=labels,
        colors=[*(colour for colour, _ in looks.values()), LIGHT_GREY][: len(drawn)],
        hatch=[*(hatch for _, hatch in looks.values()), ""][: len(drawn)],
        edgecolor="white",
        linewidth=0.4,
        step="post",
    )
    axes.set_title(task, fontsize=11, loc="left", fontweight="bold")
    axes.set_xlim(at[0], at[-1])
    axes.set_ylim(0, 1)
    axes.set_xlabel("step")
    axes.set_ylabel("share of the loss")
    handles, names = axes.get_legend_handles_labels()
    # the legend lists from top to bottom what is stacked from bottom to top; figures are the last shares
    axes.legend(
        handles[::-1],
        names[::-1],
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize=8,
        title="at the end",
        title_fontsize=8,
    )
