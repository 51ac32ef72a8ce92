"""Losses for real values: predictions (B, K), targets (B, K); the mean over K."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lossbank.contract import register_loss


@register_loss("squared_error", family="regression", target_kind="regression", reference="Gauss 1809")
def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the outputs of (prediction - target)^2, in [0, inf).

    >>> import torch
    >>> squared_error(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]])).tolist()
    [5.0]
    """
    return (logits - targets).square().mean(dim=1)


@register_loss("huber", family="regression", target_kind="regression", reference="Huber 1964, delta = 1")
def huber(logits: Tensor, targets: Tensor) -> Tensor:
    """Quadratic up to an error of 1, linear beyond; mean over the outputs, in [0, inf).

    >>> import torch
    >>> huber(torch.tensor([[3.0]]), torch.tensor([[0.0]])).tolist()
    [2.5]
    """
    return F.huber_loss(logits, targets, reduction="none").mean(dim=1)
