"""Adversarial shared-private learning (AdvMTL; Liu, Qiu and Huang, ACL 2017): discriminator and orthogonality penalty.

The discriminator tells which task shared features come from, behind a gradient reversal (Ganin and Lempitsky, ICML
2015): what is above it learns, what is below it unlearns. The penalty (Bousmalis et al., NIPS 2016) keeps shared and
private features apart.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossrag.checks import one_of

PENALTIES = ("paper", "unit")
"""Forms of the orthogonality penalty: the sum of squares as written, or a mean of squared cosines in [0, 1]."""
_SMALLEST = 1e-6


class TaskDiscriminator(nn.Module):
    """Shared features (B, F) -> logits (B, tasks) of one linear layer: D(s) = softmax(U s + b).

    With a single task there is nothing to tell apart: its loss is 0, and so are all gradients.
    """

    def __init__(self, features: int, tasks: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, tasks)

    def forward(self, shared: Tensor) -> Tensor:
        logits: Tensor = self.layer(shared)
        return logits

    def loss(self, shared: Tensor, task: int) -> Tensor:
        """Mean cross-entropy () of the features (B, F), all of one task, behind a gradient reversal.

        Its gradient teaches the discriminator to recognise the task, and the encoder of the features to hide it.

        >>> TaskDiscriminator(3, 1).loss(torch.ones(2, 3), 0).item()
        0.0
        """
        return F.cross_entropy(self(reverse(shared)), torch.full((len(shared),), task, device=shared.device))

    @torch.no_grad()
    def accuracy(self, shared: Tensor, task: int) -> Tensor:
        """Share () of the features (B, F), all of one task, that are told to be of it; 1 / tasks is guessing.

        >>> TaskDiscriminator(3, 1).accuracy(torch.ones(2, 3), 0).item()
        1.0
        """
        recognised: Tensor = self(shared).argmax(dim=1) == task
        return recognised.to(shared.dtype).mean()


def reverse(features: Tensor) -> Tensor:
    """The same values; on the way back the gradient changes its sign, and nothing else.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> (3 * reverse(x)).sum().backward()
    >>> x.grad
    tensor([-3., -3.])
    """
    reversed_features: Tensor = _Reversal.apply(features)  # type: ignore[no-untyped-call]
    return reversed_features


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor) -> Tensor:
        return features.view_as(features)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def orthogonality(shared: Tensor, private: Tensor, scale: str = "paper") -> Tensor:
    """||S^T P||_F^2 () of the features S (B, F) and P (B, G) that two encoders give for the same B rows.

    scale: ``paper`` as Liu et al. write it: it grows with the square of the batch and with the fourth power of the
        features' size. ``unit``: on rows centred over the batch and scaled to length 1, divided by B^2, which lies in
        [0, 1]; of a single row it is 0. Centred unit rows are what the code of Bousmalis et al. takes, which divides by
        F G instead.

    Raises ConfigError for another scale.

    >>> orthogonality(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])).item()  # 3^2 + 6^2
    45.0
    >>> same = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> orthogonality(same, same, "unit").item()
    1.0
    """
    one_of("orthogonality: scale", scale, PENALTIES)
    if scale == "paper":
        return (shared.mT @ private).square().sum()
    rows = [F.normalize(part - part.mean(dim=0), dim=1, eps=_SMALLEST) for part in (shared, private)]
    return (rows[0].mT @ rows[1]).square().sum() / len(shared) ** 2
