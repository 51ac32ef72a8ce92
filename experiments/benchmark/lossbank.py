"""What learned losses cost: pricing a library by its size, and a LossRAG run beside a MetaWeighting run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from lossrag.errors import ConfigError
from lossrag.experiments.benchmark.paired import Result, paired_ratio
from lossrag.experiments.benchmark.problems import CLASSES, TextOptions, adam, check_text, text_model, trained
from lossrag.experiments.config.schema import MachineConfig
from lossrag.experiments.run.learned_losses import Composing
from lossrag.experiments.run.machine import apply_machine
from lossrag.experiments.run.problem import Problem
from lossrag.lossbank import LOSSES, Composer, ComposerConfig, Loss, Mixture, TaskSpec, starting_retriever
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


@dataclass(frozen=True)
class LossbankBenchmark(TextOptions):
    """Options of `lossrag benchmark lossbank`: sizes of the library, the first of which the others are compared with;
    a run is ``steps`` steps of MetaWeighting with ``run_losses`` in the library and the default policy, once looking
    ahead on ``rows`` support and query rows a task, and with ``loss.horizon=1`` and each of the intervals ``every``."""

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
    """Pricing by the size of the library, and a LossRAG run beside a MetaWeighting run."""
    apply_machine(MachineConfig(options.device, options.threads))
    results = []
    with library(max((*options.sizes, options.run_losses))) as names:
        first = options.sizes[0]
        for size in options.sizes[1:]:
            few, many = (_pricing(options, names[:n]) for n in (first, size))
            timed = paired_ratio(many, few, options.pairs)
            more = {"ms": round(timed.milliseconds[0], 1), f"ms_{first}": round(timed.milliseconds[1], 1)}
            unit = f"x pricing {first} losses"
            results.append(Result("lossbank", f"pricing {size} losses", timed.ratio, timed.spread, unit, more))
        configs = {"as it comes": ComposerConfig(candidates=tuple(names[: options.run_losses]))}
        for every in options.every:
            configs[f"loss.horizon=1, loss.every={every}"] = replace(configs["as it comes"], horizon=1, every=every)
        for name, config in configs.items():
            plain, learned = _run(options, None), _run(options, config)
            timed = paired_ratio(learned, plain, options.pairs, warmup=0)
            more = {"ms": round(timed.milliseconds[0] / options.steps, 1)}
            more["ms_plain"] = round(timed.milliseconds[1] / options.steps, 1)
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


def _composing(options: LossbankBenchmark, problem: Problem, config: ComposerConfig) -> Composing:
    tasks = [
        TaskSpec(task.name, task.kind, "cross_entropy", mixture.class_counts)
        for task, mixture in zip(problem.suite.tasks, problem.inner, strict=True)
    ]
    retriever = starting_retriever(None, "two_tower", "benchmark", 0)
    retriever.bank = type(retriever.bank).create(list(config.candidates or ()))
    return Composing(problem, Composer(tasks, config, retriever), options.steps, rows=options.rows)


class _Loop:
    """MetaWeighting steps on one batch, priced when they are due."""

    def __init__(self, options: LossbankBenchmark, config: ComposerConfig | None) -> None:
        self.problem = _problem(options)
        self.index = [torch.arange(options.batch // options.tasks)] * options.tasks
        self.composing = None if config is None else _composing(options, self.problem, config)
        method = MetaWeighting(scale="unit")
        model = self.problem.model
        self.step = MultiTaskStep(trained(model), adam(model), method, self.problem.suite.task_names)
        self.step.keep_query_gradient = self.composing is not None and self.composing.follows

    def one(self, *, priced: bool = False) -> None:
        """A step; ``priced`` whether it is due or not."""
        composing = self.composing
        mixtures = composing.mixtures() if composing else None
        old = composing.before(self.step.count + 1) if composing else None
        if priced and composing and old is None:
            old = {name: parameter.detach().clone() for name, parameter in composing.parameters.items()}
        support, _ = self.problem.batch_losses("support", self.index, route="groups", mixtures=mixtures)
        keep = composing is not None
        query, batch = self.problem.batch_losses("query", self.index, route="groups", keep_features=keep)
        record = self.step(support, query)
        if composing:
            composing.after(old, self.index, self.index, record, batch)
            if old is not None:
                self.last = (old, record, batch)


def _pricing(options: LossbankBenchmark, names: Sequence[str]) -> Pricing:
    return Pricing(_Loop(options, ComposerConfig(candidates=tuple(names), horizon=1)))


class Pricing:
    """Prices the library once more for the last step; the memory and the reviews are left out."""

    def __init__(self, loop: _Loop) -> None:
        loop.one(priced=True)
        self.loop = loop
        assert loop.composing is not None
        loop.composing.composer.retriever = None

    def __call__(self) -> None:
        """One pricing."""
        composing = self.loop.composing
        assert composing is not None
        old, record, batch = self.loop.last
        composing.composer.pricings = 1  # never a review, always a usual turn of measured gradients
        composing.after(old, self.loop.index, self.loop.index, record, batch)


def _run(options: LossbankBenchmark, config: ComposerConfig | None) -> Run:
    return Run(options, config)


class Run:
    """So many steps in a row from the first on, looks ahead and reviews included."""

    def __init__(self, options: LossbankBenchmark, config: ComposerConfig | None) -> None:
        self.options, self.config = options, config

    def __call__(self) -> None:
        """All steps."""
        loop = _Loop(self.options, self.config)
        for _ in range(self.options.steps):
            loop.one()
