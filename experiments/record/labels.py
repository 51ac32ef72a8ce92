"""Labels of points in a picture: each at the best of some places around its point, where it covers no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]
"""Left, lower, right and upper edge."""
RING = 7
"""Half the width of what a label leaves free around its point, in points."""


@dataclass(frozen=True)
class Label:
    """A text, of one line or more, for a point at ``place`` of the axes' data."""

    place: tuple[float, float]
    text: str
    weight: str = "normal"

    def size(self, fontsize: float) -> tuple[float, float]:
        """Its width and height in points, nearly."""
        lines = self.text.splitlines()
        letter = 0.6 if self.weight == "bold" else 0.557
        return letter * fontsize * max(map(len, lines)) + 2, 1.36 * fontsize * len(lines) + 2


def write_labels(
    axes: Axes, labels: Sequence[Label], crowd: Floats, fontsize: float = 7, free: Sequence[Label] = ()
) -> None:
    """Write labels beside their points, the first ones first, off the ``crowd`` (n, 2) of all points as far as that
    goes, and off those in ``free``, which are there already, each over the middle of its place.

    The figure has its final layout: in everything else than points nothing would stay where it is.
    """
    figure = axes.get_figure()
    assert isinstance(figure, Figure)

    def points(places: Floats) -> Floats:
        return np.asarray(axes.transData.transform(places) * 72 / figure.dpi)

    frame = [edge * 72 / figure.dpi for edge in axes.get_window_extent().extents]
    pixels = points(crowd)
    own = points(np.array([label.place for label in labels]).reshape(-1, 2)).tolist()
    taken = [(x - RING, y - RING, x + RING, y + RING) for x, y in own]
    for there in free:
        (x, y), (width, height) = points(np.array([there.place]))[0].tolist(), there.size(fontsize)
        taken.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    for label, (x, y) in zip(labels, own, strict=True):
        box = min(_boxes(x, y, *label.size(fontsize)), key=lambda box: _cost(box, (x, y), taken, pixels, frame))
        taken.append(box)
        axes.annotate(
            label.text,
            label.place,
            xytext=((box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=fontsize,
            fontweight=label.weight,
            zorder=9,
            arrowprops={"arrowstyle": "-", "color": "#666666", "linewidth": 0.6, "shrinkB": 5},
        )


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
