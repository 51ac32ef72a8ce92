"""What a MetaWeighting step costs beside a uniform step, beside the floor, and beside T backward passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lossrag.errors import ConfigError
from lossrag.experiments.benchmark.paired import Result, paired_ratio
from lossrag.experiments.benchmark.problems import (
    TextOptions,
    check_sizes,
    check_text,
    floor,
    metaweighting_step,
    require_equal,
    shared_step,
    uniform_step,
)
from lossrag.experiments.config.schema import MachineConfig
from lossrag.experiments.run.machine import apply_machine

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
    pairs: int = 9

    def __post_init__(self) -> None:
        check_text("step", self, self.tasks, self.pairs)
        check_sizes("step.shared", self.shared)
        if self.heads < 1:
            raise ConfigError(f"step.heads must be 1 or more, got {self.heads}.")


def run_step(options: StepBenchmark) -> list[Result]:
    """MetaWeighting over uniform on TextCNN, and on shared trunks over the same step by T backward passes."""
    apply_machine(MachineConfig(options.device, options.threads))
    results = [_own(options, tasks, name) for tasks in options.tasks for name in SHARES]
    return results + [_shared(options, *size) for size in options.shared]


def routines(
    options: TextOptions, tasks: int, share: float
) -> tuple[Callable[[], object], Callable[[], object], float]:
    """A uniform step with one joint pass, a MetaWeighting step on the same support rows, and the floor."""
    meta = metaweighting_step(options, tasks, share)
    return uniform_step(options, tasks), meta, floor(options, tasks, share)


def _own(options: StepBenchmark, tasks: int, name: str) -> Result:
    uniform, meta, least = routines(options, tasks, SHARES[name])
    timed = paired_ratio(meta, uniform, options.pairs)
    more = {
        "floor": round(least, 4),
        "over_floor": round(timed.ratio / least, 4),
        "metaweighting_ms": round(timed.milliseconds[0], 2),
        "uniform_ms": round(timed.milliseconds[1], 2),
    }
    return Result("step", f"T={tasks}, {name}", timed.ratio, timed.spread, "x uniform step", more)


def _shared(options: StepBenchmark, width: int, rows: int, layers: int) -> Result:
    """Both give the same D, or there is nothing to time."""
    case = f"T={options.heads}, shared input, width {width}, {rows} rows, {layers} layers"
    watched, loop = (shared_step(width, rows, layers, options.heads, watch) for watch in (True, False))
    D, expected = watched().hypergradient, loop().hypergradient
    assert D is not None
    assert expected is not None
    error = require_equal(case, D, expected, 1e-4)
    timed = paired_ratio(watched, loop, options.pairs)
    more = {
        "metaweighting_ms": round(timed.milliseconds[0], 2),
        "loop_ms": round(timed.milliseconds[1], 2),
        "difference": f"{error:.0e}",
    }
    return Result("step", case, timed.ratio, timed.spread, "x loop of T backwards", more)
