"""Cases of stacked trainings: a task from a pool, its trouble, and what it is trained, questioned and tested on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lossrag.errors import ConfigError, DataError
from lossrag.experiments.bank.collect.plan import Stacked
from lossrag.experiments.bank.collect.pools import Pool, pools
from lossrag.experiments.bank.collect.troubles import Strengths, Trouble, contaminated, drawn_trouble
from lossrag.tasks import DenseInputs, Examples, Suite, Task, corrupt
from lossrag.tasks.splits import split_train

QUERY_SHARE = 1 / 6
LEAST, MOST = 80, 1500
"""Training samples of a case, the query rows among them."""
OF_POOL = 0.6
"""The largest share of a pool that is trained on."""
PER_CLASS = 24
"""Training samples a class, at least, before any trouble."""
TEST_ROWS = 3000
TRIES = 50


@dataclass(frozen=True, eq=False)
class StackedCase:
    """A task to be trained: rows (N, F) with targets (N,) or (N, K), those of support and query with their trouble."""

    pool: Pool
    task: str
    trouble: Trouble
    outputs: int
    support: tuple[Tensor, Tensor]
    query: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @property
    def class_counts(self) -> Tensor | None:
        """(K,) support samples of every class, 1 at least; None for a regression."""
        targets = self.support[1]
        return torch.bincount(targets, minlength=self.outputs).clamp(min=1).float() if targets.ndim == 1 else None


def draw_case(part: Stacked, chance: np.random.Generator) -> StackedCase:
    """A case of the part. Troubles that leave a class without a row are drawn anew, with their task."""
    for _ in range(TRIES):
        try:
            return _draw(part, chance)
        except _UnfitError:
            continue
    raise ConfigError(f"No case of {part.encoder} in {TRIES} draws has a row of every class: weaken the troubles.")


class _UnfitError(Exception):
    """A split without a row of some class."""


def _draw(part: Stacked, chance: np.random.Generator) -> StackedCase:
    source = _weighted(part.sources, chance)
    own = pools(source, part.encoder, part.kind)
    if part.kind == "regression":
        # as often the task of the source as one made up of its columns
        told = [pool for pool in own if not pool.made_up]
        own = tuple(told) if told and chance.random() < 0.5 else own
    pool = own[int(chance.integers(len(own)))]
    trouble = _weighted(part.troubles, chance)
    draw = _classes if part.kind == "classification" else _values
    return draw(part, pool, trouble, chance)


def _classes(part: Stacked, pool: Pool, kind: str, chance: np.random.Generator) -> StackedCase:
    inputs, targets, task = pool.inputs, pool.targets.numpy(), pool.task
    known = pool.outputs
    if known > 3:
        classes = chance.permutation(known)[: int(chance.integers(part.classes[0], min(known, part.classes[1]) + 1))]
        place = np.full(known, -1)
        place[classes] = np.arange(len(classes))
        kept = np.flatnonzero(place[targets] >= 0)
        inputs, targets, task = inputs[kept], place[targets[kept]], f"{len(classes)} of {known} {pool.task}"
    outputs = int(targets.max()) + 1
    trouble = drawn_trouble(Strengths(), kind, outputs, chance)
    order, size = _order(len(inputs), PER_CLASS * outputs, chance)
    rows = split_train(range(size), targets[order[:size]].tolist(), QUERY_SHARE, int(chance.integers(2**31)))
    test = order[size : size + TEST_ROWS]
    index = {split: order[rows[split]] for split in ("support", "query")} | dict.fromkeys(("validation", "test"), test)
    splits = {
        split: (Examples(DenseInputs(inputs[torch.from_numpy(at)]), torch.from_numpy(targets[at])),)
        for split, at in index.items()
    }
    try:
        suite = Suite(pool.source, "", (Task(pool.task, "classification", outputs),), False, splits)
        if trouble.corruption is not None:
            suite, _ = corrupt(suite, {pool.task: trouble.corruption}, int(chance.integers(2**31)))
    except (ConfigError, DataError) as error:
        raise _UnfitError from error
    own = {split: suite.splits[split][0] for split in index}
    dense = {
        split: (examples.inputs.gather(torch.arange(len(examples))), examples.targets)
        for split, examples in own.items()
    }
    return StackedCase(pool, task, trouble, outputs, *_scaled(part, dense["support"], dense["query"], dense["test"]))


def _values(part: Stacked, pool: Pool, kind: str, chance: np.random.Generator) -> StackedCase:
    trouble = drawn_trouble(Strengths(), kind, 0, chance)
    order, size = _order(len(pool.inputs), LEAST, chance)
    query = max(round(QUERY_SHARE * size), 1)
    at = [torch.from_numpy(rows) for rows in (order[query:size], order[:query], order[size : size + TEST_ROWS])]
    middle, width = pool.targets[order[:size]].mean(dim=0), pool.targets[order[:size]].std(dim=0).clamp(min=1e-6)
    parts = [(pool.inputs[rows], (pool.targets[rows] - middle) / width) for rows in at]
    support, held_out, test = _scaled(part, *parts)
    inputs, values = (torch.cat(pair) for pair in zip(support, held_out, strict=True))
    noisy = torch.split(contaminated(trouble, inputs, values, chance), [len(support[1]), len(held_out[1])])
    return StackedCase(pool, pool.task, trouble, pool.outputs, (support[0], noisy[0]), (held_out[0], noisy[1]), test)


def _order(rows: int, least: int, chance: np.random.Generator) -> tuple[np.ndarray, int]:
    """The rows of a pool in random order, and how many of them are for training: a number that is log-uniform."""
    most = min(MOST, int(OF_POOL * rows))
    least = min(max(LEAST, least), most)
    return chance.permutation(rows), int(math.exp(chance.uniform(math.log(least), math.log(most))))


def _scaled(part: Stacked, *parts: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Inputs of an MLP with mean 0 and deviation 1 on the support rows; features of an encoder as they are."""
    if part.encoder != "mlp":
        return list(parts)
    support = parts[0][0]
    deviation = support.std(dim=0)
    # what hardly varies is not blown up
    deviation = deviation.clamp(min=0.1 * float(deviation.median().clamp(min=1e-3)))
    return [((inputs - support.mean(dim=0)) / deviation, targets) for inputs, targets in parts]


def _weighted(weights: dict[str, float], chance: np.random.Generator) -> str:
    names, values = list(weights), np.array(list(weights.values()))
    return names[int(chance.choice(len(names), p=values / values.sum()))]
