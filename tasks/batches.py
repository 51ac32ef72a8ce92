"""Batch plans: the samples that a step reads, a function of the seed and the step alone.

Nothing is carried from step to step, so a resumed run regenerates its plan bit by bit.
"""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.streams import Stream, generator
from lossrag.tasks.suite import SPLITS, Inputs, Suite

WINDOW = 8
"""Batches among which samples are sorted by length: little padding, while the batches stay random."""


def epoch_plan(suite: Suite, split: str, batch_size: int, seed: int, epoch: int) -> list[tuple[Tensor, ...]]:
    """The steps of one epoch: each holds one int64 index (B,) a task into ``suite.splits[split]``.

    With shared input ``batch_size`` are the rows of a step and all tasks hold the same index; else it is the number of
    samples over all tasks, split evenly. An epoch ends when the largest task is through; smaller tasks go on with new
    permutations. In one pass every sample of a task occurs once; the batches of a pass differ by one sample at most.

    Raises ConfigError when ``batch_size`` gives a task no sample, or for a negative seed or epoch.
    """
    share = _share(suite, batch_size)
    _check("epoch", epoch)
    columns = _columns(suite, split)
    steps = max(ceil(len(inputs) / share) for inputs in columns)
    stream = (Stream.EPOCH, SPLITS.index(split), epoch)
    streams = []
    for task, inputs in enumerate(columns):
        batches: list[Tensor] = []
        while len(batches) < steps:
            batches += _one_pass(inputs, share, generator(seed, *stream, task, len(batches)))
        streams.append(batches[:steps])
    return [_repeat(suite, step) for step in zip(*streams, strict=True)]


def query_index(suite: Suite, batch_size: int, seed: int, step: int) -> tuple[Tensor, ...]:
    """The query batch of global step ``step``, from 0: one int64 index (B,) a task, as in :func:`epoch_plan`.

    The stream runs through one permutation of a task's query samples after the other, without end; a
    batch has no more samples than the query split.
    """
    share = _share(suite, batch_size)
    _check("step", step)
    index = []
    for task, inputs in enumerate(_columns(suite, "query")):
        turn, place = divmod(step, ceil(len(inputs) / share))
        index.append(_one_pass(inputs, share, generator(seed, Stream.QUERY_BATCH, task, turn))[place])
    return _repeat(suite, tuple(index))


def ordered_batches(inputs: Inputs, batch_size: int) -> list[Tensor]:
    """Every position once, the shortest inputs first: the batches of an evaluation.

    >>> from lossrag.tasks import DenseInputs
    >>> ordered_batches(DenseInputs(torch.zeros(5, 2)), 2)
    [tensor([0, 1]), tensor([2, 3]), tensor([4])]
    """
    if batch_size < 1:
        raise ConfigError(f"A batch has at least one sample, not {batch_size}.")
    lengths = inputs.lengths
    order = torch.arange(len(inputs)) if lengths is None else lengths.argsort(stable=True)
    return list(torch.split(order, batch_size))


def _share(suite: Suite, batch_size: int) -> int:
    parts = 1 if suite.shared_input else len(suite.tasks)
    if batch_size < parts:
        raise ConfigError(
            f"A batch of {batch_size} leaves some of the {parts} tasks of {suite.name!r} without a sample: "
            f"set the batch size to {parts} or more (it counts the samples of a step over all tasks)."
            if parts > 1
            else f"A batch has at least one sample, not {batch_size}."
        )
    return batch_size // parts


def _check(name: str, position: int) -> None:
    if position < 0:
        raise ConfigError(f"The {name} counts from 0, not {position}.")


def _columns(suite: Suite, split: str) -> list[Inputs]:
    """The inputs that have an order of their own: of every task, or the shared ones once."""
    if split not in SPLITS:
        raise ConfigError(f"Unknown split {split!r}: choose from {', '.join(SPLITS)}.")
    examples = suite.splits[split]
    return [column.inputs for column in (examples[:1] if suite.shared_input else examples)]


def _repeat(suite: Suite, index: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return index * len(suite.tasks) if suite.shared_input else index


def _one_pass(inputs: Inputs, share: int, rng: np.random.Generator) -> list[Tensor]:
    """Every position once, in random batches of ``share`` at most, inputs of like length together."""
    order = rng.permutation(len(inputs))
    # Batches of nearly equal size: no rest of one or two samples, no sample twice.
    batches = np.array_split(order, ceil(len(order) / share))
    if inputs.lengths is not None:
        lengths = inputs.lengths.numpy()
        bucketed = []
        for start in range(0, len(batches), WINDOW):
            window = batches[start : start + WINDOW]
            joined = np.concatenate(window)
            # Stable, so that the order of equal lengths does not depend on the sorting routine of a machine.
            joined = joined[np.argsort(lengths[joined], kind="stable")]
            bucketed += np.split(joined, np.cumsum([len(batch) for batch in window])[:-1])
        batches = [bucketed[i] for i in rng.permutation(len(bucketed))]
    return [torch.from_numpy(batch) for batch in batches]
