"""Losses for real values that outliers do not rule; the mean over the outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from lossbank.registration import register_loss


@register_loss(
    "barron",
    family="regression",
    target_kind="regression",
    reference="Barron, A General and Adaptive Robust Loss Function, CVPR 2019: alpha 1 is Charbonnier, 0 Cauchy, -2 "
    "Geman-McClure",
    formula="mean_k |alpha - 2| / alpha ((e_k^2 / |alpha - 2| + 1)^(alpha / 2) - 1); alpha = 0: log(e_k^2 / 2 + 1)",
    variants={f"barron_{alpha}": {"alpha": alpha} for alpha in (1, 0, -2)},
)
def barron(logits: Tensor, targets: Tensor, *, alpha: float = 1.0) -> Tensor:
    """e^2 / 2 for small errors; the smaller alpha < 2, the less large ones count; in [0, inf), bounded if alpha < 0.

    alpha = 1: sqrt(15 + 1) - 1; alpha = 0: log(16/2); alpha = -2: 2 * 12 / (12 + 4).

    >>> error = lambda square: (torch.tensor([[float(square)]]).sqrt(), torch.zeros(1, 1))
    >>> round(float(barron(*error(15))), 4), round(float(barron(*error(14), alpha=0).exp()), 4)
    (3.0, 8.0)
    >>> round(float(barron(*error(12), alpha=-2)), 4)
    1.5
    """
    square = (logits - targets).square()
    if alpha == 0:
        return torch.log1p(square / 2).mean(dim=1)
    width = abs(alpha - 2)
    # expm1 and log1p keep errors whose square is lost beside 1
    return (torch.expm1(torch.log1p(square / width) * (alpha / 2)) * (width / alpha)).mean(dim=1)


@register_loss(
    "tukey",
    family="regression",
    target_kind="regression",
    reference="Beaton and Tukey, Technometrics 1974; c of Holland and Welsch 1977",
    formula="mean_k c^2 / 6 (1 - (1 - min(1, (e_k / c)^2))^3)",
)
def tukey(logits: Tensor, targets: Tensor, *, c: float = 4.685) -> Tensor:
    """Biweight: e^2 / 2 for small errors, constant and without gradient beyond c, in [0, c^2 / 6].

    >>> import torch
    >>> tukey(torch.tensor([[0.0], [6.0], [60.0]]), torch.zeros(3, 1), c=6.0).tolist()
    [0.0, 6.0, 6.0]
    """
    ratio = ((logits - targets) / c).square().clamp(max=1)
    # 1 - (1 - r)^3 without the cancellation
    return (c**2 / 6 * ratio * (3 - 3 * ratio + ratio.square())).mean(dim=1)


@register_loss(
    "gaussian_profiled",
    family="regression",
    target_kind="regression",
    reference="after Nix and Weigend, Estimating the Mean and Variance of the Target Probability Distribution, 1994",
    formula="mean_k (e_k^2 / v_k + log v_k) / 2, v_k = 1e-6 + the batch's mean of e_k^2",
    relational=True,
)
def gaussian_profiled(logits: Tensor, targets: Tensor) -> Tensor:
    """Gaussian negative log-likelihood at the variance that fits the batch best, in (-7, inf).

    A heteroscedastic likelihood predicts a variance per sample with a second output. There is none here, so each output
    has one variance per batch, which the gradient passes through. The mean over a batch is log(v) / 2 + 1/2: the
    gradient no longer depends on the unit of the target. Without the constant log(2 pi) / 2.

    Errors 1 and 2 have v = 5/2: (1 / 2.5 + log(2.5)) / 2 and (4 / 2.5 + log(2.5)) / 2.

    >>> import torch
    >>> [round(v, 4) for v in gaussian_profiled(torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)).tolist()]
    [0.6581, 1.2581]
    """
    square = (logits - targets).square()
    variance = square.mean(dim=0) + 1e-6
    return (square / variance + variance.log()).mean(dim=1) / 2
