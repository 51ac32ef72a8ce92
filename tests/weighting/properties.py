"""What weighting methods may promise, as assertions over inputs of every kind of trouble."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from lossrag.weighting import Signals, Weighting

CPU = torch.device("cpu")
T, STEPS, ORDER = 5, 6, [3, 0, 4, 1, 2]


@dataclass(frozen=True)
class Inputs:
    """Of S steps: losses (S, T), gradients of support and query (S, T, d), scores (S, T)."""

    losses: Tensor
    rows: Tensor
    query: Tensor
    scores: Tensor

    def gramian(self, s: int) -> Tensor:
        return self.rows[s] @ self.rows[s].T

    def signals(self, s: int) -> Signals:
        B = self.gramian(s)
        return Signals(self.losses[s], B, self.scores[s], epoch=s // 2, step=s + 1, representation=B)

    def hypergradient(self, s: int) -> Tensor:
        return -self.query[s] @ self.rows[s].T

    def reordered(self, order: list[int]) -> Inputs:
        return Inputs(*(getattr(self, field.name)[:, order] for field in fields(self)))

    def scaled(self, scale: float) -> Inputs:
        """The same tasks with losses in another unit, and so their gradients."""
        return replace(self, losses=self.losses * scale, rows=self.rows * scale, query=self.query * scale)


def make(seed: int = 0, d: int = 2 * T, tasks: int = T) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    rows, query = torch.randn(2, STEPS, tasks, d, generator=generator, dtype=torch.float64)
    losses = 3 * torch.rand(STEPS, tasks, generator=generator, dtype=torch.float64) + 0.1
    return Inputs(losses, rows, query, torch.exp(-losses))


def troubles() -> dict[str, Inputs]:
    """Inputs by their trouble."""
    plain = make()
    spread = torch.tensor([1e8, 1.0, 1e-8, 3.0, 1e4], dtype=torch.float64)
    sizes = torch.tensor([1e30, 1.0, 0.0, 0.5, 1e-30], dtype=torch.float64)
    opposed = plain.rows.clone()
    opposed[:, 1] = -2 * opposed[:, 0]
    zeros = torch.zeros_like(plain.rows)
    return {
        "ordinary": plain,
        "rank-deficient": make(1, d=2),
        "opposed": replace(plain, rows=opposed),
        "zero": Inputs(torch.zeros_like(plain.losses), zeros, zeros, torch.ones_like(plain.losses)),
        "badly scaled": replace(plain, losses=plain.losses * spread, rows=plain.rows * spread[:, None]),
        "extreme losses": replace(
            plain, losses=torch.stack([sizes, sizes.flip(0)]).repeat(STEPS // 2, 1), scores=-1e30 * plain.scores
        ),
    }


TROUBLES = troubles()


def start(method: Weighting, tasks: int) -> dict[str, Tensor]:
    torch.manual_seed(0)  # of torchjd's random orders
    return method.init(tasks, CPU)


def advance(method: Weighting, state: dict[str, Tensor], inputs: Inputs, s: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The weights of step s, and the state after it."""
    weights, state = method.weigh(state, inputs.signals(s))
    if method.needs.hypergradient is not None:
        state, _ = method.learn(state, inputs.hypergradient(s))
    return weights, state


def walk(method: Weighting, inputs: Inputs) -> Tensor:
    """The weights (S + 1, T) of every step and after the last."""
    state, weights = start(method, inputs.losses.shape[1]), []
    for s in range(len(inputs.losses)):
        used, state = advance(method, state, inputs, s)
        weights.append(used)
    return torch.stack([*weights, state["weights"]])


def reordered(method: Weighting, order: list[int]) -> Weighting:
    """The same method with options that hold an entry for each task in the new order of tasks."""

    def moved(value: object) -> object:
        if isinstance(value, list) and value and isinstance(value[0], list):
            return [moved(row) for row in value]
        return [value[i] for i in order] if isinstance(value, list) and len(value) == len(order) else value

    return replace(method, **{field.name: moved(getattr(method, field.name)) for field in fields(method)})


def assert_finite(method: Weighting, tasks: int = T) -> None:
    for trouble, inputs in TROUBLES.items():
        assert torch.isfinite(walk(method, inputs.reordered(list(range(tasks))))).all(), trouble


def assert_nonnegative(method: Weighting) -> None:
    for trouble, inputs in TROUBLES.items():
        assert (walk(method, inputs) >= 0).all(), trouble


def assert_sum(method: Weighting) -> None:
    """Magnitudes of sum T; for one task too, unless options name T of them."""
    for trouble, inputs in TROUBLES.items():
        for tasks in (1, T) if reordered(method, ORDER) == method else (T,):
            sums = walk(method, inputs.reordered(list(range(tasks)))).abs().sum(1)
            assert torch.allclose(sums, torch.full_like(sums, tasks)), (trouble, tasks)


def assert_equivariant(method: Weighting, tolerance: float = 1e-6) -> None:
    """Tasks may be given in any order."""
    for trouble in ("ordinary", "badly scaled"):
        inputs = TROUBLES[trouble]
        moved, expected = walk(reordered(method, ORDER), inputs.reordered(ORDER)), walk(method, inputs)[:, ORDER]
        assert (moved - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max())), trouble


def assert_equal_for_equal_tasks(method: Weighting, tolerance: float) -> None:
    for scale in (0.0, 0.7, 1e6):
        weights = walk(method, make(2).scaled(scale).reordered([0] * T))
        apart = (weights - weights[:, :1]).abs().max()
        assert apart <= tolerance * max(1.0, float(weights.abs().max())), scale


def assert_free_of_units(method: Weighting) -> None:
    for scale in (1e-8, 1e8):
        assert torch.allclose(walk(method, make().scaled(scale)), walk(method, make()), atol=1e-6), scale


def assert_no_conflict(method: Weighting) -> None:
    """The update raises no task's loss: <g_t, sum_j w_j g_j> >= 0."""
    for trouble in ("ordinary", "rank-deficient", "opposed"):
        inputs = TROUBLES[trouble]
        for s, weights in enumerate(walk(method, inputs)[:-1]):
            assert (inputs.gramian(s) @ weights).min() >= -1e-2 * inputs.gramian(s).trace() / T, trouble


def assert_stationary(method: Weighting) -> None:
    """No update where the gradients cancel."""
    inputs = TROUBLES["opposed"]
    for s, weights in enumerate(walk(method, inputs)[:-1]):
        assert (weights @ inputs.rows[s]).norm() <= 1e-6 * inputs.rows[s].norm()


def assert_pure(method: Weighting) -> None:
    """The state that came in is left as it was, and what comes out has its form."""
    state = start(method, T)
    assert state["weights"].dtype == torch.float64
    before = {key: value.clone() for key, value in state.items()}
    _, after = advance(method, state, make(), 0)
    assert all(torch.equal(state[key], value) for key, value in before.items())
    assert {key: (value.shape, value.dtype) for key, value in after.items()} == {
        key: (value.shape, value.dtype) for key, value in before.items()
    }


def assert_no_read_of_the_device(method: Weighting) -> None:
    """Meta tensors hold no data: any .item() or branch on a value would raise."""
    inputs = make()
    blank = Inputs(*(getattr(inputs, field.name).to("meta") for field in fields(inputs)))
    state = method.init(T, torch.device("meta"))
    for s in range(2):
        weights, state = advance(method, state, blank, s)
    assert weights.device.type == "meta"
    assert all(value.device.type == "meta" for value in state.values())
