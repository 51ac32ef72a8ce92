"""Problem that most subjects time: TextCNN with a head per task, every task with words of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag.checks import check_least, require
from lossrag.errors import LossRAGError
from lossrag.experiments.run.objective import BatchObjective
from lossrag.experiments.run.task_groups import joint_losses, single_losses, table_rows, task_losses
from lossrag.lossbank import LOSSES, Mixture
from lossrag.models import MLP, MultiTaskModel, TextCNN
from lossrag.tasks import Task
from lossrag.weighting import MetaWeighting, MultiTaskStep, StepRecord, Uniform

CLASSES = 4
Run = Callable[[], StepRecord]


@dataclass(frozen=True)
class TextOptions:
    """batch: support rows over all tasks; length: words of each; vectors: their width; words: of the vocabulary; pairs:
    of timings."""

    batch: int = 512
    length: int = 150
    vectors: int = 50
    filters: int = 64
    words: int = 30_000
    trainable: bool = False
    device: str = "cpu"
    threads: int = 1
    pairs: int = 9


def check_numbers(options: object, field: str, sizes: Sequence[int]) -> None:
    """Raise OptionError unless these are numbers from 1 up."""
    fits = min(sizes, default=0) >= 1
    require(fits, options, f"{{{field}}} must list numbers from 1 up, e.g. {{{field}}}=[4,14], got {list(sizes)}.")


def check_text(options: TextOptions, tasks: Sequence[int]) -> None:
    """Raise OptionError for sizes that cannot work with so many tasks."""
    check_numbers(options, "tasks", tasks)
    check_least(options, max(tasks), "batch")
    check_least(options, 1, "length", "vectors", "filters", "threads")
    check_least(options, 2, "words", "pairs")


@dataclass(frozen=True)
class TextBatch:
    """``words[t]`` (B, L) and ``labels[t]`` (B,) of every task."""

    words: list[Tensor]
    labels: list[Tensor]

    def objective(self) -> BatchObjective:
        """The losses and scores that a run computes."""
        names = [Task(f"task {t}", "classification", CLASSES) for t in range(len(self.words))]
        return BatchObjective(names, [Mixture((LOSSES["cross_entropy"],))] * len(names), self.labels, complete=True)


def text_model(options: TextOptions, tasks: int, dropout: float = 0.5) -> MultiTaskModel:
    """The same model at every call."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(options.words, options.vectors, generator=generator)
    torch.manual_seed(0)
    return MultiTaskModel(
        lambda: TextCNN(vectors, filters=options.filters, dropout=dropout, trainable=options.trainable),
        [CLASSES] * tasks,
    ).to(options.device)


def text_batch(options: TextOptions, tasks: int, rows: int, seed: int) -> TextBatch:
    """``rows`` random documents for each task."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, options.words, (tasks, rows, options.length), generator=generator)
    labels = torch.randint(CLASSES, (tasks, rows), generator=generator)
    return TextBatch(list(words.to(options.device)), list(labels.to(options.device)))


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that require a gradient."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def adam(model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimiser of experiments/run/build.py."""
    return torch.optim.Adam(trained(model), lr=1e-3, fused=True)


def uniform_step(options: TextOptions, tasks: int) -> Run:
    """A uniform step: one joint pass."""
    model, batch = text_model(options, tasks), text_batch(options, tasks, options.batch // tasks, 1)
    step = MultiTaskStep(model.parameters(), adam(model), Uniform(), tasks)
    return lambda: step(joint_losses(model, batch.words, batch.objective()))


def metaweighting_step(
    options: TextOptions, tasks: int, share: float = 1.0, memory: str = "rows", every: int = 1
) -> Run:
    """A MetaWeighting step on the same support rows, with ``share`` of their number as query rows; its outer problem
    runs in ``every`` so many."""
    model, batch = text_model(options, tasks), text_batch(options, tasks, options.batch // tasks, 1)
    query = text_batch(options, tasks, query_rows(options, tasks, share), 2)
    step = MultiTaskStep(model.parameters(), adam(model), MetaWeighting(scale="unit"), tasks, memory, every=every)

    def run() -> StepRecord:
        if not step.learns_next:
            return step(joint_losses(model, batch.words, batch.objective()))
        if memory == "low":
            losses = [single_losses(model, part.words, part.objective()) for part in (batch, query)]
        else:
            rows = table_rows(model, batch.words)
            losses = [
                task_losses(model, part.words, part.objective(), rows, query=part is query) for part in (batch, query)
            ]
        return step(*losses)

    return run


def query_rows(options: TextOptions, tasks: int, share: float) -> int:
    """Query rows per task."""
    return max(1, round(options.batch // tasks * share))


def floor(options: TextOptions, tasks: int, share: float) -> float:
    """1 + |query| / |support|: the query batch has to be computed, too."""
    return 1 + query_rows(options, tasks, share) / (options.batch // tasks)


def check_shared(options: object, sizes: Sequence[Sequence[int]]) -> None:
    """Raise OptionError unless every entry of the field ``shared`` is a [width, rows, layers] from 1 up, and
    ``heads`` is."""
    for size in sizes:
        fits = len(size) == 3 and min(size) >= 1
        require(fits, options, f"{{shared}} must list [width,rows,layers] from 1 up, e.g. [[512,64,2]], got {size}.")
    check_least(options, 1, "heads")


def shared_model(width: int, layers: int, heads: int) -> MultiTaskModel:
    """``layers`` layers of ``width`` on an input of that width, a head of 4 classes a task; always the same."""
    torch.manual_seed(0)
    return MultiTaskModel(lambda: MLP((width,), [width] * layers), [CLASSES] * heads)


def shared_batch(width: int, rows: int, heads: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random inputs (B, width) that all tasks share, and the labels (T, B) of each."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, width, generator=generator)
    return inputs, torch.randint(CLASSES, (heads, rows), generator=generator)


def require_equal(what: str, result: Tensor, expected: Tensor, tolerance: float) -> float:
    """The relative error |result - expected| / |expected|, Frobenius; raises LossRAGError when it exceeds
    ``tolerance``."""
    error = float((result - expected).norm() / expected.norm().clamp(min=torch.finfo(expected.dtype).tiny))
    if not error <= tolerance:
        raise LossRAGError(
            f"{what}: the two results differ by {error:.1e} of their length, expected at most {tolerance:.0e}. Times "
            "of different results say nothing: report this with the command that you ran."
        )
    return error
