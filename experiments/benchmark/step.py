"""What a MetaWeighting step costs beside a uniform step on TextCNN, and beside the floor 1 + |query| / |support|."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.benchmark.paired import paired_ratio
from experiments.benchmark.result import Result
from experiments.config.schema import MachineConfig
from experiments.machine import apply_machine
from experiments.objective import BatchObjective
from experiments.task_groups import joint_losses, table_rows, task_losses
from lossbank import LOSSES
from lossrag import ConfigError
from models import MultiTaskModel, TextCNN
from tasks import Task
from weighting import MetaWeighting, MultiTaskStep, Uniform


@dataclass(frozen=True)
class StepBenchmark:
    """Options of `lossrag benchmark step`; batch is the support rows over all tasks, length the words of each."""

    tasks: tuple[int, ...] = (4, 14)
    batch: int = 256
    length: int = 150
    vectors: int = 50
    filters: int = 64
    words: int = 30_000
    trainable: bool = False
    pairs: int = 9
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        lowest = {"batch": max([1, *self.tasks]), "words": 2, "pairs": 2}
        for name in ("batch", "length", "vectors", "filters", "words", "pairs", "threads"):
            value = getattr(self, name)
            if value < lowest.get(name, 1):
                raise ConfigError(f"step.{name} must be {lowest.get(name, 1)} or more, got {value}.")
        if not self.tasks or min(self.tasks) < 1:
            raise ConfigError(f"step.tasks must list numbers of tasks from 1 up, e.g. tasks=[4,14], got {self.tasks}.")


def run_step(options: StepBenchmark) -> list[Result]:
    """Ratios for every number of tasks, with the query batch as large as the support batch and an eighth of it."""
    apply_machine(MachineConfig(options.device, options.threads))
    results = []
    for tasks in options.tasks:
        for share, name in ((1.0, "query = support"), (0.125, "query = support / 8")):
            uniform, meta, floor = routines(options, tasks, share)
            timed = paired_ratio(meta, uniform, options.pairs)
            results.append(
                Result(
                    "step",
                    f"T={tasks}, {name}",
                    timed.ratio,
                    timed.spread,
                    "x uniform step",
                    {
                        "floor": round(floor, 4),
                        "over_floor": round(timed.ratio / floor, 4),
                        "metaweighting_ms": round(timed.milliseconds[0], 2),
                        "uniform_ms": round(timed.milliseconds[1], 2),
                    },
                )
            )
        results.append(_memory(options, tasks))
    return results


def routines(
    options: StepBenchmark, tasks: int, share: float
) -> tuple[Callable[[], object], Callable[[], object], float]:
    """A uniform step with one joint pass, a MetaWeighting step on the same support rows, and the floor."""
    rows = options.batch // tasks
    query_rows = max(1, round(rows * share))
    uniform = _step(options, tasks, Uniform(), rows, rows)
    meta = _step(options, tasks, MetaWeighting(scale="unit"), rows, query_rows)
    return uniform, meta, 1 + query_rows / rows


def _step(
    options: StepBenchmark, tasks: int, method: Uniform | MetaWeighting, rows: int, query_rows: int
) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(options.words, options.vectors, generator=generator)
    torch.manual_seed(0)
    model = MultiTaskModel(
        lambda: TextCNN(vectors, filters=options.filters, trainable=options.trainable), [4] * tasks
    ).to(options.device)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)
    step = MultiTaskStep(model.parameters(), optimizer, method, tasks)

    names = [Task(f"task {t}", "classification", 4) for t in range(tasks)]

    def batch(size: int) -> tuple[list[torch.Tensor], BatchObjective]:
        shape = (tasks, size, options.length)
        words = torch.randint(1, options.words, shape, generator=generator).to(options.device)
        labels = torch.randint(4, (tasks, size), generator=generator).to(options.device)
        return list(words), BatchObjective(names, [LOSSES["cross_entropy"]] * tasks, list(labels))

    support, query = batch(rows), batch(query_rows)
    if isinstance(method, Uniform):
        return lambda: step(joint_losses(model, *support))

    def run() -> object:
        rows = table_rows(model, support[0])
        return step(task_losses(model, *support, rows), task_losses(model, *query, rows))

    return run


def _memory(options: StepBenchmark, tasks: int) -> Result:
    """Peak memory above a uniform step in units of one T x d matrix; each method in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = [pool.apply(_peak_bytes, (options, tasks, meta)) for meta in (True, False)]
        matrix = pool.apply(_matrix_bytes, (options, tasks))
    above = peaks[0] - peaks[1]
    extra = {
        "matrix_mb": round(matrix / 2**20, 2),
        "metaweighting_peak_mb": round(peaks[0] / 2**20, 1),
        "uniform_peak_mb": round(peaks[1] / 2**20, 1),
    }
    return Result("step", f"T={tasks}, peak memory above uniform", above / matrix, 0.0, "x one T x d matrix", extra)


def _peak_bytes(options: StepBenchmark, tasks: int, meta: bool) -> int:
    apply_machine(MachineConfig(options.device, options.threads))
    uniform, metaweighting, _ = routines(options, tasks, 1.0)
    routine = metaweighting if meta else uniform
    if options.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        routine()
    if options.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return _high_water_bytes()


def _high_water_bytes() -> int:
    """Peak resident bytes of this process. Linux hands getrusage's figure down from parent to child, so the
    process's own status is asked first."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _matrix_bytes(options: StepBenchmark, tasks: int) -> int:
    vectors = torch.zeros(options.words if options.trainable else 1, options.vectors)
    encoder = TextCNN(vectors, filters=options.filters, trainable=options.trainable)
    model = MultiTaskModel(lambda: encoder, [4] * tasks)
    return tasks * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
