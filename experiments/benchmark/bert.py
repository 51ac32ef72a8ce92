"""Peak memory of steps that fine-tune an encoder of the BERT family on real texts, for 4 and for 14 tasks."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass

import torch

from lossrag.checks import check_least, require
from lossrag.experiments.benchmark.memory import high_water_bytes, reset_high_water
from lossrag.experiments.benchmark.paired import Result
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.schema import MachineConfig
from lossrag.experiments.run.build import build_problem, build_suite
from lossrag.experiments.run.machine import apply_machine
from lossrag.experiments.run.step import BatchStep
from lossrag.tasks import Suite

SUITES = {4: "newsgroups", 14: "sentiment"}
KINDS = {
    "uniform": ["weighting=uniform"],
    "MetaWeighting": ["weighting=metaweighting"],
    "MetaWeighting, memory=low": ["weighting=metaweighting", "train.memory=low"],
}


@dataclass(frozen=True)
class BertBenchmark:
    """Options of `lossrag benchmark bert`: rows over all tasks, word pieces of a text at most, numbers of tasks.

    steps: of each kind; the second is the first that finds the optimiser's moments in place. low: whether
    ``train.memory=low``, which takes T times as long, is measured, too.
    """

    encoder: str = "minilm"
    batch: int = 32
    length: int = 128
    tasks: tuple[int, ...] = (4, 14)
    steps: int = 2
    low: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        check_least(self, 2, "steps")
        known = " or ".join(f"{count} ({name})" for count, name in SUITES.items())
        for count in self.tasks:
            require(count in SUITES, self, f"{{tasks}}: the suites of texts have {known} tasks, not {count}.")


def run_bert(options: BertBenchmark) -> list[Result]:
    """Peak memory and seconds of a step that fine-tunes a pre-trained encoder (extra bert)."""
    kinds = list(KINDS) if options.low else list(KINDS)[:2]
    # each in a process of its own
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return [pool.apply(measure, (options, tasks, kind)) for tasks in options.tasks for kind in kinds]


def measure(options: BertBenchmark, tasks: int, kind: str) -> Result:
    """A few steps on the widest batches of an epoch, from the moment when model and suite are there."""
    device, _ = apply_machine(MachineConfig("cpu", options.threads))
    config, _ = load_config(
        [
            *(f"tasks={SUITES[tasks]}", "model=bert", f"model.encoder={options.encoder}", *KINDS[kind]),
            *(f"tasks.max_tokens={options.length}", f"train.batch_size={options.batch}"),
        ]
    )
    suite = build_suite(config)
    problem = build_problem(config, suite, device)
    step = BatchStep.of(config, problem, 1)
    plan = sorted(step.plan(0), key=lambda index: -_pieces(suite, index))
    reset_high_water()
    before, seconds = high_water_bytes(), []
    for index in plan[: options.steps]:
        start = time.perf_counter()
        step(index, 0)
        seconds.append(time.perf_counter() - start)
    peak = high_water_bytes()
    d = sum(p.numel() for p in problem.model.parameters() if p.requires_grad)
    more = {
        "peak_mb": round(peak / 2**20),
        "before_mb": round(before / 2**20),
        "gradient_rows_mb": round(step.step.nbytes / 2**20),
        "d_mb": round(4 * d / 2**20),
        "seconds": round(min(seconds), 2),
        "pieces": _pieces(suite, plan[0]),
    }
    return Result("bert", f"T={tasks}, {kind}", (peak - before) / (4 * d), 0.0, "x d above model and data", more)


def _pieces(suite: Suite, index: tuple[torch.Tensor, ...]) -> int:
    """Word pieces of a support batch."""
    pairs = zip(suite.splits["support"], index, strict=True)
    return sum(examples.inputs.gather(rows).numel() for examples, rows in pairs)
