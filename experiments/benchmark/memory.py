"""Peak memory of a MetaWeighting step above a uniform one, with the gradient rows held and with one at a time."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from lossrag.checks import check_least
from lossrag.experiments.benchmark.paired import Result, paired_within
from lossrag.experiments.benchmark.problems import (
    Run,
    TextOptions,
    check_text,
    metaweighting_step,
    text_model,
    trained,
    uniform_step,
)
from lossrag.experiments.config.schema import MachineConfig
from lossrag.experiments.run.machine import apply_machine

STEPS = 2
"""The second step is the first that finds the optimiser's moments in place."""


@dataclass(frozen=True)
class MemoryBenchmark(TextOptions):
    """Options of `lossrag benchmark memory`: short documents and many filters, so that gradients outweigh the rest.

    seconds: about how long the timing of low / rows may take for each number of tasks.
    """

    batch: int = 128
    length: int = 16
    vectors: int = 128
    filters: int = 256
    words: int = 1000
    tasks: tuple[int, ...] = (4, 14, 64)
    seconds: int = 60

    def __post_init__(self) -> None:
        check_text(self, self.tasks)
        check_least(self, 1, "seconds")


def run_memory(options: MemoryBenchmark) -> list[Result]:
    """Peak memory above a uniform step, for memory=rows and memory=low, and what low costs in time."""
    return [result for tasks in options.tasks for result in [*_peaks(options, tasks), _low_over_rows(options, tasks)]]


def _peaks(options: MemoryBenchmark, tasks: int) -> list[Result]:
    """Each method in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        uniform, *peaks = [pool.apply(peak_bytes, (options, tasks, kind)) for kind in ("uniform", "rows", "low")]
    row = row_bytes(options, tasks)
    results = []
    for kind, peak in zip(("rows", "low"), peaks, strict=True):
        more = {
            "in_units_of_d": round((peak - uniform) / row, 2),
            "matrix_mb": round(tasks * row / 2**20, 2),
            "d_mb": round(row / 2**20, 2),
            "metaweighting_peak_mb": round(peak / 2**20, 1),
            "uniform_peak_mb": round(uniform / 2**20, 1),
        }
        case = f"T={tasks}, memory={kind}, peak above uniform"
        results.append(Result("memory", case, (peak - uniform) / (tasks * row), 0.0, "x one T x d matrix", more))
    return results


def _low_over_rows(options: MemoryBenchmark, tasks: int) -> Result:
    low, rows = (metaweighting_step(options, tasks, memory=memory) for memory in ("low", "rows"))
    timed = paired_within(low, rows, options.pairs, options.seconds)
    return timed.result("memory", f"T={tasks}, time, low over rows", "x memory=rows", ("low_ms", "rows_ms"))


def peak_bytes(options: TextOptions, tasks: int, kind: str) -> int:
    """The peak of a few steps, from the moment when model and batches are there."""
    apply_machine(MachineConfig(options.device, options.threads))
    run: Run = uniform_step(options, tasks) if kind == "uniform" else metaweighting_step(options, tasks, memory=kind)
    if options.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    else:
        reset_high_water()
    for _ in range(STEPS):
        run()
    if options.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return high_water_bytes()


def row_bytes(options: TextOptions, tasks: int) -> int:
    """Bytes of one gradient: d trained numbers, all heads included."""
    return sum(p.numel() * p.element_size() for p in trained(text_model(options, tasks)))


def reset_high_water() -> None:
    """Forget the peak of importing and building, where Linux lets a process do so."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # then the peak counts from the start, the same for all methods


def high_water_bytes() -> int:
    """Peak resident bytes of this process. Linux hands getrusage's figure down from parent to child, so the
    process's own status is asked first."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
