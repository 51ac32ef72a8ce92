"""Presence of tasks: a step from which some are absent is the step of the others, whose states stay."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from lossrag.weighting.base import Outer, Signals, State, Weighting


def weigh_present(
    weighting: Weighting, state: State, signals: Signals, present: tuple[int, ...]
) -> tuple[Tensor, State]:
    """Task weights (T,) of a step of the tasks ``present``, and the state after it; the others keep theirs."""
    tasks = len(state["weights"])
    if len(present) == tasks:
        return weighting.weigh(state, signals)
    at = torch.tensor(present, device=state["weights"].device)
    own = {name: _part(value, at, tasks) for name, value in vars(signals).items()}
    weights, new = _over(weighting, present, tasks).weigh(_state(state, at, tasks), Signals(**own))
    whole = state["weights"].clone()
    whole[at] = weights
    return whole, _merged(state, new, at, tasks)


def learn_present(
    weighting: Weighting, state: State, D: Tensor, outer: tuple[int, ...], present: tuple[int, ...]
) -> tuple[State, Outer]:
    """The state after the outer step from D (T, T), of which the rows of ``outer`` and the columns of ``present`` are
    known; lam and direction are 0 for the others."""
    tasks = len(D)
    if len(outer) == len(present) == tasks:
        return weighting.learn(state, D)
    at, rows = (torch.tensor(own, device=D.device) for own in (present, outer))
    small = D[rows][:, at]
    new, result = _over(weighting, present, tasks).learn(_outer_state(state, at, rows, tasks), small)
    lam, direction = D.new_zeros(tasks, dtype=result.lam.dtype), D.new_zeros(tasks, dtype=result.direction.dtype)
    lam[rows], direction[at] = result.lam, result.direction
    merged = dict(state)
    for name, value in new.items():
        place = rows if name == "lam" else at
        merged[name] = _put(state[name], value, place, tasks)
    return merged, replace(result, lam=lam, direction=direction)


def reordered(state: State, order: list[int]) -> State:
    """The state of the same tasks in another order: the ``order[t]``-th is the new t-th."""
    tasks = len(state["weights"])
    return _state(state, torch.tensor(order, device=state["weights"].device), tasks)


def _outer_state(state: State, at: Tensor, rows: Tensor, tasks: int) -> State:
    own = _state(state, at, tasks)
    if "lam" in own:
        lam = state["lam"][rows]
        own["lam"] = torch.where(lam.sum() > 0, lam / lam.sum().clamp(min=1e-12), torch.full_like(lam, 1 / len(lam)))
    return own


def _part(value: Any, at: Tensor, tasks: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 2 and value.shape == (tasks, tasks):
        return value[at][:, at]
    return value[at] if value.dim() and value.shape[0] == tasks else value


def _state(state: State, at: Tensor, tasks: int) -> State:
    return {name: _part(value, at, tasks) for name, value in state.items()}


def _put(old: Tensor, new: Tensor, at: Tensor, tasks: int) -> Tensor:
    if old.shape == new.shape and not (old.dim() and old.shape[0] == tasks):
        return new
    whole = old.clone()
    if old.dim() == 2 and old.shape == (tasks, tasks):
        whole[at[:, None], at] = new
    else:
        whole[at] = new
    return whole


def _merged(state: State, new: State, at: Tensor, tasks: int) -> State:
    return {name: _put(state[name], value, at, tasks) for name, value in new.items()}


def _over(weighting: Weighting, present: tuple[int, ...], tasks: int) -> Weighting:
    """The method with those of its options that have an entry for each task cut to the tasks present."""
    cut = {}
    for field in fields(weighting):
        value = getattr(weighting, field.name)
        if isinstance(value, list) and len(value) == tasks:
            cut[field.name] = [value[task] for task in present]
    return replace(weighting, **cut) if cut else weighting
