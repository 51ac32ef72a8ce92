"""Legibility of a drawing: its texts, and where they lie."""

from __future__ import annotations

import itertools

import matplotlib.axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from lossrag.experiments.plotting import LOOK


def rendered(figure):
    """The visible texts of a figure with what they occupy, in pixels."""
    canvas = FigureCanvasAgg(figure)
    with matplotlib.rc_context(LOOK):
        canvas.draw()
    renderer = canvas.get_renderer()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    texts = {text for axes in shown for text in axes.findobj(Text)} | set(figure.findobj(Text))
    hidden = {text for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    return [
        (text.get_text(), text.get_window_extent(renderer), text)
        for text in texts - hidden
        if text.get_text().strip() and text.get_visible() and drawn(text, figure, renderer)
    ]


def drawn(text, figure, renderer):
    """Ticks beyond the limits of an axis, and those that a shared axis hides, exist as texts but are not drawn."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label for tick in [*axis.majorTicks, *axis.minorTicks] for label in (tick.label1, tick.label2)]
            if text in labels:
                return text in [label for label in axis.get_ticklabels() if label.get_visible()] and any(
                    text is tick.label1 for tick in axis._update_ticks()
                )
    return True


def assert_legible(drawing, tasks):
    """Every task is named, no text lies on another or leaves the page, none is smaller than 8 points."""
    figure = drawing.figure
    found = rendered(figure)
    assert set(tasks) <= {line for text, _, _ in found for line in text.splitlines()}
    page = figure.bbox
    for text, box, artist in found:
        assert artist.get_fontsize() >= 8, text
        assert page.x0 - 1 <= box.x0, text
        assert box.x1 <= page.x1 + 1, text
        assert page.y0 - 1 <= box.y0, text
        assert box.y1 <= page.y1 + 1, text
    for (one, a, _), (other, b, _) in itertools.combinations(found, 2):
        inner = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(inner) <= 1, f"{one!r} lies on {other!r}"
    assert figure.get_figwidth() in (3.3, 7.0)


def axes_have_units(drawing):
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in drawing.figure.axes if axes.get_visible()]
    return labels
