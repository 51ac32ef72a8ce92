"""Losses for integer classes: logits (B, K), targets (B,) int64."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lossbank.contract import register_loss


@register_loss(
    "cross_entropy",
    family="probabilistic",
    target_kind="classification",
    reference="negative log-likelihood of the softmax",
)
def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p_y, in [0, inf).

    >>> import torch
    >>> round(float(cross_entropy(torch.zeros(1, 4), torch.tensor([2]))), 4)
    1.3863
    """
    return F.cross_entropy(logits, targets, reduction="none")


@register_loss(
    "one_minus_p",
    family="noise-robust",
    target_kind="classification",
    reference="half the mean absolute error of Ghosh et al. (AAAI 2017)",
)
def one_minus_p(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - p_y, in [0, 1]: bounded, as Theorems 2 and 3 of the MetaWeighting paper assume.

    >>> import torch
    >>> float(one_minus_p(torch.zeros(1, 4), torch.tensor([2])))
    0.75
    """
    return 1 - logits.softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
