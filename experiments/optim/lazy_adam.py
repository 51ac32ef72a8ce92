"""Adam that leaves alone what a step did not touch: for tables of which every batch reads a few rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

BLOCK_ROWS = 512
"""Rows that are updated in one go: their temporaries stay in the cache."""


class LazyAdam(torch.optim.Adam):
    """Adam; of a parameter (V, ...) whose gradient is sparse, only the rows that the gradient holds are updated.

    Dense Adam goes on moving a row while it is absent, along the moments of its last gradients, and lets these decay.
    Here both rest until the row returns; the count k in the bias correction is that of all steps, as in
    torch.optim.SparseAdam. A row that every gradient holds is updated exactly as by Adam. Adam's own class and not
    SparseAdam beside it: one state and one list of groups, so that a checkpoint needs no special case, and Adam's
    epsilon, which SparseAdam adds before the bias correction of the second moment.

    params, lr, eps, fused: as for torch.optim.Adam; groups with sparse gradients need ``fused=False`` of their
    own, so that their count stays on the host. There is no weight decay: it would have to shrink the absent rows.

    >>> table = torch.zeros(3, 1, requires_grad=True)
    >>> optimizer = LazyAdam([table], lr=0.5)
    >>> for rows in ([0, 1], [1]):
    ...     table.grad = torch.sparse_coo_tensor([rows], torch.ones(len(rows), 1), (3, 1), check_invariants=True)
    ...     optimizer.step()
    >>> [round(value, 3) for value in table.flatten().tolist()]
    [-0.5, -1.0, 0.0]
    """

    def __init__(self, params: ParamsT, lr: float = 1e-3, eps: float = 1e-8, fused: bool | None = None) -> None:
        super().__init__(params, lr=lr, eps=eps, fused=fused)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update from the gradients, dense and sparse ones; the value of ``closure``, if there is one."""
        with torch.enable_grad():
            value = None if closure is None else closure()
        held = [(g, p, p.grad) for g in self.param_groups for p in g["params"] if p.grad is not None]
        sparse = [(group, parameter, gradient) for group, parameter, gradient in held if gradient.is_sparse]
        for _, parameter, _ in sparse:
            parameter.grad = None  # Adam passes over what has no gradient
        super().step()
        for group, parameter, gradient in sparse:
            parameter.grad = gradient
            with torch.no_grad():
                self._update_rows(group, parameter, gradient.coalesce())
        return value

    def _update_rows(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        """Adam on the rows of a coalesced sparse ``gradient``; nothing as large as the table is made but its state."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)  # as Adam has it, or a resumed run would count in another type
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        rows, values = gradient.indices()[0], gradient.values()
        (beta1, beta2), count = group["betas"], state["step"].item()
        for at, new in zip(torch.split(rows, BLOCK_ROWS), torch.split(values, BLOCK_ROWS), strict=True):
            first = state["exp_avg"].index_select(0, at).lerp_(new, 1 - beta1)
            second = state["exp_avg_sq"].index_select(0, at).mul_(beta2).addcmul_(new, new, value=1 - beta2)
            state["exp_avg"].index_copy_(0, at, first)
            state["exp_avg_sq"].index_copy_(0, at, second)
            scale = second.sqrt_().div_((1 - beta2**count) ** 0.5).add_(group["eps"])
            moved = parameter.index_select(0, at).addcdiv_(first, scale, value=-group["lr"] / (1 - beta1**count))
            parameter.index_copy_(0, at, moved)
