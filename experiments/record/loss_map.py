"""Map of the library: losses by their geometry in the plane, those that the tasks of a run use marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lossrag.experiments.plotting import COLOURS, GREY, MARKERS, legend_below, new_panels
from lossrag.experiments.record.summary import share_text
from lossrag.lossbank import LOSSES, Loss
from lossrag.lossbank.shape.geometry import geometry_vectors

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]
"""Left, lower, right and upper edge."""

FAMILIES = (*COLOURS, GREY)
USED = 0.05
"""Share from which on a loss is marked for a task."""
LABELS = 14
"""Used losses that are named in a panel at most, the largest shares first."""


def project(vectors: Floats) -> tuple[Floats, Floats]:
    """The first two principal components (n, 2) of ``vectors`` (n, G), and the share of variance of either (2,).

    Signs are fixed: the largest loading of a component is positive, so the same losses give the same map.

    >>> places, share = project(np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]]))
    >>> places[:, 0].round(6).tolist(), share.round(6).tolist()
    ([-2.0, 0.0, 2.0], [1.0, 0.0])
    """
    centred = vectors - vectors.mean(axis=0)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    places, share = np.zeros((len(vectors), 2)), np.zeros(2)
    for axis in range(min(2, len(sizes))):
        sign = np.sign(right[axis, np.abs(right[axis]).argmax()]) or 1.0
        places[:, axis] = sign * left[:, axis] * sizes[axis]
        share[axis] = sizes[axis] ** 2 / max(float((sizes**2).sum()), 1e-30)
    return places, share


def loss_map_figure(used: Mapping[str, Mapping[str, float]]) -> Figure | None:
    """A panel per kind of target; ``used`` are the shares by task and loss. None when no used loss is registered here.

    The colour and marker of a point are its family's. Losses of a share of 0.05 or more are ringed and named with the
    tasks that use them.
    """
    kinds = sorted({LOSSES[name].target_kind for shares in used.values() for name in shares if name in LOSSES})
    if not kinds:
        return None
    losses = {kind: [loss for loss in LOSSES.values() if loss.target_kind == kind] for kind in kinds}
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


def _panel(
    axes: Axes,
    losses: Sequence[Loss],
    styles: Mapping[str, tuple[str, str]],
    used: Mapping[str, Mapping[str, float]],
) -> None:
    places, share = project(geometry_vectors(losses).double().numpy())
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
    """Names beside the ringed points, each at the first of some places where it covers no other and no ring."""
    places, _ = project(geometry_vectors(losses).double().numpy())
    users = {row: _users(loss.name, used) for row, loss in enumerate(losses)}
    named = sorted((row for row in users if users[row]), key=lambda row: -max(share for _, share in users[row]))
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    # everything in points, which stay what they are at another resolution
    pixels = axes.transData.transform(places) * 72 / figure.dpi
    frame = [edge * 72 / figure.dpi for edge in axes.get_window_extent().extents]
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in pixels[named].tolist()]
    for group in _together(named[:LABELS], pixels):
        marks = (", ".join(f"{task} {share_text(share)}" for task, share in users[row]) for row in group)
        lines = [f"{losses[row].name}: {mark}" for row, mark in zip(group, marks, strict=True)]
        x, y = pixels[group[0]].tolist()
        size = (3.9 * max(map(len, lines)) + 2, 9.5 * len(lines) + 2)
        box = min(_boxes(x, y, *size), key=lambda box: _cost(box, (x, y), taken, pixels, frame))
        taken.append(box)
        axes.annotate(
            "\n".join(lines),
            (places[group[0], 0], places[group[0], 1]),
            xytext=((box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7,
            arrowprops={"arrowstyle": "-", "color": "#666666", "linewidth": 0.6, "shrinkB": 5},
        )


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


def _boxes(x: float, y: float, width: float, height: float) -> list[Box]:
    """Places of a label of this size around a point."""
    boxes = []
    for radius in (12, 24, 40, 60, 85, 115, 150, 190, 240):
        for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False).tolist():
            across, up = float(np.cos(angle)), float(np.sin(angle))
            left = x + radius * across - width * (1 - across) / 2
            low = y + radius * up - height * (1 - up) / 2
            boxes.append((left, low, left + width, low + height))
    return boxes


def _cost(box: Box, point: tuple[float, float], taken: Sequence[Box], points: Floats, frame: Sequence[float]) -> float:
    """Badness of a label's place: out of the frame, over another, over points, far from its own."""
    left, low, right, high = box
    outside = left < frame[0] or low < frame[1] or right > frame[2] or high > frame[3]
    covered = sum(_overlap(box, other) for other in taken)
    inside = (points > [left - 3, low - 3]).all(axis=1) & (points < [right + 3, high + 3]).all(axis=1)
    away = float(np.hypot(point[0] - (left + right) / 2, point[1] - (low + high) / 2))
    return 1000.0 * outside + 100.0 * covered + 5.0 * int(inside.sum()) + away / 20


def _overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
