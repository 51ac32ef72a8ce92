"""The gradient reversal layer (Ganin and Lempitsky, ICML 2015): what is above it learns, what is below it unlearns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor) -> Tensor:
        return features.view_as(features)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def reverse(features: Tensor) -> Tensor:
    """The same values; on the way back the gradient changes its sign, and nothing else.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> (3 * reverse(x)).sum().backward()
    >>> x.grad
    tensor([-3., -3.])
    """
    reversed_features: Tensor = _Reversal.apply(features)  # type: ignore[no-untyped-call]
    return reversed_features
