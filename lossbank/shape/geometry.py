"""Geometry of a loss: its shape as a vector, from fixed probes alone, before anybody ever ran it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.shape.probes import (
    CLASSES,
    COUNTS,
    FREQUENCIES,
    RIGHT_TO_WRONG,
    SPREADS,
    Answer,
    Grid,
    ask,
    class_logits,
    grid,
    grouped_features,
)

TINY = 1e-12
TWIN = 0.995
"""Cosine of geometries above which two losses are one loss twice."""


def contrast(a: Tensor, b: Tensor) -> Tensor:
    """(a - b) / (a + b) for sizes, 0 where both are 0."""
    return (a - b) / (a + b + TINY)


def log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log10(a / b) for sizes, within [-4, 4] and 0 where both are 0."""
    floor = 1e-4 * torch.maximum(a, b) + TINY
    return ((a + floor) / (b + floor)).log10()


def rarity(loss: Loss, scale: Tensor) -> Tensor:
    """Weight of a rare label against a frequent one (3,), by p_y; 0 without class counts."""
    p = torch.tensor(FREQUENCIES)
    if "class_counts" not in loss.needs or loss.target_kind == "regression":
        return torch.zeros(len(p))
    targets = torch.tensor([0] * len(p) + [CLASSES - 1] * len(p))
    logits = class_logits(p.repeat(2), targets, CLASSES, peaked=False)
    size = ask(loss, logits, targets, class_counts=torch.tensor(COUNTS)).size + 1e-4 * scale
    return log_ratio(size[len(p) :], size[: len(p)]) / 2


def feature_use(loss: Loss, answer: Answer) -> Tensor:
    """Use that the loss makes of features (8,), 0 without; ``answer`` is the one to the grid."""
    if "features" not in loss.needs:
        return torch.zeros(4 + len(SPREADS))
    # Three classes of four; the logits are right, so a loss that reads both is seen where it has settled.
    targets = torch.arange(12) % 3
    logits = class_logits(torch.full((12,), 0.7), targets, CLASSES, peaked=False)
    wanted, flipped = targets, torch.cat([(targets[:1] + 1) % 3, targets[1:]])
    if loss.target_kind == "regression":
        logits, wanted = torch.ones(12, 1), torch.zeros(12, 1)
        flipped = torch.cat([torch.ones(1, 1), -torch.ones(11, 1)])

    def size(labels: Tensor, features: Tensor) -> Tensor:
        return ask(loss, logits, labels, features).features.square().sum(dim=1).sqrt()

    by_spread = torch.stack([size(wanted, grouped_features(targets, spread)).mean() for spread in SPREADS])
    usual = grouped_features(targets, SPREADS[1])
    sizes = size(wanted, usual)
    share = answer.features.norm() / (answer.features.norm() + answer.logits.norm() + TINY)
    scaling = torch.log2((size(wanted, 2 * usual).mean() + TINY) / (sizes.mean() + TINY)) / 2
    number = sizes.sum().square() / (sizes.square().sum() + TINY**2) / len(sizes)
    flip = contrast(size(flipped, usual).mean(), sizes.mean())
    return torch.cat(
        [torch.stack([share, scaling]), contrast(by_spread, by_spread.mean()), torch.stack([flip, number])]
    )


_CURVATURE = {"right": 2, "middle": 4, "wrong": 6}
_DIRECTION = {"very_right": 0, "right": 2, "middle": 4, "wrong": 8}
_SHARING = {"right": 2, "wrong": 7}
_CLASS_NUMBERS = (2, 10)

GEOMETRY_NAMES: tuple[str, ...] = (
    *("classification", "regression", "relational", "uses_features", "uses_counts"),
    *(f"size_{place}" for place in range(len(RIGHT_TO_WRONG))),
    *("outlier_sensitivity", "saturation", "growth"),
    *(f"curvature_{place}" for place in _CURVATURE),
    *(f"direction_{place}" for place in _DIRECTION),
    *(f"sharing_{place}" for place in _SHARING),
    *("rival", "asymmetry", "temperature"),
    *(f"classes_{number}" for number in _CLASS_NUMBERS),
    *(f"rarity_{p}" for p in FREQUENCIES),
    *("feature_share", "feature_scaling"),
    *(f"feature_spread_{spread}" for spread in SPREADS),
    *("feature_flip", "feature_concentration"),
)
"""Names of the entries of :func:`geometry`; see there."""

_STEP = 0.02


def geometry(loss: Loss) -> Tensor:
    """The shape of ``loss`` (G,), float32 in [-1, 1] with 0 for "says nothing", G = ``len(GEOMETRY_NAMES)``.

    Gradients on the logits are taken on a fixed grid that leads from right (p_y = 0.999, or a residual of 0.01) to
    wrong (p_y = 0.001, or a residual of 32), so that entries mean alike things for classification and regression.
    Sizes are relative to the loss's own mean size: a loss times a constant has the same vector.

    - five flags: the two target kinds, relational, uses features, uses class counts;
    - ``size_0`` ... ``size_9``: (s - mean) / (s + mean) of the gradient size s from right to wrong;
    - ``outlier_sensitivity`` and ``saturation``: log10 of the size at the wrong and the right end, a quarter of it;
      ``growth``: how much the value still grows far beyond the wrong end, 0 for a bounded loss;
    - ``curvature``: second derivative along the label's logit; negative where the loss lets go of what is wrong;
    - ``direction``: cosine with the gradient of cross-entropy (or the sign of the residual), times 2 s / (s + mean):
      negative where the loss pushes back;
    - ``sharing``: over how many wrong classes the gradient spreads; ``rival``: how a single strong wrong class changes
      its size; ``asymmetry``: positive against negative residuals; ``temperature``: response to logits times two;
    - ``classes_2``, ``classes_10``: size with so many classes against 4;
    - ``rarity``: log10 of the size for a label of 8 samples against one of 1000, by p_y, a half of it;
    - ``feature_...``: share of the gradient that goes to the features, response to features times two, size by the
      scatter of the classes, change under a flipped label, and over how many samples the gradient spreads.

    >>> from lossrag.lossbank import LOSSES
    >>> shape = dict(zip(GEOMETRY_NAMES, geometry(LOSSES["mae"]).tolist()))
    >>> shape["outlier_sensitivity"] < -0.4, shape["growth"] < 0.01, shape["uses_counts"]
    (True, True, 0.0)
    """
    return _geometry(loss).clone()


def geometry_vectors(losses: Sequence[Loss]) -> Tensor:
    """The geometry of every one of ``losses`` (L), of length 1: (L, G). Their inner products are cosines."""
    if not losses:
        return torch.empty(0, len(GEOMETRY_NAMES))
    unit: Tensor = torch.nn.functional.normalize(torch.stack([_geometry(loss) for loss in losses]), dim=1)
    return unit


def gradient_curve(loss: Loss, points: int = 101, *, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Places (points,) and sizes (points,) of the gradient on the logits of a sample, for drawing.

    For classification over p_y in [0.001, 0.999] with the wrong classes equal and all classes equally frequent; for
    regression over residuals in [-5, 5]. Zero for a loss on features alone. Not scaled.

    Raises ConfigError for less than 2 points or classes.

    >>> from lossrag.lossbank import LOSSES
    >>> p, size = gradient_curve(LOSSES["mae"], 3, classes=2)
    >>> [round(float(s), 3) for s in size]
    [0.003, 0.707, 0.003]
    """
    if points < 2 or classes < 2:
        raise ConfigError(f"A curve takes 2 points and 2 classes or more, got {points} points and {classes} classes.")
    if loss.target_kind == "regression":
        where = torch.linspace(-5.0, 5.0, points)
        return where, ask(loss, where[:, None], torch.zeros(points, 1)).size
    where, targets = torch.linspace(0.001, 0.999, points), torch.zeros(points, dtype=torch.long)
    return where, ask(loss, class_logits(where, targets, classes, peaked=False), targets).size


@lru_cache(maxsize=4096)
def _geometry(loss: Loss) -> Tensor:
    probes = grid(loss.target_kind)
    answer = ask(loss, probes.both, probes.targets)
    even, rival = answer.size[:10], answer.size[10:20]
    curve = (even + rival) / 2
    scale = (probes.weights * curve).mean()
    ends = (log_ratio(curve[[9, 0]], scale) / 4).clamp(-1, 1)
    growth = (answer.values[20] - answer.values[9]) / ((answer.values[9] - answer.values[0]).abs() + TINY)
    flags = (loss.target_kind == "classification", loss.target_kind == "regression", loss.relational)
    parts = [
        torch.tensor([*flags, "features" in loss.needs, "class_counts" in loss.needs], dtype=torch.float32),
        contrast(curve, scale),
        ends,
        (growth.clamp(min=0) / (1 + growth.clamp(min=0)))[None],
        _curvature(loss, probes, answer, scale),
        _direction(answer, probes, scale),
        _sharing(answer, probes),
        contrast(rival, even)[[5]] * (loss.target_kind == "classification"),
        contrast(even, rival)[[4, 7]].mean()[None] * (loss.target_kind == "regression"),
        log_ratio(ask(loss, 2 * probes.both, probes.targets).size[:20].mean(), answer.size[:20].mean())[None],
        _class_numbers(loss, curve),
        rarity(loss, scale),
        feature_use(loss, answer),
    ]
    return torch.cat(parts).clamp(-1, 1)


def _curvature(loss: Loss, probes: Grid, answer: Answer, scale: Tensor) -> Tensor:
    label = torch.nn.functional.one_hot(probes.targets, CLASSES) if probes.targets.ndim == 1 else 1.0
    sign = 1.0 if probes.targets.ndim == 1 else probes.both.sign()
    moved = ask(loss, probes.both + _STEP * sign * label, probes.targets)
    second = ((moved.logits - answer.logits) * sign * label).sum(dim=1) / _STEP
    return torch.tanh((second[:10] + second[10:20]) / 2 / (scale + TINY))[list(_CURVATURE.values())]


def _direction(answer: Answer, probes: Grid, scale: Tensor) -> Tensor:
    cosine = torch.nn.functional.cosine_similarity(answer.logits[:20] / (scale + TINY), probes.pull, dim=1)
    # A direction means little where the gradient is next to nothing.
    signed = cosine * answer.size[:20] / (answer.size[:20] + scale + TINY)
    return (signed[:10] + signed[10:])[list(_DIRECTION.values())]


def _sharing(answer: Answer, probes: Grid) -> Tensor:
    if probes.targets.ndim > 1:
        return torch.zeros(len(_SHARING))
    wrong = answer.logits[10:20].abs() * (1 - torch.eye(CLASSES)[probes.targets[10:20]])
    number = wrong.sum(dim=1).square() / (wrong.square().sum(dim=1) + TINY**2)
    return (number / (CLASSES - 1))[list(_SHARING.values())]


def _class_numbers(loss: Loss, curve: Tensor) -> Tensor:
    if loss.target_kind == "regression":
        return torch.zeros(len(_CLASS_NUMBERS))
    p, targets = torch.tensor(RIGHT_TO_WRONG), torch.zeros(10, dtype=torch.long)
    sizes = [ask(loss, class_logits(p, targets, number, peaked=False), targets).size for number in _CLASS_NUMBERS]
    return log_ratio(torch.stack(sizes).mean(dim=1), curve.mean())
