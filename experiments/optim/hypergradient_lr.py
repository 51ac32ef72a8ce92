"""Learning rates that descend on the objective: hypergradient descent (Almeida et al., 1998; Baydin, Cornish,
Martínez Rubio, Schmidt and Wood, "Online Learning Rate Adaptation with Hypergradient Descent", ICLR 2018).

With theta_{t-1} = theta_{t-2} - lr u_{t-1}, u being the optimiser's update without its learning rate, the derivative of
the objective at the new point is <g_t, -u_{t-1}>, so that before step t (Eq. 3 of MetaWeighting, for u = gradient)

    lr_t = lr_{t-1} + beta <g_t, u_{t-1}>

Plain SGD: u is the gradient, L2 decay included, as it is in g (SGD-HD). Momentum: the buffer (SGDN-HD is the same with
Nesterov's). Adam: m_hat / (sqrt(v_hat) + eps) (Adam-HD).

Deviations. (1) A learning rate that would turn negative is 0; the paper lets it. (2) Every group of parameters has a
learning rate and a hypergradient of its own, where the paper has one group. One number per group and step is read from
the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from lossrag.weighting.adam import adam_scale

HYPERGRADIENT_LR = "hypergradient_lr"
UPDATE = "update"


class SGDHD(torch.optim.SGD):
    """SGD whose learning rate moves by hypergradient descent with step size ``beta`` > 0; the rest as for torch's SGD.

    The groups' ``lr`` is the present learning rate, ``beta`` stands beside it as ``hypergradient_lr``, and the last
    update of plain SGD in the state: ``state_dict`` holds all that a resumed run needs.

    >>> theta = torch.tensor([1.0], requires_grad=True)
    >>> optimizer = SGDHD([theta], lr=0.1, beta=0.01)
    >>> for gradient in (2.0, 3.0):
    ...     theta.grad = torch.tensor([gradient])
    ...     optimizer.step()
    >>> round(optimizer.param_groups[0]["lr"], 6)  # 0.1 + 0.01 * 3 * 2
    0.16
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], *, beta: float, **options: Any) -> None:
        super().__init__(params, **options)
        _remember_beta(self, beta)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update, after one of the learning rates; the value of ``closure``, if there is one."""
        value = _evaluate(closure)
        _adapt(self, lambda group, state: state.get("momentum_buffer" if group["momentum"] else UPDATE))
        for group in self.param_groups:
            for parameter in [] if group["momentum"] else _with_gradient(group):
                self.state[parameter][UPDATE] = _gradient(group, parameter).clone()
        super().step()
        return value


class AdamHD(torch.optim.Adam):
    """Adam whose learning rate moves by hypergradient descent with step size ``beta`` > 0; the rest as for torch's.

    The last update is computed again from the moments, so that nothing more is held.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], *, beta: float, **options: Any) -> None:
        super().__init__(params, **options)
        _remember_beta(self, beta)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update, after one of the learning rates; the value of ``closure``, if there is one."""
        value = _evaluate(closure)
        _adapt(self, _adam_update)
        super().step()
        return value


def _remember_beta(optimizer: torch.optim.Optimizer, beta: float) -> None:
    optimizer.defaults[HYPERGRADIENT_LR] = beta
    for group in optimizer.param_groups:
        group.setdefault(HYPERGRADIENT_LR, beta)


def _evaluate(closure: Callable[[], Any] | None) -> Any:
    with torch.enable_grad():
        return None if closure is None else closure()


@torch.no_grad()
def _adapt(
    optimizer: torch.optim.Optimizer, last_update: Callable[[dict[str, Any], dict[str, Any]], Tensor | None]
) -> None:
    """Move the learning rate of every group by its hypergradient; not before the first step, which has none."""
    for group in optimizer.param_groups:
        products: list[Tensor] = []
        for parameter in _with_gradient(group):
            update = last_update(group, optimizer.state.get(parameter, {}))
            if update is not None:
                products.append((_gradient(group, parameter) * update).sum(dtype=torch.float32))
        if products:
            slope = float(torch.stack(products).cpu().double().sum())
            group["lr"] = max(0.0, group["lr"] + group[HYPERGRADIENT_LR] * slope)


def _with_gradient(group: dict[str, Any]) -> list[Tensor]:
    return [parameter for parameter in group["params"] if parameter.grad is not None]


@torch.no_grad()
def _gradient(group: dict[str, Any], parameter: Tensor) -> Tensor:
    """That of the objective with its L2 term."""
    assert parameter.grad is not None
    return parameter.grad.add(parameter, alpha=group["weight_decay"]) if group["weight_decay"] else parameter.grad


def _adam_update(group: dict[str, Any], state: dict[str, Any]) -> Tensor | None:
    if not state:
        return None
    beta1, beta2 = group["betas"]
    count = float(state["step"])
    scale = adam_scale(state["exp_avg_sq"], beta2, count, group["eps"])
    update: Tensor = state["exp_avg"] / ((1 - beta1**count) * scale)
    return update
