"""Step of MetaWeighting beside a uniform step, beside the floor, and beside T backward passes."""

from __future__ import annotations

from dataclasses import dataclass, field

from lossrag.experiments.benchmark.paired import Result, paired_ratio
from lossrag.experiments.benchmark.peer_problems import our_hypergradient, our_step, shared_case
from lossrag.experiments.benchmark.problems import (
    TextOptions,
    check_shared,
    check_text,
    floor,
    metaweighting_step,
    require_equal,
    uniform_step,
)
from lossrag.weighting import MetaWeighting

SHARES = {"query = support": 1.0, "query = support / 8": 0.125}
SHARED_SIZES = [[512, 64, 2], [512, 64, 3], [1024, 64, 2], [256, 64, 2], [512, 256, 2], [128, 64, 2]]


@dataclass(frozen=True)
class StepBenchmark(TextOptions):
    """Options of `lossrag benchmark step`; ``shared`` lists [width, rows, layers] of trunks with ``heads`` heads.

    The default batch is the smallest at which 64 tasks have 8 support rows and an eighth of that as query rows.
    """

    tasks: tuple[int, ...] = (4, 14, 64)
    shared: list[list[int]] = field(default_factory=lambda: [list(size) for size in SHARED_SIZES])
    heads: int = 16

    def __post_init__(self) -> None:
        check_text(self, self.tasks)
        check_shared(self, self.shared)


def run_step(options: StepBenchmark) -> list[Result]:
    """MetaWeighting over uniform on TextCNN, and on shared trunks over the same step by T backward passes."""
    own = [beside_uniform("step", f"T={T}, {name}", options, T, name) for T in options.tasks for name in SHARES]
    return own + [_shared(options, *size) for size in options.shared]


def beside_uniform(subject: str, case: str, sizes: TextOptions, tasks: int, query: str, /, **more: object) -> Result:
    """A MetaWeighting step over a uniform step with one joint pass on the same support rows, beside the floor."""
    share = SHARES[query]
    timed = paired_ratio(metaweighting_step(sizes, tasks, share), uniform_step(sizes, tasks), sizes.pairs)
    least = floor(sizes, tasks, share)
    more |= {"floor": round(least, 4), "over_floor": round(timed.ratio / least, 4)}
    return timed.result(subject, case, "x uniform step", ("metaweighting_ms", "uniform_ms"), **more)


def _shared(options: StepBenchmark, width: int, rows: int, layers: int) -> Result:
    """Both give the same D, or there is nothing to time."""
    case = shared_case(width, rows, layers, options.heads, options.device)
    error = require_equal(case.name, our_hypergradient(case), our_hypergradient(case, watch=False), 1e-4)
    watched, loop = (our_step(case, MetaWeighting(scale="unit"), watch=watch) for watch in (True, False))
    timed = paired_ratio(watched.run, loop.run, options.pairs)
    names, unit = ("metaweighting_ms", "loop_ms"), "x loop of T backwards"
    return timed.result("step", case.name, unit, names, difference=f"{error:.0e}")
