"""Growth of the cost of a MetaWeighting step with the tasks, the batch and the parameters, beside the floor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lossrag.checks import require
from lossrag.experiments.benchmark.paired import Result, paired_ratio
from lossrag.experiments.benchmark.problems import (
    TextOptions,
    check_numbers,
    check_text,
    metaweighting_step,
    text_model,
    trained,
)
from lossrag.experiments.benchmark.step import SHARES, beside_uniform

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

    def __post_init__(self) -> None:
        check_text(self, self.tasks)
        require(1 <= self.at <= self.batch, self, f"{{at}} must be from 1 to {{batch}}={self.batch}, got {self.at}.")
        least = min(self.batches, default=self.at)
        require(least >= self.at, self, f"{{batches}} must be {{at}}={self.at} or more, a row per task, got {least}.")
        check_numbers(self, "sizes", self.sizes or [1])


def run_scaling(options: ScalingBenchmark) -> list[Result]:
    """MetaWeighting over uniform against the number of tasks, the batch and the parameters."""
    results = [_cost(*point, query) for query in SHARES for point in _points(options)]
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


def _cost(sweep: str, sizes: TextOptions, tasks: int, query: str) -> Result:
    parameters = sum(p.numel() for p in trained(text_model(sizes, tasks)))
    swept = {"tasks": tasks, "batch": sizes.batch, "parameters": parameters}
    case = f"{sweep}={swept[sweep]}, {query}"
    return beside_uniform("scaling", case, sizes, tasks, query, sweep=sweep, query=query, **swept)


def _growth(options: ScalingBenchmark, few: int, tasks: int, query: str) -> Result:
    """The same rows in all, spread over more tasks."""
    spread, dense = (metaweighting_step(options, count, SHARES[query]) for count in (tasks, few))
    timed = paired_ratio(spread, dense, options.pairs)
    case, unit, names = f"T={tasks} over T={few}, {query}", f"x the step of T={few}", ("spread_ms", "dense_ms")
    more = {"sweep": "growth", "query": query, "tasks": tasks, "batch": options.batch}
    return timed.result("scaling", case, unit, names, **more)
