"""A small linear program over the simplex, solved exactly by the simplex method (Dantzig) with Bland's rule.

    maximise c . x   subject to   A x >= b,   x >= 0,   sum x = 1,   all b <= 0

Because b <= 0, x = 0 satisfies everything but the sum. So sum x <= 1 takes its place: the first phase maximises sum x
from there, and the problem has a solution exactly when it reaches 1; the second phase maximises c . x with the slack of
that row held at 0. On the CPU in float64, with branches on the data: T tasks need a few T pivots.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-10
PIVOTS = 50
"""Of each phase, for every row and column: a bound that Bland's rule, which cannot cycle, does not come near."""


def maximise_on_simplex(c: Tensor, A: Tensor, b: Tensor) -> Tensor | None:
    """x (T,) float64 on the CPU, a vertex of the feasible set; None when that is empty.

    c: (T,). A: (M, T). b: (M,), none positive. Any scale: every row, and c, is divided by its largest entry.

    >>> c, A = torch.tensor([1.0, 0.0]), torch.tensor([[-1.0, 1.0]])  # x_2 >= x_1
    >>> maximise_on_simplex(c, A, torch.zeros(1)).tolist()
    [0.5, 0.5]
    """
    c, A, b = (value.detach().to("cpu", torch.float64) for value in (c, A, b))
    rows, tasks = A.shape
    scale = torch.cat([A, b[:, None]], dim=1).abs().amax(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    # columns: x, the slacks of A x >= b, that of sum x <= 1, the right-hand side; the last row is the objective
    table = torch.zeros(rows + 2, tasks + rows + 2, dtype=torch.float64)
    table[:rows, :tasks] = -A / scale[:, None]
    table[:rows, -1] = -b / scale
    table[rows, :tasks] = 1
    table[rows, -1] = 1
    table[: rows + 1, tasks:-1] = torch.eye(rows + 1, dtype=torch.float64)
    basis = list(range(tasks, tasks + rows + 1))
    table[-1, :tasks] = -1
    _pivot_to_optimum(table, basis, tasks + rows + 1)
    total = tasks + rows  # the slack of sum x <= 1
    if total in basis and table[basis.index(total), -1] > TOLERANCE:
        return None
    if total in basis:
        _leave(table, basis, total)
    table[:, total] = 0
    table[-1] = 0
    table[-1, :tasks] = -c / c.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    for row, column in enumerate(basis):
        table[-1] -= table[-1, column].clone() * table[row]
    _pivot_to_optimum(table, basis, tasks + rows)
    x = torch.zeros(tasks + rows + 1, dtype=torch.float64)
    x[basis] = table[:-1, -1]
    x = x[:tasks].clamp(min=0)
    return x / x.sum()


def _pivot_to_optimum(table: Tensor, basis: list[int], columns: int) -> None:
    """Pivots until no entry of the objective row (the last) is negative; Bland: the first of all that may enter."""
    for _ in range(PIVOTS * (len(basis) + columns)):
        entering = (table[-1, :columns] < -TOLERANCE).nonzero().flatten().tolist()
        if not entering:
            return
        column = entering[0]
        able = (table[:-1, column] > TOLERANCE).nonzero().flatten().tolist()
        if not able:  # cannot be but by rounding: x is bounded
            return
        ratios = [float(table[row, -1] / table[row, column]) for row in able]
        best = min(ratios) + TOLERANCE
        row = min((row for row, ratio in zip(able, ratios, strict=True) if ratio <= best), key=lambda r: basis[r])
        _pivot(table, basis, row, column)


def _leave(table: Tensor, basis: list[int], variable: int) -> None:
    """Take a basic variable of value 0 out, by a pivot that moves nothing."""
    row = basis.index(variable)
    others = table[row, :variable].abs()
    others[[column for column in basis if column < variable]] = 0
    _pivot(table, basis, row, int(others.argmax()))


def _pivot(table: Tensor, basis: list[int], row: int, column: int) -> None:
    """Make ``column`` basic in ``row``."""
    table[row] /= table[row, column].clone()
    factors = table[:, column].clone()
    factors[row] = 0
    table -= factors[:, None] * table[row]
    table[:, column] = 0
    table[row, column] = 1
    basis[row] = column
