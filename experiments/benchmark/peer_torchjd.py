"""Peers in torchjd: its ways of doing the step of a :class:`Case`: its two engines, and one Jacobian call per task."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from lossrag.errors import ConfigError
from lossrag.experiments.benchmark.paired import milliseconds
from lossrag.experiments.benchmark.peer_problems import Case, Update
from lossrag.experiments.benchmark.problems import adam, trained
from lossrag.extras import load_extra
from lossrag.weighting import MGDA, PCGrad, UPGrad, Weighting

MTL_BACKWARD, ROW_BY_ROW, AUTOGRAM = "mtl_backward", "mtl_backward, row by row", "autogram"
REASON = 200
"""Characters of an error that are told."""


@dataclass(frozen=True)
class Method:
    """A method here, and the name of torchjd's class for it; ``tight``: options for solving it to rounding."""

    ours: Weighting
    theirs: str
    tight: dict[str, Any] = field(default_factory=dict)


METHODS = {
    "MGDA": Method(MGDA(), "MGDA", {"epsilon": 1e-12, "max_iters": 20_000}),
    "UPGrad": Method(UPGrad(), "UPGrad"),
    "PCGrad": Method(PCGrad(), "PCGrad"),
}


def torchjd() -> Any:
    """Its modules aggregation, autojac and autogram; raises ConfigError when it is not installed."""
    modules = ("aggregation", "autojac", "autogram")
    return SimpleNamespace(**{name: load_extra(f"torchjd.{name}", "baselines", "benchmark peers") for name in modules})


Engine = Callable[[Case, Any, torch.dtype], Update[None]]


def _mtl_backward(chunk: int | None) -> Engine:
    """One pass, then all rows of the Jacobian at once (chunk None) or one after the other (chunk 1)."""

    def make(case: Case, aggregator: Any, dtype: torch.dtype) -> Update[None]:
        library = torchjd()
        model = case.build().to(dtype)
        optimizer, shared = adam(model), trained(model.encoders)
        heads = [trained(head) for head in model.heads]

        def run() -> None:
            features, losses = case.joint(model, 0)
            optimizer.zero_grad()
            library.autojac.mtl_backward(
                losses, features=features, tasks_params=heads, shared_params=shared, parallel_chunk_size=chunk
            )
            library.autojac.jac_to_grad(shared, aggregator, optimize_gramian_computation=True)
            optimizer.step()

        return Update(MTL_BACKWARD if chunk is None else ROW_BY_ROW, model, run)

    return make


def _autogram(case: Case, aggregator: Any, dtype: torch.dtype) -> Update[None]:
    """The Gramian without the Jacobian, then one weighted backward pass."""
    model = case.build().to(dtype)
    optimizer = adam(model)
    engine = torchjd().autogram.Engine(model.encoders[0], batch_dim=None)

    def run() -> None:
        losses = torch.stack(case.joint(model, 0)[1])
        weights = aggregator.gramian_weighting(engine.compute_gramian(losses))
        optimizer.zero_grad()
        losses.backward(weights)  # type: ignore[no-untyped-call]
        optimizer.step()

    return Update(AUTOGRAM, model, run)


def jac_per_task(case: Case, aggregator: Any, dtype: torch.dtype) -> Update[None]:
    """No engine of its own: a pass and a call of ``jac`` for each task's own input, then torchjd's rest."""
    library = torchjd()
    model = case.build().to(dtype)
    optimizer, shared = adam(model), trained(model.encoders)
    alone = case.alone
    if alone is None:
        raise ValueError("the tasks share one input")

    def run() -> None:
        optimizer.zero_grad()
        rows = []
        for task, head in enumerate(model.heads):
            own = trained(head)
            gradients = library.autojac.jac([alone(model, task)], [*shared, *own], parallel_chunk_size=1)
            rows.append(gradients[: len(shared)])
            for parameter, gradient in zip(own, gradients[len(shared) :], strict=True):
                parameter.grad = gradient[0]
        for parameter, gradients in zip(shared, zip(*rows, strict=True), strict=True):
            parameter.jac = torch.cat(gradients)  # type: ignore[attr-defined]
        library.autojac.jac_to_grad(shared, aggregator, optimize_gramian_computation=True)
        optimizer.step()

    return Update("jac per task", model, run)


ENGINES: dict[str, Engine] = {
    MTL_BACKWARD: _mtl_backward(None),
    ROW_BY_ROW: _mtl_backward(1),
    AUTOGRAM: _autogram,
}


@dataclass(frozen=True)
class Fastest:
    """The engine that took least time, the milliseconds of one step of every engine that can do the case, and why
    the others cannot."""

    engine: Engine
    milliseconds: dict[str, float]
    failed: dict[str, str]


def fastest(case: Case, method: Method) -> Fastest:
    """Try every engine with torchjd's own defaults; one that does not support the model says why."""
    times: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, engine in ENGINES.items():
        try:
            update = engine(case, aggregator(method), torch.float32)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # vmap names operations that it has no fast rule for
                update.run()
        except (RuntimeError, ValueError, NotImplementedError, AttributeError) as error:
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:REASON]}"
            continue
        times[name] = milliseconds(update.run)
    if not times:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise ConfigError(
            f"benchmark peers: no engine of torchjd can do {case.name}: is it torchjd>=0.18,<0.19? {reasons}"
        )
    best = min(times, key=times.__getitem__)
    return Fastest(ENGINES[best], {name: round(time, 1) for name, time in times.items()}, failed)


def aggregator(method: Method, tight: bool = False) -> Any:
    """torchjd's object; raises ConfigError when a solver it needs is missing."""
    try:
        return getattr(torchjd().aggregation, method.theirs)(**(method.tight if tight else {}))
    except ImportError as error:
        raise ConfigError(f"benchmark peers: {error}") from None
