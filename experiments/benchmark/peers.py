"""Peers beside the step: torchjd's own engines, a plain autograd loop, and scipy's exact least squares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from lossrag.checks import check_least
from lossrag.experiments.benchmark.frank_wolfe import problem_rows
from lossrag.experiments.benchmark.paired import Result, paired_ratio, paired_within, pooled
from lossrag.experiments.benchmark.peer_problems import (
    Case,
    autograd_loop,
    our_hypergradient,
    our_step,
    own_case,
    shared_case,
)
from lossrag.experiments.benchmark.peer_torchjd import METHODS, Engine, Method, aggregator, fastest, jac_per_task
from lossrag.experiments.benchmark.problems import TextOptions, check_shared, check_text, require_equal
from lossrag.weighting import MetaWeighting, frank_wolfe

TOLERANCE = 1e-3
"""Of the gradients in float64: the peer's solvers stop before rounding, and its UPGrad is ours."""


@dataclass(frozen=True)
class PeersBenchmark(TextOptions):
    """Options of `lossrag benchmark peers`; ``shared`` lists [width, rows, layers] of trunks with ``heads`` heads,
    ``problems`` are the random ones of each min-norm size, ``seconds`` what one row may take, two pairs at least."""

    batch: int = 256
    tasks: tuple[int, ...] = (2, 4, 14, 64)
    shared: list[list[int]] = field(default_factory=lambda: [[512, 64, 2], [1024, 64, 2]])
    heads: int = 16
    problems: int = 5
    seconds: int = 30

    def __post_init__(self) -> None:
        check_text(self, self.tasks)
        check_shared(self, self.shared)
        check_least(self, 2, "problems")
        check_least(self, 1, "seconds")


def run_peers(options: PeersBenchmark) -> list[Result]:
    """MGDA, UPGrad and PCGrad beside torchjd, MetaWeighting beside an autograd loop, Frank-Wolfe beside scipy."""
    cases = [own_case(options, tasks) for tasks in options.tasks]
    cases += [shared_case(width, rows, layers, options.heads, options.device) for width, rows, layers in options.shared]
    results: list[Result] = []
    for case in cases:
        for name in METHODS:
            results += _beside_torchjd(options, case, name)
        results.append(_beside_loop(options, case))
    return results + [_beside_nnls(options, tasks) for tasks in options.tasks]


def _beside_torchjd(options: PeersBenchmark, case: Case, name: str) -> Iterator[Result]:
    """Its fastest engine, those that cannot do it and why; for own inputs, what a user could still write around it."""
    method = METHODS[name]
    best = fastest(case, method)
    tried = ", ".join(f"{engine} {time}" for engine, time in best.milliseconds.items())
    yield _timed(options, case, name, best.engine, engines_ms=tried)
    for engine, reason in best.failed.items():
        yield Result("peers", f"{case.name}, {name}", None, None, "x torchjd", {"engine": engine, "failed": reason})
    if case.alone is not None:
        yield _timed(options, case, name, jac_per_task)


def _timed(options: PeersBenchmark, case: Case, name: str, engine: Engine, **more: object) -> Result:
    method = METHODS[name]
    error = _difference(case, method, engine)
    ours, theirs = our_step(case, method.ours), engine(case, aggregator(method), torch.float32)
    timed = paired_within(ours.run, theirs.run, options.pairs, options.seconds)
    names = ("ours_ms", "torchjd_ms")
    more = {"engine": theirs.name, "difference": f"{error:.0e}", **more}
    return timed.result("peers", f"{case.name}, {name}", "x torchjd", names, **more)


def _difference(case: Case, method: Method, engine: Engine) -> float:
    """Of the gradients of the shared parameters, in float64; raises LossRAGError when it is more than rounding."""
    ours = our_step(case, method.ours, torch.float64)
    theirs = engine(case, aggregator(method, tight=True), torch.float64)
    return require_equal(f"{case.name}, {method.theirs}", theirs.gradient(), ours.gradient(), TOLERANCE)


def _beside_loop(options: PeersBenchmark, case: Case) -> Result:
    name = f"{case.name}, MetaWeighting"
    error = require_equal(name, our_hypergradient(case), autograd_loop(case).run(), TOLERANCE)
    ours, loop = our_step(case, MetaWeighting(scale="unit")), autograd_loop(case)
    timed = paired_within(ours.run, loop.run, options.pairs, options.seconds)
    return timed.result("peers", name, "x autograd loop", ("ours_ms", "loop_ms"), difference=f"{error:.0e}")


def shortest_by_nnls(D: Any) -> Any:
    """lam (T,) ~ argmin_{y >= 0} |D^T y|^2 + (1^T y - 1)^2 at the scale of D (T, d): the exact min-norm point."""
    scale = np.linalg.norm(D, axis=1).min()
    matrix = np.vstack([D.T / scale, np.ones((1, len(D)))])
    target = np.zeros(len(matrix))
    target[-1] = 1
    solution, _ = nnls(matrix, target, maxiter=100 * len(D))
    return solution / solution.sum()


def _beside_nnls(options: PeersBenchmark, tasks: int) -> Result:
    """Both from the rows D (T, 2 T), as nnls has no use for their inner products."""
    timings = []
    for seed in range(options.problems):
        rows = problem_rows("ordinary", tasks, seed)
        array = rows.numpy()
        lam, expected = _solve(rows), torch.from_numpy(shortest_by_nnls(array))
        require_equal(f"T={tasks}, min-norm", lam @ rows, expected @ rows, 1e-6)
        ours, theirs = partial(_solve, rows), partial(shortest_by_nnls, array)
        timings.append(paired_ratio(ours, theirs, options.pairs))
    return pooled(timings).result("peers", f"T={tasks}, min-norm point", "x scipy nnls", ("ours_ms", "scipy_ms"))


def _solve(rows: torch.Tensor) -> torch.Tensor:
    return frank_wolfe(rows @ rows.T).weights
