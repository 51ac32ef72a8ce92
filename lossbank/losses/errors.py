"""Losses for real values: predictions (B, K), targets (B, K); the mean over K."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lossbank.registration import register_loss


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
    return torch.where(size < delta, error.square() / 2, delta * (size - delta / 2)).mean(dim=1)


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
