"""Heads on one MLP trunk and one shared input, the other kind of multi-task problem, and the checks before timing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from experiments.benchmark.own_input import CLASSES, adam
from lossrag import ConfigError, LossRAGError
from models import MLP, MultiTaskModel
from weighting import MetaWeighting, MultiTaskStep, StepRecord


def check_sizes(key: str, sizes: Sequence[Sequence[int]]) -> None:
    """Raise ConfigError unless every entry is a [width, rows, layers] from 1 up."""
    for size in sizes:
        if len(size) != 3 or min(size) < 1:
            raise ConfigError(f"{key} must list [width,rows,layers] from 1 up, e.g. [[512,64,2]], got {list(size)}.")


def shared_model(width: int, layers: int, heads: int) -> MultiTaskModel:
    """``layers`` layers of ``width`` on an input of that width, a head of 4 classes a task; always the same."""
    torch.manual_seed(0)
    return MultiTaskModel(lambda: MLP((width,), [width] * layers), [CLASSES] * heads)


@dataclass(frozen=True)
class SharedBatch:
    """``inputs`` (B, width) that all tasks share, and the ``labels`` (T, B) of each."""

    inputs: Tensor
    labels: Tensor

    def losses(self, model: MultiTaskModel) -> list[Tensor]:
        """The T losses from one pass."""
        return self.joint(model)[1]

    def joint(self, model: MultiTaskModel) -> tuple[Tensor, list[Tensor]]:
        """The features (B, F) of the trunk, and the losses."""
        features = model.encoders[0](self.inputs.to(next(model.parameters()).dtype))
        return features, [cross_entropy(head(features), self.labels[t]) for t, head in enumerate(model.heads)]


def shared_batch(width: int, rows: int, heads: int, seed: int) -> SharedBatch:
    """Random inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, width, generator=generator)
    return SharedBatch(inputs, torch.randint(CLASSES, (heads, rows), generator=generator))


def shared_step(width: int, rows: int, layers: int, heads: int, watch: bool) -> Callable[[], StepRecord]:
    """A MetaWeighting step, query = support; without ``watch`` it is a loop of T backward passes over one graph."""
    model = shared_model(width, layers, heads)
    support, query = (partial(shared_batch(width, rows, heads, seed).losses, model) for seed in (1, 2))
    method = MetaWeighting(scale="unit")
    step = MultiTaskStep(model.parameters(), adam(model), method, heads, model=model if watch else None)
    return lambda: step(support, query)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, Frobenius."""
    return float((found - expected).norm() / expected.norm().clamp(min=torch.finfo(expected.dtype).tiny))


def require_equal(what: str, found: Tensor, expected: Tensor, tolerance: float) -> float:
    """The relative error; raises LossRAGError when it exceeds ``tolerance``."""
    error = relative_error(found, expected)
    if not error <= tolerance:
        raise LossRAGError(
            f"{what}: the two results differ by {error:.1e} of their length, expected at most {tolerance:.0e}. Times "
            "of different results say nothing: report this with the command that you ran."
        )
    return error
