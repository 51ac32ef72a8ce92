"""Map of a bank: its cases in the plane, alike ones beside each other, by the losses that won there; a run's tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from lossrag.experiments.plotting import GREY, LIGHT_GREY, MARKERS, new_panels
from lossrag.experiments.record.composition_plot import HATCHES, LOOKS, Look
from lossrag.experiments.record.labels import Label, write_labels
from lossrag.experiments.record.plane import Floats, Plane
from lossrag.lossbank import CONTEXT_NAMES, LossBank
from lossrag.lossbank.experience.neighbours import Moments
from lossrag.lossbank.experience.snapshots import REFERENCES
from lossrag.lossbank.experience.trials import UNKNOWN
from lossrag.lossbank.library.contract import TARGET_KINDS

MOST = 3000
"""Cases drawn at most, evenly chosen: a picture has no room for more."""
WORTH = 0.01
"""Gain below which no loss has won: with many losses tried, one of them always gains a little by chance."""
COLOURED = 9
"""Losses told apart, those that won most often."""
NEAR = 20
"""Cases that tell what is worth most somewhere in the plane."""
GRID = 100
"""Places of the shading along either axis."""
ABOUT = 0.04
"""Of the plane's diagonal: so far the shading goes from a case."""

Names = NDArray[np.str_]
Contexts = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AskedTask:
    """A task of a run as it asked a bank: its contexts (S, C), all finite, the last one last; one at least."""

    name: str
    encoder: str
    contexts: Contexts

    @property
    def target_kind(self) -> str:
        """Its kind of target, as a context has it."""
        return next(kind for kind in TARGET_KINDS if self.contexts[0, CONTEXT_NAMES.index(kind)] > 0.5)

    @property
    def progress(self) -> list[float]:
        """(S,) shares of the training after which it asked."""
        shares: list[float] = self.contexts[:, CONTEXT_NAMES.index("progress")].tolist()
        return shares


def asked_tasks(names: Sequence[str], encoder: str, contexts: Tensor) -> list[AskedTask]:
    """The tasks of these names that asked, from the contexts (S, T, C) of all questions, not finite where none was
    put."""
    own = [rows[rows.isfinite().all(dim=1)].cpu().numpy() for rows in contexts.unbind(dim=1)]
    return [AskedTask(name, encoder, rows) for name, rows in zip(names, own, strict=True) if len(rows)]


@dataclass(frozen=True, eq=False)
class DrawnCases:
    """n cases of a bank: their points (n, D), at the moment nearest to some progress, the loss that won in each and
    the gains (n, L) of all ``losses``, 0 where one was not tried."""

    points: Floats
    encoders: Names
    troubles: Names
    winners: Names
    losses: Sequence[str]
    gains: Floats


def bank_figure(
    bank: LossBank, tasks: Sequence[AskedTask] = (), looks: Mapping[str, Look] | None = None, at: float = 0.05
) -> Figure | None:
    """A panel per kind of target, of the ``tasks`` or, without any, of the bank; None where the bank has no cases.

    A point is a case at its moment nearest to the progress of the tasks' last question, or ``at``. Its colour is that
    of the loss that won there, as in ``looks`` if it is among them, its marker the encoder's. The plane is shaded by
    what gained most among the cases around. Tasks are where they last asked, with a line from where they asked before.
    """
    kinds = [kind for kind in TARGET_KINDS if not tasks or kind in {task.target_kind for task in tasks}]
    kinds = [kind for kind in kinds if len(bank.moments(kind))]
    if not kinds:
        return None
    at = max((task.progress[-1] for task in tasks), default=at)
    figure, grid = new_panels(len(kinds), 1, 10.0, 6.8)
    labels = []
    for axes, kind in zip(grid, kinds, strict=True):
        moments = bank.moments(kind)
        own = [task for task in tasks if task.target_kind == kind]
        labels.append(_panel(axes, drawn_cases(bank, moments, at), moments, own, looks or {}, at))
    # only then are points where they will be
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.execute(figure)
    figure.set_layout_engine("none")
    for axes, (crowd, named, troubles) in zip(grid, labels, strict=True):
        write_labels(axes, named, crowd, 9, troubles)
    return figure


def drawn_cases(bank: LossBank, moments: Moments, at: float) -> DrawnCases:
    """The cases that have such moments, ``MOST`` of them at most."""
    experience = bank.experience
    away = np.abs(experience.progress[moments.numbers] - at)
    order = np.lexsort((away, moments.cases))
    cases, first = np.unique(moments.cases[order], return_index=True)
    kept = np.linspace(0, len(cases) - 1, min(len(cases), MOST)).round().astype(np.int64)
    cases, rows = cases[kept], order[first[kept]]
    losses = experience.names["loss"]
    place = np.full(len(experience), -1)
    place[cases] = np.arange(len(cases))
    own = place[experience.outcome_case]
    gains = np.zeros((len(cases), len(losses)))
    gains[own[own >= 0], experience.outcome_loss[own >= 0]] = experience.gain[own >= 0]
    winners = _winners(gains, losses, REFERENCES[moments.target_kind], WORTH)
    encoders, troubles = (experience.texts(column)[cases] for column in ("encoder", "trouble"))
    return DrawnCases(moments.points[rows].astype(np.float64), encoders, troubles, winners, losses, gains)


def _winners(gains: Floats, losses: Sequence[str], reference: str, least: float) -> Names:
    """By row the loss of the largest gain (n, L), the reference where that is less than ``least``."""
    if not losses:
        return np.full(len(gains), reference)
    return np.where(gains.max(axis=1) < least, reference, np.array(losses)[gains.argmax(axis=1)])


def winners_looks(winners: Names, looks: Mapping[str, Look]) -> dict[str, Look]:
    """Looks of the losses that won most often, first those: the ones they have, or one that no other has."""
    counts = Counter(winners.tolist())
    # points have one way to be hatched: they are hollow
    free = [look for look in LOOKS if look[1] in HATCHES[:2] and look not in looks.values()]
    shown: dict[str, Look] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        if name in looks and looks[name][1] in HATCHES[:2]:
            shown[name] = looks[name]
        elif name not in looks and free:
            shown[name] = free.pop(0)
        if len(shown) == COLOURED:
            break
    return shown


def _panel(
    axes: Axes,
    cases: DrawnCases,
    moments: Moments,
    tasks: Sequence[AskedTask],
    looks: Mapping[str, Look],
    at: float,
) -> tuple[Floats, list[Label], list[Label]]:
    """Draw all but the names of the tasks; places (n, 2) that they had better not cover, those names, and the labels of
    troubles that are there."""
    plane = Plane.of(cases.points)
    places = plane.places(cases.points)
    reference = REFERENCES[moments.target_kind]
    # what is worth most around a case counts as well as what won there
    around = _around(cases, places, places, reference)[0]
    own = winners_looks(np.concatenate([cases.winners, around]), looks)
    _shade(axes, cases, places, own, reference)
    kinds = dict(zip(moments.encoders, MARKERS, strict=False))
    for name in [None, *reversed(own)]:  # the rare ones under the frequent ones, the others at the bottom
        won = ~np.isin(cases.winners, list(own)) if name is None else cases.winners == name
        colour, hatch = (LIGHT_GREY, "") if name is None else own[name]
        for encoder, marker in kinds.items():
            here = places[won & (cases.encoders == encoder)]
            face, edge, line = ("white", colour, 1.4) if hatch else (colour, "#444444", 0.3)
            axes.scatter(here[:, 0], here[:, 1], s=26, c=face, edgecolors=edge, linewidths=line, marker=marker)
    troubles = _troubles(cases.troubles, places)
    halo = [withStroke(linewidth=3, foreground="white")]
    for label in troubles:
        axes.text(*label.place, label.text, size=9, style="italic", ha="center", va="center", path_effects=halo)
    named, crowd = [], [places]
    for task in tasks:
        rows = [
            moments.point(context, progress, task.encoder)
            for context, progress in zip(task.contexts, task.progress, strict=True)
        ]
        trail = plane.places(np.array(rows, np.float64))
        axes.plot(trail[:, 0], trail[:, 1], "-o", color="black", linewidth=0.8, markersize=2.5, zorder=6)
        axes.scatter(
            trail[-1:, 0], trail[-1:, 1], s=190, c="black", marker="*", edgecolors="white", linewidths=0.8, zorder=7
        )
        named.append(Label((float(trail[-1, 0]), float(trail[-1, 1])), task.name, "bold"))
        crowd += [trail, np.linspace(trail[:-1], trail[1:], 12).reshape(-1, 2)]
    axes.set_title(
        f"Cases of the bank: {len(places):,} cases of {moments.target_kind}, alike ones side by side, "
        "in the colour of the loss that won",
        fontsize=11,
        loc="left",
    )
    axes.text(
        *(0, -0.09),
        f"Shaded: what gained most among the {NEAR} cases around. {reference}: no other loss gained a point. "
        "In italics: where a trouble is commonest.",
        transform=axes.transAxes,
        fontsize=9,
        va="top",
        color=GREY,
    )
    axes.set_xlabel(
        f"first principal component of their coordinates after {at:.0%} of the steps "
        f"({plane.share[0]:.0%} of the variance)"
    )
    axes.set_ylabel(f"second ({plane.share[1]:.0%})")
    low, high = (side(np.concatenate(crowd), axis=0) for side in (np.min, np.max))
    edge = 0.06 * (high - low).clip(min=1e-6)
    axes.set_xlim(low[0] - edge[0], high[0] + edge[0])
    axes.set_ylim(low[1] - edge[1], high[1] + edge[1])
    _legend(axes, Counter(cases.winners.tolist()), own, kinds, bool(tasks))
    return np.concatenate(crowd), named, troubles


def _troubles(troubles: Names, places: Floats) -> list[Label]:
    """A label for every trouble where the cases around have it most; those that fall on one place share one."""
    _, near = cKDTree(places).query(places, min(NEAR, len(places)))
    near = near.reshape(len(places), -1)
    size = np.ptp(places, axis=0).clip(min=1e-6)
    found: list[Label] = []
    for trouble in sorted(set(troubles.tolist()) - {UNKNOWN}):
        own = (troubles == trouble)[near]
        best = near[own.mean(axis=1).argmax()]
        at = places[best[troubles[best] == trouble]].mean(axis=0)
        close = [label for label in found if bool((np.abs(at - label.place) < size * [0.12, 0.04]).all())]
        if close:
            found[found.index(close[0])] = Label(close[0].place, f"{close[0].text}, {trouble}")
        else:
            found.append(Label((float(at[0]), float(at[1])), trouble))
    return found


def _around(cases: DrawnCases, places: Floats, spots: Floats, reference: str) -> tuple[Names, Floats]:
    """What gained most in all among the cases nearest to some spots (m, 2) of the plane, and how far the nearest is."""
    far, near = cKDTree(places).query(spots, min(NEAR, len(places)))
    far, near = far.reshape(len(spots), -1), near.reshape(len(spots), -1)
    means = [gain[near].mean(axis=1) for gain in cases.gains.T]
    return _winners(np.array(means).reshape(-1, len(spots)).T, cases.losses, reference, WORTH), far[:, 0]


def _shade(axes: Axes, cases: DrawnCases, places: Floats, looks: Mapping[str, Look], reference: str) -> None:
    """Colour the plane faintly by what gained most around a place in it, where there are cases about."""
    low, high = places.min(axis=0), places.max(axis=0)
    edge = 0.05 * (high - low).clip(min=1e-6)
    sides = [np.linspace(low[axis] - edge[axis], high[axis] + edge[axis], GRID) for axis in (0, 1)]
    spots = np.stack(np.meshgrid(*sides), axis=2).reshape(-1, 2)
    most, far = _around(cases, places, spots, reference)
    # without cases about white, for the others grey
    colours = ["white", LIGHT_GREY, *(colour for colour, _ in looks.values())]
    number = {name: place for place, name in enumerate(looks, 2)}
    shade = np.array([number.get(name, 1) for name in most.tolist()])
    shade[far > ABOUT * float(np.hypot(*(high - low)))] = 0
    shade = shade.reshape(GRID, GRID)
    extent = (sides[0][0], sides[0][-1], sides[1][0], sides[1][-1])
    axes.imshow(
        shade,
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
        origin="lower",
        extent=extent,
        aspect="auto",
        alpha=0.16,
        interpolation="nearest",
        zorder=0,
    )
    for name, (colour, hatch) in looks.items():
        here = (shade == number[name]).astype(np.float64)
        if hatch and here.any():
            lines = axes.contourf(here, [0.5, 1.5], colors="none", hatches=[hatch], extent=extent, zorder=0)
            lines.set_edgecolor(to_rgba(colour, 0.35))
            lines.set_linewidth(0)


def _legend(
    axes: Axes, counts: Mapping[str, int], looks: Mapping[str, Look], encoders: Mapping[str, str], tasks: bool
) -> None:
    """Losses with the cases that they won, encoders, and what a star is."""
    plain: dict[str, Any] = {"linestyle": "none", "markersize": 6}
    handles = []
    for name in sorted(looks, key=lambda name: (-counts[name], name)):
        colour, hatch = looks[name]
        face = "white" if hatch else colour
        handles += axes.plot([], [], "o", mfc=face, mec=colour, label=f"{name}  {counts[name]:,}", **plain)
    rest = sum(counts.values()) - sum(counts[name] for name in looks)
    if rest:
        handles += axes.plot([], [], "o", color=LIGHT_GREY, label=f"others  {rest:,}", **plain)
    handles += axes.plot([], [], " ", label=" ")
    for encoder, marker in encoders.items():
        handles += axes.plot([], [], marker, color=GREY, label=encoder, **plain)
    if tasks:
        handles += axes.plot(
            [], [], "-*", color="black", markersize=10, label="task of this run, and\nhow it came there"
        )
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=9,
        title="loss that won, cases",
        title_fontsize=9,
        alignment="left",
    )
