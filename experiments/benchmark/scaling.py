"""How the cost of a MetaWeighting step grows with the tasks, the batch and the parameters, beside the floor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lossrag.errors import ConfigError
from lossrag.experiments.benchmark.paired import Result, paired_ratio
from lossrag.experiments.benchmark.problems import (
    TextOptions,
    check_text,
    floor,
    metaweighting_step,
    text_model,
    trained,
    uniform_step,
)
from lossrag.experiments.benchmark.step import SHARES
from lossrag.experiments.config.schema import MachineConfig
from lossrag.experiments.run.machine import apply_machine

FEW = 4
"""The number of tasks that the growth of a step is measured from."""


@dataclass(frozen=True)
class ScalingBenchmark(TextOptions):
    """Options of `lossrag benchmark scaling`: ``tasks`` at the fixed ``batch``; ``batches`` and ``sizes`` (numbers of
    filters) at ``at`` tasks."""

    tasks: tuple[int, ...] = (2, 4, 8, 14, 32, 64)
    batches: tuple[int, ...] = (64, 128, 256, 512, 1024)
    sizes: tuple[int, ...] = (16, 32, 64, 128, 256)
    at: int = 14
    pairs: int = 9

    def __post_init__(self) -> None:
        check_text("scaling", self, self.tasks, self.pairs)
        if not 1 <= self.at <= self.batch:
            raise ConfigError(f"scaling.at must be from 1 to batch={self.batch}, got {self.at}.")
        if min(self.batches, default=self.at) < self.at:
            raise ConfigError(f"scaling.batches must be at={self.at} rows or more, one per task, got {self.batches}.")
        if min(self.sizes, default=1) < 1:
            raise ConfigError(f"scaling.sizes must list numbers of filters from 1 up, got {self.sizes}.")


def run_scaling(options: ScalingBenchmark) -> list[Result]:
    """MetaWeighting over uniform against the number of tasks, the batch and the parameters."""
    apply_machine(MachineConfig(options.device, options.threads))
    results = [_cost(options, *point, query) for query in SHARES for point in _points(options)]
    few = FEW if FEW in options.tasks else min(options.tasks)
    more = [tasks for tasks in options.tasks if tasks > few]
    return results + [_growth(options, few, tasks, query) for query in SHARES for tasks in more]


def _points(options: ScalingBenchmark) -> Iterator[tuple[str, TextOptions, int]]:
    """(sweep, sizes, number of tasks)."""
    for tasks in options.tasks:
        yield "tasks", options, tasks
    for batch in options.batches:
        yield "batch", replace(options, batch=batch, tasks=(options.at,)), options.at
    for filters in options.sizes:
        yield "parameters", replace(options, filters=filters), options.at


def _cost(options: ScalingBenchmark, sweep: str, sizes: TextOptions, tasks: int, query: str) -> Result:
    share = SHARES[query]
    timed = paired_ratio(metaweighting_step(sizes, tasks, share), uniform_step(sizes, tasks), options.pairs)
    parameters = sum(p.numel() for p in trained(text_model(sizes, tasks)))
    least = floor(sizes, tasks, share)
    more = {
        "sweep": sweep,
        "query": query,
        "tasks": tasks,
        "batch": sizes.batch,
        "parameters": parameters,
        "floor": round(least, 4),
        "over_floor": round(timed.ratio / least, 4),
        "metaweighting_ms": round(timed.milliseconds[0], 2),
        "uniform_ms": round(timed.milliseconds[1], 2),
    }
    case = f"{sweep}={more[sweep]}, {query}"
    return Result("scaling", case, timed.ratio, timed.spread, "x uniform step", more)


def _growth(options: ScalingBenchmark, few: int, tasks: int, query: str) -> Result:
    """The same rows in all, spread over more tasks."""
    spread, dense = (metaweighting_step(options, count, SHARES[query]) for count in (tasks, few))
    timed = paired_ratio(spread, dense, options.pairs)
    more = {"sweep": "growth", "query": query, "tasks": tasks, "batch": options.batch}
    case = f"T={tasks} over T={few}, {query}"
    return Result("scaling", case, timed.ratio, timed.spread, f"x the step of T={few}", more)
