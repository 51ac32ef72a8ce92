"""Euclidean losses: squared distances and angles between what is predicted and the one-hot target."""

from __future__ import annotations

from torch import Tensor

from lossrag.lossbank.library.registration import register_loss
from lossrag.lossbank.losses.parts import is_class, of_class


@register_loss(
    "brier",
    family="euclidean",
    target_kind="classification",
    reference="Brier, Verification of Forecasts Expressed in Terms of Probability, 1950",
    formula="sum_k (p_k - [k = y])^2",
)
def brier(logits: Tensor, targets: Tensor) -> Tensor:
    """Squared distance of p to the one-hot target, in [0, 2].

    With p = (1/4, ..., 1/4): 9/16 + 3/16.

    >>> import torch
    >>> float(brier(torch.zeros(1, 4), torch.tensor([2])))
    0.75
    """
    return (logits.softmax(dim=1) - is_class(logits, targets).to(logits.dtype)).square().sum(dim=1)


@register_loss(
    "spherical",
    family="euclidean",
    target_kind="classification",
    reference="Gneiting and Raftery, Strictly Proper Scoring Rules, JASA 2007",
    formula="1 - p_y / sqrt(sum_k p_k^2)",
)
def spherical(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the cosine of the angle between p and the one-hot target, in [0, 1].

    With p = (1/4, ..., 1/4): 1 - (1/4) / (1/2).

    >>> import torch
    >>> float(spherical(torch.zeros(1, 4), torch.tensor([2])))
    0.5
    """
    p = logits.softmax(dim=1)
    return 1 - of_class(p, targets) * p.square().sum(dim=1).rsqrt()


@register_loss(
    "logit_squared_error",
    family="euclidean",
    target_kind="classification",
    reference="Hui and Belkin, Evaluation of Neural Architectures Trained with Square Loss, ICLR 2021, unscaled",
    formula="1 / K sum_k (z_k - [k = y])^2",
)
def logit_squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean squared distance of the logits themselves to the one-hot target, in [0, inf).

    >>> import torch
    >>> float(logit_squared_error(torch.tensor([[3.0, 0.0]]), torch.tensor([0])))
    2.0
    """
    return (logits - is_class(logits, targets).to(logits.dtype)).square().mean(dim=1)
