"""Cost of learned losses: measuring a library by its size, and a LossRAG run beside a MetaWeighting run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from lossrag.errors import ConfigError
from lossrag.experiments.benchmark.paired import Result, paired_ratio
from lossrag.experiments.benchmark.problems import CLASSES, TextOptions, adam, check_text, text_model, trained
from lossrag.experiments.config.model import ModelConfig
from lossrag.experiments.config.schema import Choice, Config, LossConfig, TrainConfig
from lossrag.experiments.run.learned_losses import StepRows, build_learned_losses
from lossrag.experiments.run.problem import Problem
from lossrag.experiments.run.step import BatchStep
from lossrag.experiments.run.task_groups import joint_losses
from lossrag.lossbank import LOSSES, Adviser, Answer, Loss, Mixture, Question
from lossrag.models import TextCNNOptions
from lossrag.tasks import SPLITS, DenseInputs, Examples, Suite, Task
from lossrag.weighting import MetaWeighting, MultiTaskStep

# base entry: (hyperparameter, its range), from which a library of any size is made
VARIED = {
    "focal_1": ("gamma", 0.2, 6.0),
    "generalised_ce_0.7": ("q", 0.05, 0.95),
    "label_smoothing_0.1": ("smoothing", 0.01, 0.4),
    "poly1_1": ("epsilon", 0.1, 4.0),
    "symmetric_ce": ("alpha", 0.05, 5.0),
    "logit_adjusted_1": ("tau", 0.1, 3.0),
    "active_passive": ("alpha", 0.1, 12.0),
    "bootstrapping_soft": ("beta", 0.5, 0.99),
}
MIXED = 4
"""Losses that the most talkative bank speaks for in every task."""


@dataclass(frozen=True)
class LossbankBenchmark(TextOptions):
    """Options of `lossrag benchmark lossbank`: sizes of the library, the first of which the others are compared with
    one step ahead; a run is ``steps`` steps of MetaWeighting with ``run_losses`` in the library: retrieved from a bank
    that speaks for the reference, and from one that speaks for some losses in every task; all of them, moved by looks
    ahead on ``rows`` support and query rows a task, or one step ahead with each of the intervals ``every``."""

    batch: int = 256
    sizes: tuple[int, ...] = (32, 64, 128, 256)
    run_losses: int = 32
    tasks: int = 4
    every: tuple[int, ...] = (2, 8)
    rows: int = 512
    steps: int = 96
    pairs: int = 5

    def __post_init__(self) -> None:
        check_text(self, [self.tasks])
        if min((*self.sizes, self.run_losses), default=0) < len(VARIED) + 1 or len(self.sizes) < 2:
            raise ConfigError(f"lossbank.sizes must list two or more sizes above {len(VARIED)}, got {self.sizes}.")


def run_lossbank(options: LossbankBenchmark) -> list[Result]:
    """A measurement by the size of the library, and a LossRAG run beside a MetaWeighting run."""
    results = []
    with library(max((*options.sizes, options.run_losses))) as names:
        first = options.sizes[0]
        for size in options.sizes[1:]:
            few, many = (
                _measurement(options, LossConfig(policy="gradient", evidence="one_step", candidates=tuple(names[:n])))
                for n in (first, size)
            )
            timed = paired_ratio(many, few, options.pairs)
            more = {"ms": round(timed.milliseconds[0], 1), f"ms_{first}": round(timed.milliseconds[1], 1)}
            unit = f"x measuring {first} losses"
            results.append(Result("lossbank", f"measuring {size} losses", timed.ratio, timed.spread, unit, more))
        offered = LossConfig(candidates=tuple(names[: options.run_losses]))
        retrieval, gradient = (replace(offered, policy=policy) for policy in ("retrieval", "gradient"))
        cases = {
            "retrieval, the reference": (retrieval, _Speaks(0)),
            f"retrieval, {MIXED} losses in every task": (retrieval, _Speaks(MIXED)),
            "loss.policy=gradient": (gradient, None),
        }
        for every in options.every:
            one_step = replace(gradient, evidence="one_step", every=every)
            cases[f"loss.policy=gradient loss.evidence=one_step loss.every={every}"] = (one_step, None)
        for name, (config, bank) in cases.items():
            learned, plain = partial(_run, options, config, bank), partial(_run, options, LossConfig(), None)
            timed = paired_ratio(learned, plain, options.pairs, warmup=0)
            ms, ms_plain = (round(milliseconds / options.steps, 1) for milliseconds in timed.milliseconds)
            more = {"ms": ms, "ms_plain": ms_plain}
            case = f"LossRAG with {options.run_losses} losses, {name}"
            results.append(Result("lossbank", case, timed.ratio, timed.spread, "x MetaWeighting run", more))
    return results


@contextmanager
def library(size: int) -> Iterator[list[str]]:
    """``size`` registered losses: cross-entropy and variants of some others, taken out again at the end."""
    made: list[Loss] = []
    for number in range(size - 1):
        base, (option, low, high) = list(VARIED.items())[number % len(VARIED)]
        share = (number // len(VARIED)) / max((size - 2) // len(VARIED), 1)
        value = low + share * (high - low)
        hyperparameters = {**LOSSES[base].hyperparameters, option: value}
        made.append(replace(LOSSES[base], name=f"varied_{number}_{base}", hyperparameters=hyperparameters))
    for loss in made:
        LOSSES.add(loss.name, loss)
    try:
        yield ["cross_entropy", *(loss.name for loss in made)]
    finally:
        for loss in made:
            LOSSES.remove(loss.name)


def _problem(options: LossbankBenchmark) -> Problem:
    generator = torch.Generator().manual_seed(0)
    rows = max(options.rows, options.batch // options.tasks)

    def examples() -> Examples:
        words = torch.randint(1, options.words, (rows, options.length), generator=generator)
        return Examples(DenseInputs(words), torch.arange(rows) % CLASSES)

    tasks = tuple(Task(f"task {t}", "classification", CLASSES) for t in range(options.tasks))
    splits = {split: tuple(examples() for _ in tasks) for split in SPLITS}
    suite = Suite("benchmark", "random words", tasks, False, splits)
    losses = tuple(Mixture((LOSSES["cross_entropy"],), None, torch.full((CLASSES,), rows / CLASSES)) for _ in tasks)
    return Problem(suite, text_model(options, options.tasks), losses, losses, torch.device(options.device))


@dataclass(frozen=True)
class _Speaks:
    """A bank that speaks for the first ``count`` losses on offer in every task, whatever it is asked."""

    count: int

    def ask(self, question: Question) -> Answer:
        """The same gain for each of them."""
        known = (np.arange(len(question.losses)) < self.count).astype(np.float64)
        trials = np.full(len(known), 15)
        return Answer(question, 0.04 * known, 0.0 * known, trials, (), 0.0, (question.encoder,))


class _Loop:
    """MetaWeighting steps on one batch, as a run makes them."""

    def __init__(self, options: LossbankBenchmark, loss: LossConfig, bank: Adviser | None = None) -> None:
        self.problem = _problem(options)
        self.index = (torch.arange(options.batch // options.tasks),) * options.tasks
        config = Config(
            seed=0,
            tasks=Choice("benchmark", None),
            model=ModelConfig(name="textcnn", encoder=TextCNNOptions(filters=options.filters)),
            weighting=Choice("metaweighting", MetaWeighting(scale="unit")),
            loss=loss,
            train=TrainConfig(batch_size=options.batch),
        )
        model = self.problem.model
        step = MultiTaskStep(trained(model), adam(model), config.weighting.options, self.problem.suite.task_names)
        self.learned = build_learned_losses(config, self.problem, options.steps, bank)
        evidence = self.learned.evidence if self.learned else None
        step.keep_query_gradient = evidence is not None and evidence.follows
        self.step = BatchStep(config, self.problem, step, self.learned)


def _measurement(options: LossbankBenchmark, loss: LossConfig) -> Callable[[], None]:
    """Measures the library once more after a step; reviews are left out."""
    loop = _Loop(options, loss)
    learned, problem, index = loop.learned, loop.problem, loop.index
    assert learned is not None
    record = loop.step(index, 0).record
    inputs, batch = problem.batch("query", index, keep_features=True)
    joint_losses(problem.model, inputs, batch)()  # keeps the features
    rows = StepRows(problem, 0, record.step, {"support": index, "query": index}, batch)

    def measure() -> None:
        learned.composer.measurements = 1  # never a review
        learned.begin(record.step, rows)
        learned.end(record.step, rows, query_gradient=record.query_gradient, lam=record.lam)

    return measure


def _run(options: LossbankBenchmark, loss: LossConfig, bank: Adviser | None) -> None:
    """So many steps in a row from the first on, questions, looks ahead and reviews included."""
    loop = _Loop(options, loss, bank)
    for _ in range(options.steps):
        loop.step(loop.index, 0)
