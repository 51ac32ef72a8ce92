"""Absent tasks: a step, or an outer problem, over the tasks that are there.

A task without a labelled row in a batch takes no part in the step: neither in the movement of the weights nor in the
Gramian, averages or ratios they are made of. A method knows nothing of it: it is asked about the problem of the present
tasks alone, with their entries of the state and of the options, and what it answers is put back. So the present tasks
get what they would get in a run without the others, and the weights and memory of those stay to the bit.

Who is present is known on the host. Entries are picked and put back as views and one copy: no index goes to the device,
and nothing comes back from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lossrag.weighting.base import Outer, Signals, State, Weighting


def weigh_present(
    weighting: Weighting, state: State, signals: Signals, present: Sequence[bool]
) -> tuple[Tensor, State]:
    """Task weights (T,) of this step, and the state after it, where only the tasks of ``present`` (T,) take part.

    signals: those of all T tasks; entries of absent tasks may hold anything.

    The weights of the n present tasks are those of a problem with n tasks, for the update (1/n) sum_t w_t g_t; those of
    absent tasks are their last ones, to be multiplied with nothing.

    >>> from lossrag.weighting.methods.mgda import MGDA
    >>> method, B = MGDA(), torch.diag(torch.tensor([1.0, 4.0, torch.nan]))
    >>> state = method.init(3, torch.device("cpu"))
    >>> weights, state = weigh_present(method, state, Signals(torch.ones(3), B), [True, True, False])
    >>> [round(weight, 4) for weight in weights.tolist()]
    [1.6, 0.4, 1.0]
    """
    kept, tasks = _kept(present), len(present)
    if len(kept) == tasks:
        return weighting.weigh(state, signals)
    if not kept:
        return state["weights"], state
    part: dict[str, Any] = {
        name: _take(value, kept, tasks) for name, value in vars(signals).items() if isinstance(value, Tensor)
    }
    inside = {name: _take(value, kept, tasks) for name, value in state.items()}
    weights, after = weighting.among(kept, tasks).weigh(inside, replace(signals, **part))
    return (
        _put(state["weights"], weights, kept, tasks),
        {name: _put(state[name], value, kept, tasks) for name, value in after.items()},
    )


def learn_present(
    weighting: Weighting, state: State, hypergradient: Tensor, outer: Sequence[bool], present: Sequence[bool]
) -> tuple[State, Outer]:
    """The state after the outer step, and its result, where only some tasks take part in it.

    hypergradient: D (T, T); rows of tasks that are not in ``outer`` and columns of tasks that are not ``present`` may
        hold anything.
    outer: (T,), the tasks that have a query loss in this outer problem.
    present: (T,), the tasks that had a support loss in this step; the weights of the others stay.

    lam (T,) and the direction (T,) are 0 for the tasks left out. With no row or no column nothing is learned.
    """
    rows, columns, tasks = _kept(outer), _kept(present), len(present)
    if len(rows) == len(columns) == tasks:
        return weighting.learn(state, hypergradient)
    none = torch.zeros_like(state["weights"])
    if not rows or not columns:
        zero = torch.zeros((), dtype=none.dtype, device=none.device)
        return state, Outer(none, none, zero, zero.to(torch.int64))
    kept = {name: rows if name in weighting.outer_state else columns for name in state}
    inside = {name: _take(value, kept[name], tasks) for name, value in state.items()}
    D = torch.stack([hypergradient[t] for t in rows])
    D = torch.stack([D[:, j] for j in columns], dim=1)
    after, result = weighting.among(columns, tasks).learn(inside, D)
    return (
        {name: _put(state[name], value, kept[name], tasks) for name, value in after.items()},
        replace(
            result,
            lam=_put(none.to(result.lam), result.lam, rows, tasks),
            direction=_put(none.to(result.direction), result.direction, columns, tasks),
        ),
    )


def reordered(state: State, order: Sequence[int]) -> State:
    """The state of the same tasks in another order: task i of the new order is ``order[i]`` of the old one.

    >>> reordered({"weights": torch.tensor([1.0, 2.0, 3.0]), "count": torch.tensor(7)}, [2, 0, 1])
    {'weights': tensor([3., 1., 2.]), 'count': tensor(7)}
    """
    return {name: _take(value, order, len(order)) for name, value in state.items()}


def _kept(present: Sequence[bool]) -> list[int]:
    return [t for t, there in enumerate(present) if there]


def _per_task(value: Tensor, tasks: int) -> int:
    """How many of the first two dimensions count tasks: 2 for pairs (T, T), 1 for (T, ...), else 0."""
    if value.ndim == 0 or value.shape[0] != tasks:
        return 0
    return 2 if value.shape == (tasks, tasks) else 1


def _take(value: Tensor, kept: Sequence[int], tasks: int) -> Tensor:
    """The entries of the tasks that are kept; the tensor itself where it has none for each task."""
    dimensions = _per_task(value, tasks)
    if dimensions:
        value = torch.stack([value[t] for t in kept])
    return torch.stack([value[:, t] for t in kept], dim=1) if dimensions == 2 else value


def _put(whole: Tensor, part: Tensor, kept: Sequence[int], tasks: int) -> Tensor:
    """A copy of ``whole`` with ``part`` in the entries that :func:`_take` took from it."""
    dimensions = _per_task(whole, tasks)
    if not dimensions:
        return part
    rows = list(whole.unbind())
    for t, row in zip(kept, part.to(whole.dtype).unbind(), strict=True):
        rows[t] = row if dimensions == 1 else _put(rows[t], row, kept, tasks)
    return torch.stack(rows)
