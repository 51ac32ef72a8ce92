"""D of the step against autograd through the unrolled update, on every kind of suite and option."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from lossrag.models import MLP, MultiTaskModel, TextCNN
from lossrag.weighting import MetaWeighting, MultiTaskStep

TASKS = 3
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
Batch = list[tuple[Tensor, Tensor]]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, labels)


def own_input(dtype: torch.dtype, trainable: bool) -> tuple[MultiTaskModel, Batch, Batch]:
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(40, 6, generator=generator, dtype=dtype)
    torch.manual_seed(0)
    model = MultiTaskModel(lambda: TextCNN(vectors, filters=5, dropout=0.0, trainable=trainable), [2, 3, 4]).to(dtype)

    def batch(size: int) -> Batch:
        return [
            (torch.randint(40, (size, 9 + t), generator=generator), torch.randint(2, (size,), generator=generator))
            for t in range(TASKS)
        ]

    return model, batch(6), batch(4)


def shared_input(dtype: torch.dtype) -> tuple[MultiTaskModel, Batch, Batch]:
    generator = torch.Generator().manual_seed(2)
    torch.manual_seed(0)
    model = MultiTaskModel(lambda: MLP((8,), [7, 5]), [2, 3, 4]).to(dtype)

    def batch(size: int) -> Batch:
        inputs = torch.randn(size, 8, generator=generator, dtype=dtype)
        return [(inputs, torch.randint(2, (size,), generator=generator)) for _ in range(TASKS)]

    return model, batch(6), batch(4)


def losses_at(model: MultiTaskModel, parameters: dict[str, Tensor], batch: Batch) -> list[Tensor]:
    return [
        cross_entropy(functional_call(model, parameters, (inputs, t)), labels)
        for t, (inputs, labels) in enumerate(batch)
    ]


def unrolled(
    model: MultiTaskModel,
    support: Batch,
    query: Batch,
    update: Callable[[str, Tensor, Tensor], Tensor],
    only: set[str] | None = None,
) -> Tensor:
    """d L_t^q(theta(w)) / d w at w = 1, by differentiating through ``update(name, theta, gradient(w))``.

    ``only``: parameters whose update depends on w; the others move, but as constants.
    """
    w = torch.ones(TASKS, dtype=next(model.parameters()).dtype, requires_grad=True)
    theta = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    losses = losses_at(model, theta | frozen, support)
    rows = [torch.autograd.grad(loss, list(theta.values()), allow_unused=True, retain_graph=True) for loss in losses]
    new = {}
    for i, (name, value) in enumerate(theta.items()):
        weight = w if only is None or name in only else w.detach()
        touched = [(weight[t], rows[t][i]) for t in range(TASKS) if rows[t][i] is not None]
        gradient = sum(c * g for c, g in touched) / TASKS
        new[name] = update(name, value.detach(), gradient)
    result = [torch.autograd.grad(loss, w, retain_graph=True)[0] for loss in losses_at(model, new | frozen, query)]
    return torch.stack(result)


def make_step(model: MultiTaskModel, optimizer: torch.optim.Optimizer, **options: str) -> MultiTaskStep:
    return MultiTaskStep(model.parameters(), optimizer, MetaWeighting(**options), TASKS)


def closures(model: MultiTaskModel, batch: Batch, shared: bool):
    if shared:
        labels = [y for _, y in batch]
        return lambda: [
            cross_entropy(out, y) for (out, _), y in zip(model.forward_shared(batch[0][0]), labels, strict=True)
        ]
    return [lambda t=t: cross_entropy(model(batch[t][0], t), batch[t][1]) for t in range(TASKS)]


CASES = [("own", False), ("own", True), ("shared", False)]


def problem(kind: str, trainable: bool, dtype: torch.dtype):
    return own_input(dtype, trainable) if kind == "own" else shared_input(dtype)


def assert_close(got: Tensor, expected: Tensor) -> None:
    assert got.dtype == expected.dtype
    error = float((got - expected).norm() / expected.norm())
    assert error <= TOLERANCE[got.dtype], f"relative error {error:.1e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("kind", "trainable"), CASES, ids=["own-frozen", "own-trainable", "shared-input"])
class TestAgainstUnrolledUpdate:
    def test_sgd_as_written(self, kind, trainable, dtype):
        model, support, query = problem(kind, trainable, dtype)
        expected = unrolled(model, support, query, lambda name, theta, gradient: theta - 0.3 * gradient)
        step = make_step(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3))
        shared = kind == "shared"
        record = step(closures(model, support, shared), closures(model, query, shared))
        assert_close(record.hypergradient, expected)

    def test_shared_parameters_only(self, kind, trainable, dtype):
        model, support, query = problem(kind, trainable, dtype)
        encoder = {name for name, p in model.named_parameters() if p.requires_grad and name.startswith("encoders")}
        expected = unrolled(model, support, query, lambda name, theta, gradient: theta - 0.3 * gradient, encoder)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
        step = make_step(model, optimizer, parameters="shared")
        shared = kind == "shared"
        everything = unrolled(model, support, query, lambda name, theta, gradient: theta - 0.3 * gradient)
        record = step(closures(model, support, shared), closures(model, query, shared))
        assert_close(record.hypergradient, expected)
        off_diagonal = ~torch.eye(TASKS, dtype=torch.bool)
        assert torch.allclose(record.hypergradient[off_diagonal], everything[off_diagonal], rtol=1e-4, atol=1e-7)
        assert not torch.allclose(record.hypergradient.diagonal(), everything.diagonal(), rtol=1e-3)

    @pytest.mark.parametrize("earlier_steps", [0, 3])
    def test_adam_with_its_preconditioner_held_constant(self, kind, trainable, dtype, earlier_steps):
        model, support, query = problem(kind, trainable, dtype)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        # a large eps keeps float32 well conditioned where gradients are tiny; the formula is the same
        optimizer = torch.optim.Adam(parameters.values(), lr=0.01, eps=1e-3)
        step = make_step(model, optimizer, inner="adam")
        step.weighting = MetaWeighting(alpha=1e-30, inner="adam")
        shared = kind == "shared"
        for _ in range(earlier_steps):
            step(closures(model, support, shared), closures(model, query, shared))
        moments = {
            name: (
                optimizer.state[p]["exp_avg"].clone() if p in optimizer.state else torch.zeros_like(p),
                optimizer.state[p]["exp_avg_sq"].clone() if p in optimizer.state else torch.zeros_like(p),
            )
            for name, p in parameters.items()
        }
        k = earlier_steps + 1

        def adam(name: str, theta: Tensor, gradient: Tensor) -> Tensor:
            first, second = moments[name]
            v = (0.999 * second + 0.001 * gradient.detach() ** 2) / (1 - 0.999**k)
            m = (0.9 * first + 0.1 * gradient) / (1 - 0.9**k)
            return theta - 0.01 * m / (v.sqrt() + 1e-3)

        expected = unrolled(model, support, query, adam)
        record = step(closures(model, support, shared), closures(model, query, shared))
        assert_close(record.hypergradient, expected)


def test_frozen_vectors_enter_no_gradient():
    model, support, query = own_input(torch.float64, trainable=False)
    step = make_step(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))
    step(closures(model, support, False), closures(model, query, False))
    assert model.encoders[0].embedding.weight.grad is None
    trained = sum(p.numel() for p in model.encoders.parameters() if p.requires_grad) * TASKS
    heads = sum(p.numel() for p in model.heads.parameters())
    assert step.nbytes == 8 * (trained + heads), "heads take one row each, not one per task"


def test_closures_and_joint_losses_give_the_same_step():
    records = []
    for shared in (True, False):
        model, support, query = shared_input(torch.float64)
        step = make_step(model, torch.optim.Adam(model.parameters(), lr=0.01))
        records.append([step(closures(model, support, shared), closures(model, query, shared)) for _ in range(3)][-1])
    joint, sliced = records
    assert torch.allclose(joint.hypergradient, sliced.hypergradient, rtol=1e-10)
    assert torch.allclose(joint.next_weights, sliced.next_weights, rtol=1e-10)
