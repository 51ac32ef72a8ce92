"""Adam's bias-corrected moments (Kingma and Ba, ICLR 2015, Algorithm 1), for whoever holds the moments itself.

How the moments are updated is left to their holders: in place or not, which rounds differently, or by torch. What must
agree with torch's Adam to the bit (LazyAdam) follows torch's own order of operations instead.
"""

from __future__ import annotations

from torch import Tensor


def adam_scale(square: Tensor, beta: float, count: Tensor | float, epsilon: float) -> Tensor:
    """sqrt(v_hat) + epsilon, in the shape of ``square`` v, the second moment after ``count`` >= 1 updates."""
    return (square / (1 - beta**count)).sqrt().add_(epsilon)


def adam_direction(
    mean: Tensor, square: Tensor, betas: tuple[float, float], count: Tensor | float, epsilon: float
) -> Tensor:
    """m_hat / (sqrt(v_hat) + epsilon), what an update subtracts times its learning rate, from the moments m and v.

    >>> import torch
    >>> adam_direction(torch.tensor([0.2]), torch.tensor([0.004]), (0.9, 0.999), 1, 0.0)  # after a gradient of 2
    tensor([1.])
    """
    return mean / (1 - betas[0] ** count) / adam_scale(square, betas[1], count, epsilon)
