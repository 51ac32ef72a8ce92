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

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from lossrag.weighting.training.adam import adam_scale

HYPERGRADIENT_LR = "hypergradient_lr"
UPDATE = "update"


class HypergradientDescent(torch.optim.Optimizer):
    """The learning rates of a torch optimiser, its other base, moved by hypergradient descent with step size ``beta``
    > 0. The groups' ``lr`` is the present learning rate, ``beta`` stands beside it as ``hypergradient_lr``."""

    def __init__(self, params: ParamsT, *, beta: float, **options: Any) -> None:
        super().__init__(params, **options)
        self.defaults[HYPERGRADIENT_LR] = beta
        for group in self.param_groups:
            group.setdefault(HYPERGRADIENT_LR, beta)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update, after one of the learning rates; the value of ``closure``, if there is one."""
        with torch.enable_grad():
            value = None if closure is None else closure()
        self._adapt()
        super().step()
        return value

    @torch.no_grad()
    def _adapt(self) -> None:
        """Move the learning rate of every group by its hypergradient; not before the first step, which has none."""
        for group in self.param_groups:
            decay, products = group["weight_decay"], []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.add(parameter, alpha=decay) if decay else parameter.grad
                update = self._last_update(group, self.state[parameter], gradient)
                if update is not None:
                    products.append((gradient * update).sum(dtype=torch.float32))
            if products:
                slope = float(torch.stack(products).cpu().double().sum())
                group["lr"] = max(0.0, group["lr"] + group[HYPERGRADIENT_LR] * slope)

    def _last_update(self, group: dict[str, Any], state: dict[str, Any], gradient: Tensor) -> Tensor | None:
        """u of the step before, None at the first; ``gradient`` is that of the objective with its L2 term."""
        raise NotImplementedError


class SGDHD(HypergradientDescent, torch.optim.SGD):
    """SGD with such learning rates; the rest as for torch's SGD.

    The last update of plain SGD is in the state: ``state_dict`` holds all that a resumed run needs.

    >>> theta = torch.tensor([1.0], requires_grad=True)
    >>> optimizer = SGDHD([theta], lr=0.1, beta=0.01)
    >>> for gradient in (2.0, 3.0):
    ...     theta.grad = torch.tensor([gradient])
    ...     optimizer.step()
    >>> round(optimizer.param_groups[0]["lr"], 6)  # 0.1 + 0.01 * 3 * 2
    0.16
    """

    def _last_update(self, group: dict[str, Any], state: dict[str, Any], gradient: Tensor) -> Tensor | None:
        if group["momentum"]:
            return state.get("momentum_buffer")
        last, state[UPDATE] = state.get(UPDATE), gradient.clone()
        return last


class AdamHD(HypergradientDescent, torch.optim.Adam):
    """Adam with such learning rates; the rest as for torch's.

    The last update is computed again from the moments, so that nothing more is held.
    """

    def _last_update(self, group: dict[str, Any], state: dict[str, Any], gradient: Tensor) -> Tensor | None:
        if not state:
            return None
        beta1, beta2 = group["betas"]
        count = float(state["step"])
        scale = adam_scale(state["exp_avg_sq"], beta2, count, group["eps"])
        update: Tensor = state["exp_avg"] / ((1 - beta1**count) * scale)
        return update
