"""The multi-task Rademacher complexity of the paper's Eq. 15, from below: by training on random signs.

    R = E_sigma sup_theta (1/T) sum_t (1/n_t) sum_i sigma_i^t l(h_t(x_i^t; theta), y_i^t),   sigma = +-1, each by 1/2

No algorithm finds the supremum of a network. What a model reaches that is trained towards it is a lower bound of it,
for every sigma and so in the mean. With losses in [0, 1], 1/2 is what a class reaches that fits any signs, and no class
reaches more; a single model has R = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean

import torch
from torch import Tensor

Losses = Callable[[], Sequence[Tensor]]
"""Bounded losses (n_t,) in [0, 1] of every task on its training samples, with the model as it is."""


def draw_signs(sizes: Sequence[int], seed: int) -> list[Tensor]:
    """sigma: -1 or 1, (n_t,) float32 for every task.

    >>> [signs.abs().tolist() for signs in draw_signs([2, 1], seed=0)]
    [[1.0, 1.0], [1.0]]
    """
    generator = torch.Generator().manual_seed(seed)
    return [2.0 * torch.randint(0, 2, (size,), generator=generator) - 1 for size in sizes]


def correlation(signs: Sequence[Tensor], losses: Sequence[Tensor]) -> float:
    """The term under the supremum: (1/T) sum_t mean(sigma^t l^t), for signs and losses (n_t,) of every task.

    >>> correlation([torch.tensor([1.0, -1.0])], [torch.tensor([1.0, 0.0])])  # losses that follow the signs
    0.5
    """
    return mean(float((sign.double() * loss.double().cpu()).mean()) for sign, loss in zip(signs, losses, strict=True))


def fit_signs(signs: Sequence[Tensor], losses: Losses, epoch: Callable[[int], None], epochs: int) -> float:
    """The largest :func:`correlation` that was met in so many epochs, before the first and after each.

    epoch: trains the model for one epoch, given its number from 0.
    """
    best = correlation(signs, losses())
    for number in range(epochs):
        epoch(number)
        best = max(best, correlation(signs, losses()))
    return best


def sign_loss(logits: Tensor, targets: Tensor, signs: Tensor) -> Tensor:
    """The loss whose descent follows the signs, () from logits (B, K), classes (B,) and signs (B,).

    -log p_y where the loss is to fall, -log(1 - p_y) where it is to rise: unlike 1 - p_y itself they have a gradient
    where the model is sure of the wrong thing.
    """
    log_p = torch.log_softmax(logits, dim=1)
    true = torch.zeros_like(log_p, dtype=torch.bool).scatter_(1, targets[:, None], True)
    others = torch.logsumexp(log_p.masked_fill(true, -torch.inf), dim=1)
    return -torch.where(signs < 0, log_p[true], others).mean()
