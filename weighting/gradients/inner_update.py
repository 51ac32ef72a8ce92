"""The inner update as the outer problem sees it: d theta^k / d w_j = -(1/T) * factor * grad L_j^s.

For a plain gradient step the factor is the learning rate eta (Eq. 10). For Adam it is the diagonal
preconditioner, held constant: theta^k = theta^{k-1} - eta * m_hat / (sqrt(v_hat) + eps), and m_hat holds the new
gradient with the share (1 - beta1) / (1 - beta1^k).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.weighting.base import HypergradientSpec
from lossrag.weighting.training.adam import adam_scale
from lossrag.weighting.training.optimizers import Optimizers


def inner_factors(
    optimizers: Optimizers, parameters: Sequence[Tensor], spec: HypergradientSpec
) -> list[Tensor | float]:
    """One factor per parameter: a number, or a tensor of its shape for ``inner="adam"``.

    Called after the optimisers' step, so that Adam's moments are those of this update. With ``scale="unit"`` eta
    is left out.
    """
    places = optimizers.places()
    factors: list[Tensor | float] = []
    for parameter in parameters:
        optimizer, group = places[parameter]
        eta = 1.0 if spec.scale == "unit" else group["lr"]
        factors.append(eta if spec.inner == "sgd" else eta * _adam_share(optimizer, group, parameter))
    return factors


def check_inner(optimizers: Optimizers, spec: HypergradientSpec) -> None:
    """Refuse ``inner="adam"`` for optimisers other than torch's Adam and AdamW (without amsgrad)."""
    for optimizer in optimizers.every if spec.inner == "adam" else ():
        is_adam = isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))
        if not is_adam or any(group["amsgrad"] for group in optimizer.param_groups):
            raise ConfigError(
                f"inner='adam' differentiates through Adam's preconditioner, but the optimiser is "
                f"{type(optimizer).__name__}: use torch.optim.Adam or AdamW without amsgrad, or inner='sgd'."
            )


def _adam_share(optimizer: torch.optim.Optimizer, group: dict[str, Any], parameter: Tensor) -> Tensor:
    """(1 - beta1) / (1 - beta1^k) / (sqrt(v_hat) + eps) in the shape of ``parameter``; 0 before its first step."""
    state = optimizer.state.get(parameter)
    if not state:
        return torch.zeros_like(parameter)
    beta1, beta2 = group["betas"]
    # torch keeps the count in float32, on the host unless capturable; 1 - beta2^k loses five digits in float32
    count = state["step"]
    step = count.item() if count.device.type == "cpu" else count.double()
    share: Tensor = (1 - beta1) / ((1 - beta1**step) * adam_scale(state["exp_avg_sq"], beta2, step, group["eps"]))
    return share
