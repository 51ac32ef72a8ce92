"""Cost of whole runs: the processor time of `lossrag train` with some options, beside the same run without."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from statistics import median, quantiles

from lossrag.checks import check_least
from lossrag.errors import LossRAGError
from lossrag.experiments.benchmark.paired import Result
from lossrag.experiments.config.compose import load_config


@dataclass(frozen=True)
class RunsBenchmark:
    """Options of `lossrag benchmark runs`: presets, what is said to one run of a pair, what to the other, what to both.
    Pairs differ in their seeds, from ``seed`` on, and are run in turn, start-up, test and pictures included."""

    experiments: list[str] = field(default_factory=lambda: ["digits"])
    options: list[str] = field(default_factory=lambda: ["loss.policy=retrieval"])
    beside: list[str] = field(default_factory=lambda: ["loss.policy=fixed"])
    both: list[str] = field(default_factory=list)
    pairs: int = 3
    seed: int = 90
    threads: int = 1

    def __post_init__(self) -> None:
        check_least(self, 2, "pairs")
        check_least(self, 1, "threads")
        check_least(self, 0, "seed")


def run_runs(options: RunsBenchmark) -> list[Result]:
    """A row per preset: the median ratio of processor seconds, and those of every pair.

    Raises LossRAGError where a run fails, with its last line.
    """
    sides = ([*options.both, *options.options], [*options.both, *options.beside])
    for experiment in options.experiments:
        for side in sides:  # before the first of them takes its minutes
            load_config([f"experiment={experiment}", *side])
    results = []
    for experiment in options.experiments:
        seeds = range(options.seed, options.seed + options.pairs)
        pairs = [tuple(_seconds(experiment, seed, side, options.threads) for side in sides) for seed in seeds]
        ratios = [a / b for a, b in pairs]
        low, _, high = quantiles(ratios, n=4)
        more = {"seconds": [[round(a, 2), round(b, 2)] for a, b in pairs], "said": sides[0], "beside": sides[1]}
        results.append(Result("runs", experiment, median(ratios), high - low, "x processor time beside", more))
    return results


def _seconds(experiment: str, seed: int, said: list[str], threads: int) -> float:
    """User and system seconds of one run in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        line = [f"experiment={experiment}", f"seed={seed}", f"machine.threads={threads}", *said, "run.dir=run"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "lossrag", "train", *line],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
        raise LossRAGError(f"`lossrag train {' '.join(line)}` ended with exit code {done.returncode}: {last}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
