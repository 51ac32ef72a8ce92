"""Host of small problems: what a method solves on (T, T) matrices of a device is solved on the CPU.

A min-norm problem takes the CPU a few linear solves, and a device that must not be waited for a fixed number of steps
of tiny kernels: more than 0.1 seconds on an H200, where a uniform step takes 10 milliseconds. Reading the matrix costs
some microseconds and a wait, so this is for steps that read values anyway (``nonfinite`` other than ``trust``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lossrag.weighting.base import Outer, Signals, State, Weighting
from lossrag.weighting.state.presence import learn_present, weigh_present

CPU = torch.device("cpu")


def weigh_on_host(
    weighting: Weighting, state: State, signals: Signals, present: Sequence[bool]
) -> tuple[Tensor, State]:
    """:func:`weigh_present` on the CPU; weights and state come back to the devices of ``state``."""
    given = {name: value.to(CPU) for name, value in vars(signals).items() if isinstance(value, Tensor)}
    weights, after = weigh_present(weighting, _moved(state), replace(signals, **given), present)  # type: ignore[arg-type]
    return _back(weights, state["weights"]), _home(after, state)


def learn_on_host(
    weighting: Weighting, state: State, hypergradient: Tensor, outer: Sequence[bool], present: Sequence[bool]
) -> tuple[State, Outer]:
    """:func:`learn_present` on the CPU; the state comes back to its devices, the result to that of D (T, T)."""
    after, result = learn_present(weighting, _moved(state), hypergradient.to(CPU), outer, present)
    told = {name: _back(value, hypergradient) for name, value in vars(result).items()}
    return _home(after, state), Outer(**told)


def _moved(state: State) -> State:
    return {name: value.to(CPU) for name, value in state.items()}


def _home(after: State, before: State) -> State:
    return {name: _back(value, before[name]) for name, value in after.items()}


def _back(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.device, non_blocking=True)
