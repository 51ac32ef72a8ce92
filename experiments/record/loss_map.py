"""Map of the library: losses by their geometry in the plane, those that the tasks of a run use marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossrag.errors import LossError
from lossrag.experiments.plotting import COLOURS, GREY, MARKERS, legend_below, new_panels
from lossrag.experiments.record.labels import Label, write_labels
from lossrag.experiments.record.plane import Floats, Plane
from lossrag.experiments.record.summary import share_text
from lossrag.lossbank import LOSSES, Loss
from lossrag.lossbank.shape.geometry import geometry_vectors

FAMILIES = (*COLOURS, GREY)
USED = 0.05
"""Share from which on a loss is marked for a task."""
LABELS = 14
"""Used losses that are named in a panel at most, the largest shares first."""


def loss_map_figure(used: Mapping[str, Mapping[str, float]]) -> Figure | None:
    """A panel per kind of target; ``used`` are the shares by task and loss. None when no used loss is registered here.

    The colour and marker of a point are its family's. Losses of a share of 0.05 or more are ringed and named with the
    tasks that use them.
    """
    kinds = sorted({LOSSES[name].target_kind for shares in used.values() for name in shares if name in LOSSES})
    if not kinds:
        return None
    losses = {kind: [loss for loss in LOSSES.values() if loss.target_kind == kind and _drawn(loss)] for kind in kinds}
    families = sorted({loss.family for alike in losses.values() for loss in alike})
    styles = {
        family: (FAMILIES[place % len(FAMILIES)], MARKERS[place % len(MARKERS)])
        for place, family in enumerate(families)
    }
    figure, grid = new_panels(len(kinds), len(kinds), 7.4 * len(kinds), 6.4)
    for axes, kind in zip(grid, kinds, strict=True):
        _panel(axes, losses[kind], styles, used)
        axes.set_title(f"losses for {kind} by their geometry", fontsize=11)
    legend_below(figure, min(len(families), 7))
    # a first drawing without output: only then are points where they will be, and labels as wide as they will be
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, kind in zip(grid, kinds, strict=True):
        _label(axes, losses[kind], used)
    return figure


def _drawn(loss: Loss) -> bool:
    """False for a loss that raises, which has no place; whoever trained with it has been told."""
    try:
        geometry_vectors([loss])
    except LossError:
        return False
    return True


def _panel(
    axes: Axes,
    losses: Sequence[Loss],
    styles: Mapping[str, tuple[str, str]],
    used: Mapping[str, Mapping[str, float]],
) -> None:
    vectors = geometry_vectors(losses).double().numpy()
    plane = Plane.of(vectors)
    places, share = plane.places(vectors), plane.share
    for family, (colour, marker) in styles.items():  # in every panel, so that the legend has them in this order
        own = places[[loss.family == family for loss in losses]]
        axes.scatter(own[:, 0], own[:, 1], s=34, c=colour, marker=marker, alpha=0.8, linewidths=0, label=family)
    ringed = [row for row, loss in enumerate(losses) if _users(loss.name, used)]
    axes.scatter(places[ringed, 0], places[ringed, 1], s=150, facecolors="none", edgecolors="black", linewidths=1.2)
    axes.set_xlabel(f"first principal component ({share[0]:.0%} of the variance)")
    axes.set_ylabel(f"second ({share[1]:.0%})")
    axes.margins(0.16)
    axes.grid(alpha=0.2)


def _users(name: str, used: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float]]:
    return [(task, shares[name]) for task, shares in used.items() if shares.get(name, 0.0) >= USED]


def _label(axes: Axes, losses: Sequence[Loss], used: Mapping[str, Mapping[str, float]]) -> None:
    """Names beside the ringed points."""
    vectors = geometry_vectors(losses).double().numpy()
    places = Plane.of(vectors).places(vectors)
    users = {row: _users(loss.name, used) for row, loss in enumerate(losses)}
    named = sorted((row for row in users if users[row]), key=lambda row: -max(share for _, share in users[row]))
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    pixels = axes.transData.transform(places) * 72 / figure.dpi
    labels = []
    for group in _together(named[:LABELS], pixels):
        marks = (", ".join(f"{task} {share_text(share)}" for task, share in users[row]) for row in group)
        lines = [f"{losses[row].name}: {mark}" for row, mark in zip(group, marks, strict=True)]
        x, y = places[group[0]].tolist()
        labels.append(Label((x, y), "\n".join(lines)))
    write_labels(axes, labels, places)


def _together(rows: Sequence[int], points: Floats) -> list[list[int]]:
    """Rows whose points lie on each other as far as the eye can tell: they share a label."""
    groups: list[list[int]] = []
    for row in rows:
        near = [group for group in groups if float(np.linalg.norm(points[row] - points[group[0]])) < 4]
        if near:
            near[0].append(row)
        else:
            groups.append([row])
    return groups
