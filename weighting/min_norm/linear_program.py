"""A small linear program over the simplex, solved exactly by the simplex method (Dantzig).

    maximise c . x   subject to   A x >= b,   x >= 0,   sum x = 1,   all b <= 0

Because b <= 0, x = 0 satisfies everything but the sum. So sum x <= 1 takes its place: the first phase maximises sum x
from there, and the problem has a solution exactly when it reaches 1; the second phase maximises c . x with the slack of
that row held at 0. On the CPU in float64, with branches on the data: T tasks need a few T pivots.

Rounding. The rows are those of a Gramian that may be all but singular, and most b are 0. Of the variables that may
leave the basis the one with the largest pivot does; the table that the pivots end with is made anew from the problem,
and what then is below 0 is brought back by pivots of the dual simplex method.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Choice = Callable[[Vector, bool], tuple[int, int] | None]
"""From the reduced costs, and whether the choice must not cycle, to the row and column of the next pivot."""

TOLERANCE, TINY = 1e-10, np.finfo(np.float64).tiny
PIVOTS = 20
"""Of each phase, for every row and column; from half of them on Bland's rule, which cannot cycle, chooses."""
REFRESHES = 3


def maximise_on_simplex(c: Tensor, A: Tensor, b: Tensor) -> Tensor | None:
    """x (T,) float64 on the CPU, a vertex of the feasible set; None when that is empty.

    c: (T,). A: (M, T). b: (M,), none positive. Any scale: every row, and c, is divided by its largest entry.

    >>> c, A = torch.tensor([1.0, 0.0]), torch.tensor([[-1.0, 1.0]])  # x_2 >= x_1
    >>> maximise_on_simplex(c, A, torch.zeros(1)).tolist()
    [0.5, 0.5]
    """
    gain, rows, least = (value.detach().to("cpu", torch.float64).numpy() for value in (c, A, b))
    count, tasks = rows.shape
    scale = np.maximum(np.abs(np.concatenate([rows, least[:, None]], axis=1)).max(axis=1), TINY)
    # columns: x, the slacks of A x >= b, that of sum x <= 1, the right-hand side
    equations = np.zeros((count + 1, tasks + count + 2))
    equations[:count, :tasks] = -rows / scale[:, None]
    equations[:count, -1] = -least / scale
    equations[count, :tasks] = equations[count, -1] = 1
    equations[:, tasks:-1] = np.eye(count + 1)
    total = tasks + count  # the slack of sum x <= 1
    table = Table(equations, list(range(tasks, total + 1)))
    cost = np.zeros(total + 1)
    cost[:tasks] = -1
    table.minimise(cost, total + 1)
    if table.value(total) > TOLERANCE:
        return None
    table.take_out(total)  # and it does not come back: the columns of phase two end before it
    cost[:tasks] = -gain / max(np.abs(gain).max(), TINY)
    table.minimise(cost, total)
    x = np.array([table.value(task) for task in range(tasks)]).clip(min=0)
    return torch.from_numpy(x / x.sum())


class Table:
    """Equations (R, N + 1), right-hand side last, solved for a ``basis`` of R of their N variables."""

    def __init__(self, equations: Matrix, basis: list[int]) -> None:
        self.equations, self.basis = equations, basis
        self.rows = equations.copy()

    def value(self, variable: int) -> float:
        """The value of a variable; 0 outside the basis."""
        return float(self.rows[self.basis.index(variable), -1]) if variable in self.basis else 0.0

    def minimise(self, cost: Vector, columns: int) -> None:
        """Pivots until no variable of the first ``columns`` would lower cost (N,) . variables, and none is below 0."""
        for _ in range(REFRESHES):
            moved = [self._run(self._primal, cost, columns), self._run(self._dual, cost, columns)]
            if not any(moved):
                return
            try:
                self.rows = np.asarray(np.linalg.solve(self.equations[:, self.basis], self.equations), np.float64)
            except np.linalg.LinAlgError:  # all but singular: the pivots' own table is as good as any
                return

    def _run(self, choose: Choice, cost: Vector, columns: int) -> bool:
        """Whether there was a pivot to be made, and all that follow it."""
        # what one unit more of each variable costs, and last minus the cost of this basis
        reduced = np.append(cost, 0.0) - cost[self.basis] @ self.rows
        limit = PIVOTS * (len(self.basis) + columns)
        for step in range(limit):
            pivot = choose(reduced[:columns], 2 * step > limit)
            if pivot is None:
                return step > 0
            self._pivot(*pivot)
            reduced = reduced - reduced[pivot[1]] * self.rows[pivot[0]]
        return True

    def take_out(self, variable: int) -> None:
        """Make a variable of value 0 nonbasic, by a pivot that moves nothing; it stays where no other is in its row."""
        if variable in self.basis:
            row = self.basis.index(variable)
            others = np.abs(self.rows[row, :variable])
            others[[column for column in self.basis if column < variable]] = 0
            if others.max() > TOLERANCE:
                self._pivot(row, int(others.argmax()))

    def _primal(self, reduced: Vector, bland: bool) -> tuple[int, int] | None:
        """Row and column of the next pivot; None where no variable would lower the cost."""
        entering = int((reduced < -TOLERANCE).argmax() if bland else reduced.argmin())
        if not reduced[entering] < -TOLERANCE:
            return None
        column, values = self.rows[:, entering], self.rows[:, -1]
        able = (column > TOLERANCE).nonzero()[0]
        if not len(able):  # cannot be but by rounding: x is bounded
            return None
        ratios = values[able].clip(min=0) / column[able]
        tied = able[ratios <= ratios.min() + TOLERANCE]
        row = min(tied, key=lambda r: self.basis[r]) if bland else tied[column[tied].argmax()]
        return int(row), entering

    def _dual(self, reduced: Vector, bland: bool) -> tuple[int, int] | None:
        """Row and column of the next pivot that lets a variable leave which is below 0; None where there is none."""
        row = int(self.rows[:, -1].argmin())
        if not self.rows[row, -1] < -TOLERANCE:
            return None
        able = (self.rows[row, : len(reduced)] < -TOLERANCE).nonzero()[0]
        if not len(able):  # cannot be but by rounding: there is a solution
            return None
        entries = -self.rows[row, able]
        ratios = reduced[able].clip(min=0) / entries
        tied = ratios <= ratios.min() + TOLERANCE
        return row, int(able[tied][0 if bland else entries[tied].argmax()])

    def _pivot(self, row: int, column: int) -> None:
        """Make ``column`` basic in ``row``."""
        self.rows[row] /= self.rows[row, column]
        factors = self.rows[:, column].copy()
        factors[row] = 0
        self.rows -= factors[:, None] * self.rows[row]
        self.rows[:, column] = 0
        self.rows[row, column] = 1
        self.basis[row] = column
