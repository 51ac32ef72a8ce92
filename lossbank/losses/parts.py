"""Parts of several losses."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-8
"""Under a square root: at zero features the gradient stays below 1 / sqrt(EPSILON)."""


def is_class(logits: Tensor, targets: Tensor) -> Tensor:
    """(B, K) booleans, True at each sample's class."""
    # not by comparison, which takes a class that there is no logit for without a word
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, targets[:, None], True)


def of_class(values: Tensor, targets: Tensor) -> Tensor:
    """values (B, K) at each sample's class, (B,)."""
    return values.gather(1, targets[:, None]).squeeze(1)


def log_p(logits: Tensor, targets: Tensor) -> Tensor:
    """log p_y, (B,)."""
    return of_class(logits.log_softmax(dim=1), targets)


def error_p(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - p_y, (B,), exact also where p_y rounds to 1."""
    return -torch.expm1(log_p(logits, targets))


def unit_rows(features: Tensor) -> Tensor:
    """Rows of length 1; a row of zeros stays one, with a finite gradient.

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return features * (features.square().sum(dim=1, keepdim=True) + EPSILON).rsqrt()


def same_class(targets: Tensor, labelled: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, B) booleans: pairs of two samples of one class, and pairs of two samples, of any class; none with a sample
    that is not ``labelled`` (B,) as the second."""
    others = ~torch.eye(targets.shape[0], dtype=torch.bool, device=targets.device)
    if labelled is not None:
        others = others & labelled
    return (targets[:, None] == targets) & others, others
