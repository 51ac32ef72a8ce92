"""Regression losses: predictions (B, K), targets (B, K); the mean over K."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lossrag.lossbank.library.registration import register_loss


@register_loss(
    "squared_error", family="regression", target_kind="regression", reference="Gauss 1809", formula="mean_k e_k^2"
)
def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the outputs of (prediction - target)^2, in [0, inf).

    >>> import torch
    >>> squared_error(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]])).tolist()
    [5.0]
    """
    return (logits - targets).square().mean(dim=1)


@register_loss("l1", family="regression", target_kind="regression", reference="Laplace 1774", formula="mean_k |e_k|")
def l1(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the outputs of |prediction - target|, in [0, inf).

    >>> import torch
    >>> l1(torch.tensor([[1.0, -3.0]]), torch.tensor([[0.0, 0.0]])).tolist()
    [2.0]
    """
    return (logits - targets).abs().mean(dim=1)


@register_loss(
    "huber",
    family="regression",
    target_kind="regression",
    reference="Huber, Robust Estimation of a Location Parameter, 1964",
    formula="mean_k (e_k^2 / 2 if |e_k| <= delta else delta (|e_k| - delta / 2))",
    variants={"huber": {}, "huber_0.5": {"delta": 0.5}, "huber_2": {"delta": 2}},
)
def huber(logits: Tensor, targets: Tensor, *, delta: float = 1.0) -> Tensor:
    """Quadratic up to an error of delta, linear beyond; mean over the outputs, in [0, inf).

    >>> import torch
    >>> huber(torch.tensor([[3.0]]), torch.tensor([[0.0]])).tolist()
    [2.5]
    """
    # Not torch's own huber_loss, whose gradient has no forward mode.
    error = logits - targets
    size = error.abs()
    # clamped where it is not taken: the square of a large error is infinite, and its gradient 0 times that
    small = error.clamp(-delta, delta).square() / 2
    return torch.where(size < delta, small, delta * (size - delta / 2)).mean(dim=1)


@register_loss(
    "log_cosh",
    family="regression",
    target_kind="regression",
    reference="Green, Bayesian Reconstructions from Emission Tomography Data Using a Modified EM Algorithm, 1990",
    formula="mean_k log(cosh(e_k))",
)
def log_cosh(logits: Tensor, targets: Tensor) -> Tensor:
    """Half the square of small errors, large ones less log 2; mean over the outputs, in [0, inf).

    cosh(log 2) = (2 + 1/2) / 2.

    >>> import torch
    >>> round(float(log_cosh(torch.tensor([[math.log(2)]]), torch.zeros(1, 1)).exp()), 4)
    1.25
    """
    error = logits - targets
    # -1/2 log(1 - tanh^2) keeps small errors, the other form large ones.
    small = -torch.log1p(-error.clamp(-1, 1).tanh().square()) / 2
    size = error.abs()
    large = size + torch.log1p(torch.exp(-2 * size)) - math.log(2)
    return torch.where(size < 1, small, large).mean(dim=1)


@register_loss(
    "quantile",
    family="regression",
    target_kind="regression",
    reference="Koenker and Bassett, Regression Quantiles, Econometrica 1978",
    formula="mean_k max(-q e_k, (1 - q) e_k)",
    variants={f"quantile_{q}": {"q": q} for q in (0.1, 0.25, 0.75, 0.9)},
)
def quantile(logits: Tensor, targets: Tensor, *, q: float = 0.5) -> Tensor:
    """Lowest where the prediction is the q-quantile; mean over the outputs, in [0, inf). q = 1/2 is half of l1.

    Too low by 2 costs 2 q, too high by 2 costs 2 (1 - q).

    >>> import torch
    >>> quantile(torch.tensor([[-2.0], [2.0]]), torch.zeros(2, 1), q=0.75).tolist()
    [1.5, 0.5]
    """
    error = logits - targets
    return torch.maximum(-q * error, (1 - q) * error).mean(dim=1)


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
def gaussian_profiled(logits: Tensor, targets: Tensor, *, labelled: Tensor | None = None) -> Tensor:
    """Gaussian negative log-likelihood at the variance that fits the batch best, in (-7, inf).

    A heteroscedastic likelihood predicts a variance per sample with a second output. There is none here, so each output
    has one variance per batch, which the gradient passes through. The mean over a batch is log(v) / 2 + 1/2: the
    gradient no longer depends on the unit of the target. Without the constant log(2 pi) / 2. Rows that are not
    ``labelled`` (B,), booleans, have no share in the variance.

    Errors 1 and 2 have v = 5/2: (1 / 2.5 + log(2.5)) / 2 and (4 / 2.5 + log(2.5)) / 2.

    >>> import torch
    >>> [round(v, 4) for v in gaussian_profiled(torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)).tolist()]
    [0.6581, 1.2581]
    """
    square = (logits - targets).square()
    known = square if labelled is None else square.masked_fill(~labelled[:, None], 0)
    number = len(square) if labelled is None else labelled.sum().clamp(min=1)
    variance = known.sum(dim=0) / number + 1e-6
    return (square / variance + variance.log()).mean(dim=1) / 2
