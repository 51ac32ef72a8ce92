"""Descriptions of a loss in words, as a line of blocks, and as a picture, for `lossrag bank show`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.figure import Figure

from lossrag.experiments.plotting import COLOURS, GREY, new_figure
from lossrag.lossbank import GEOMETRY_NAMES, Loss, gradient_curve
from lossrag.lossbank.shape.geometry import geometry

BLOCKS = "▁▂▃▄▅▆▇█"


def in_words(loss: Loss) -> list[str]:
    """Meaning of a loss's geometry, a phrase each.

    >>> from lossrag.lossbank import LOSSES
    >>> in_words(LOSSES["mae"])[:2]
    ['bounded: no sample costs more than so much', 'lets go of samples that are far from right']
    """
    of = dict(zip(GEOMETRY_NAMES, geometry(loss).tolist(), strict=True))
    if of["feature_share"] > 0.99:
        phrases = ["shapes the features alone, says nothing to the logits"]
    else:
        phrases = [phrase for phrase, holds in _ON_LOGITS if holds(of)]
    phrases += [phrase for phrase, holds in _BESIDES if holds(of)]
    return [*phrases, "compares the samples of a batch with each other"] if loss.relational else phrases


Test = Callable[[Mapping[str, float]], bool]
# the thresholds lie between what the losses of the library have whose names say on which side they stand
_ON_LOGITS: tuple[tuple[str, Test], ...] = (
    ("bounded: no sample costs more than so much", lambda of: of["growth"] < 0.05),
    ("lets go of samples that are far from right", lambda of: of["outlier_sensitivity"] < -0.12),
    ("pulls the harder the farther a sample is from right", lambda of: of["outlier_sensitivity"] > 0.3),
    (
        "pulls at wrong samples with nearly even force, however far they are",
        lambda of: -0.12 <= of["outlier_sensitivity"] <= 0.3,
    ),
    ("rests on samples that are right", lambda of: of["saturation"] < -0.25),
    ("goes on pulling at samples that are right", lambda of: of["saturation"] > -0.05),
)
_BESIDES: tuple[tuple[str, Test], ...] = (
    ("minds predictions above the target more than those below", lambda of: of["asymmetry"] > 0.1),
    ("minds predictions below the target more than those above", lambda of: of["asymmetry"] < -0.1),
    ("pushes all wrong classes, not only the strongest", lambda of: of["sharing_wrong"] > 0.65),
    ("counts rare classes for more", lambda of: of["uses_counts"] > 0),
)


def sparkline(loss: Loss, width: int = 48) -> str:
    """Its gradient curve as a line of blocks, the largest size as the full block.

    >>> from lossrag.lossbank import LOSSES
    >>> line = sparkline(LOSSES["mae"], 9)
    >>> line[0] == line[-1] == "▁" and line[4] == "█"
    True
    """
    _, size = gradient_curve(loss, width)
    top = float(size.max())
    levels = (size / top * (len(BLOCKS) - 1)).round().int().tolist() if top > 0 else [0] * width
    return "".join(BLOCKS[level] for level in levels)


def curve_figure(loss: Loss, reference: Loss) -> Figure:
    """Size of the gradient on a sample's logits, beside that of a ``reference`` for the same kind of target."""
    figure = new_figure(6.2, 4.0)
    axes = figure.subplots()
    if loss.name != reference.name:
        axes.plot(*map(np.asarray, gradient_curve(reference, 201)), "--", color=GREY, label=reference.name)
    axes.plot(*map(np.asarray, gradient_curve(loss, 201)), color=COLOURS[0], linewidth=2, label=loss.name)
    if loss.target_kind == "regression":
        axes.set_xlabel("residual: prediction - target")
    else:
        axes.set_xlabel("probability of the label (4 classes, the wrong ones alike)")
    axes.set_ylabel("size of the gradient on the logits")
    title = f"{loss.name} ({loss.family}): {loss.formula or 'no formula given'}"
    axes.set_title(title[:80], fontsize=10, parse_math=False)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure
