"""Frank-Wolfe beside torchjd's solver at the same duality gap, and a batch of problems beside a loop over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lossrag.checks import check_least, require
from lossrag.experiments.benchmark.paired import Ratio, Result, paired_ratio, pooled
from lossrag.experiments.benchmark.problems import check_numbers
from lossrag.extras import load_extra
from lossrag.weighting import frank_wolfe

# name: (columns of D for T rows, decades that the lengths of the rows are spread over)
KINDS: dict[str, tuple[Callable[[int], int], int]] = {
    "ordinary": (lambda T: 2 * T, 0),
    "scaled 1e-3 to 1e3": (lambda T: 2 * T, 6),
    "scaled 1e-6 to 1e6": (lambda T: 2 * T, 12),
    "rank T/2": (lambda T: max(1, T // 2), 0),
    "rank T/2, scaled 1e-3 to 1e3": (lambda T: max(1, T // 2), 6),
    "rank T/2, scaled 1e-6 to 1e6": (lambda T: max(1, T // 2), 12),
    "rank 1": (lambda T: 1, 0),
}
SLOW = 1000  # torchjd iterations, about 60 ms, from which on two pairs have to do


@dataclass(frozen=True)
class FrankWolfeBenchmark:
    """Options of `lossrag benchmark frank_wolfe`; problems are the random ones of each case, batch those at once."""

    tasks: tuple[int, ...] = (2, 3, 4, 8, 14, 32, 64, 128, 256)
    batch_tasks: tuple[int, ...] = (2, 4, 8, 14, 32, 64)
    problems: int = 3
    pairs: int = 9
    batch: int = 1000
    gap: float = 1e-6
    max_iterations: int = 20_000
    threads: int = 1

    def __post_init__(self) -> None:
        check_least(self, 2, "problems", "pairs", "batch")
        check_least(self, 1, "max_iterations", "threads")
        for name in ("tasks", "batch_tasks"):
            check_numbers(self, name, getattr(self, name) or [1])
        require(0 < self.gap < 1, self, f"{{gap}} must lie between 0 and 1, got {self.gap}: 1e-6 is the default.")


def run_frank_wolfe(options: FrankWolfeBenchmark) -> list[Result]:
    """Time of the min-norm solver over torchjd's at the same gap, and a loop over the same problems batched."""
    mgda = load_extra("torchjd.aggregation", "baselines", "benchmark frank_wolfe").MGDAWeighting
    results = [_against_torchjd(options, kind, T, mgda) for kind in KINDS for T in options.tasks]
    return results + [_batched(options, kind, T) for kind in ("ordinary", "rank T/2") for T in options.batch_tasks]


def problem(kind: str, T: int, seed: int) -> Tensor:
    """B = D D^T (T, T), float64."""
    D = problem_rows(kind, T, seed)
    return D @ D.T


def problem_rows(kind: str, T: int, seed: int) -> Tensor:
    """D (T, d) of normal rows, float64."""
    columns, decades = KINDS[kind]
    generator = torch.Generator().manual_seed(1000 * seed + T)
    D = torch.randn(T, columns(T), generator=generator, dtype=torch.float64)
    D *= 10 ** (decades * (torch.rand(T, 1, generator=generator, dtype=torch.float64) - 0.5))
    return D


def relative_gap(B: Tensor, lam: Tensor) -> float:
    """(lam^T B lam - min_i (B lam)_i) / trace(B)."""
    q = B @ lam
    return ((lam @ (q - q.min())) / B.trace()).item()


def iterations_needed(B: Tensor, gap: float, most: int) -> int:
    """Iterations that torchjd needs for this gap: its loop (Sener and Koltun 2018), tested after each.

    torchjd itself cannot know when to stop so early, so this is its best case. ``most`` if it does not get there.
    """
    A, trace = B.numpy(), B.trace().item()
    lam = torch.full((len(B),), 1 / len(B), dtype=B.dtype).numpy()
    q = A @ lam
    for count in range(1, most + 1):
        v = q.argmin()
        f, f_v, square = lam @ q, q[v], A[v, v]
        gamma = 1.0 if square <= f_v else 0.0 if f <= f_v else (f - f_v) / (f + square - 2 * f_v)
        lam *= 1 - gamma
        lam[v] += gamma
        q = A @ lam
        if lam @ (q - q.min()) <= gap * trace:
            return count
    return most


def _against_torchjd(options: FrankWolfeBenchmark, kind: str, T: int, mgda: Any) -> Result:
    """``ratio`` with the same gap asked of both; ``exact_ratio`` with the default, which solves to rounding."""
    ratios: list[Ratio] = []
    exact_ratios: list[Ratio] = []
    counts, ours, exact, theirs = [], [], [], []
    for seed in range(options.problems):
        B = problem(kind, T, seed)
        counts.append(iterations_needed(B, options.gap, options.max_iterations))
        pairs, warmup = (options.pairs, 2) if counts[-1] < SLOW else (2, 0)
        # This epsilon leaves the stop to max_iters: the gap, not the length of a step, is what both are asked for.
        peer = mgda(epsilon=1e-300, max_iters=counts[-1])
        stop_early, solve, follow = partial(frank_wolfe, B, gap=options.gap), partial(frank_wolfe, B), partial(peer, B)
        ratios.append(paired_ratio(stop_early, follow, pairs, warmup))
        exact_ratios.append(paired_ratio(solve, follow, pairs, warmup))
        ours.append(relative_gap(B, frank_wolfe(B, gap=options.gap).weights))
        exact.append(relative_gap(B, frank_wolfe(B).weights))
        theirs.append(relative_gap(B, peer(B)))
    gave_up = sum(reached > 1.01 * options.gap for reached in theirs)
    exact_timed = pooled(exact_ratios)
    more = {
        "exact_ratio": round(exact_timed.ratio, 4),
        "exact_ms": round(exact_timed.milliseconds[0], 4),
        "torchjd_iterations": int(median(counts)),
        "torchjd_gave_up": f"{gave_up} of {options.problems}",
        "gap": f"{max(ours):.0e}",
        "exact_gap": f"{max(exact):.0e}",
        "torchjd_gap": f"{max(theirs):.2e}",
    }
    names = ("ours_ms", "torchjd_ms")
    return pooled(ratios).result("frank_wolfe", f"T={T}, {kind}", "x torchjd", names, **more)


def _batched(options: FrankWolfeBenchmark, kind: str, T: int) -> Result:
    B = torch.stack([problem(kind, T, seed) for seed in range(options.batch)])
    timed = paired_ratio(lambda: [frank_wolfe(one) for one in B], lambda: frank_wolfe(B), min(options.pairs, 5), 1)
    case, gap = f"T={T}, {kind}, {options.batch} at once", f"{frank_wolfe(B).gap.max().item():.0e}"
    return timed.result("frank_wolfe", case, "x faster than a loop", ("loop_ms", "ours_ms"), exact_gap=gap)
