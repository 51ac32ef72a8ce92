"""Theorem 1 on a run: is d_c, the shortest vector in the hull of the rows of D, a common descent direction?

In finite dimensions the theorem is a variational inequality: d_c is that vector exactly when <D_t, d_c> >= |d_c|^2 for
every t. So, unless d_c = 0, moving w against d_c lowers the query losses of all tasks to first order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-6
"""By how much of trace(D D^T) the inequality may be missed."""
PREMISE, CONCLUSION = "theory/min_norm", "theory/common_descent"
"""Series: shares of an epoch's steps."""


def descent_checks(D: Tensor, direction: Tensor) -> Tensor:
    """Premise and conclusion of Theorem 1 (Désidéri 2012) for D (T, T) and d_c (T,): (2,), each 1 or 0.

    The first says min_t <D_t, d_c> >= |d_c|^2 up to :data:`TOLERANCE`: d_c is the shortest vector in the hull. The
    second says min_t <D_t, d_c> > 0: d_c is a descent direction common to all tasks. They part where d_c is 0, or was
    not solved for. Reads nothing back from the device.

    >>> D = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> descent_checks(D, torch.tensor([0.8, 0.4])).tolist()  # lam = (0.8, 0.2)
    [1.0, 1.0]
    >>> descent_checks(D, torch.tensor([0.5, 1.0])).tolist()  # the mean of the rows
    [0.0, 1.0]
    """
    rows = D.to(direction.dtype)
    least = (rows @ direction).min()
    slack = TOLERANCE * rows.square().sum()
    return torch.stack([least >= direction.square().sum() - slack, least > 0]).to(direction.dtype)


def descent_shares(means: Tensor) -> dict[str, float]:
    """The series of an epoch, from the mean (2,) of :func:`descent_checks` over its steps."""
    return dict(zip((PREMISE, CONCLUSION), means.tolist(), strict=True))


def descent_summary(points: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Theorem 1 in summary.json: the shares over all steps of the run; nothing without an outer problem.

    points: those of metrics.jsonl, in which every epoch has the same number of steps.

    >>> descent_summary([{"step": 5, PREMISE: 1.0, CONCLUSION: 0.8}, {"step": 10, PREMISE: 1.0, CONCLUSION: 1.0}])
    {'theorem_1': {'steps': 10, 'min_norm': 1.0, 'common_descent': 0.9}}
    >>> descent_summary([{"step": 5, "weight/a": 1.0}])
    {}
    """
    epochs = [point for point in points if CONCLUSION in point]
    if not epochs:
        return {}
    shares = {tag.split("/")[1]: sum(point[tag] for point in epochs) / len(epochs) for tag in (PREMISE, CONCLUSION)}
    return {"theorem_1": {"steps": max(point["step"] for point in epochs), **shares}}


def descent_sentence(shares: Mapping[str, float]) -> str:
    """One line for the final summary of a run.

    >>> descent_sentence({"steps": 420, "min_norm": 1.0, "common_descent": 0.9976})
    'theorem 1: d_c lowers the query losses of all tasks at once in 99.8 % of 420 steps, and is the shortest in 100.0 %'
    """
    return (
        f"theorem 1: d_c lowers the query losses of all tasks at once in {100 * shares['common_descent']:.1f} % of "
        f"{shares['steps']:.0f} steps, and is the shortest in {100 * shares['min_norm']:.1f} %"
    )
