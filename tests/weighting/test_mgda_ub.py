"""MGDA-UB against gradients by autograd alone, however the features reach the step."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from lossrag import ConfigError
from lossrag.weighting import MGDA, MGDAUB, MultiTaskStep, Signals, frank_wolfe
from lossrag.weighting.gradients.features import Representation
from tests.weighting.problems import (
    KINDS,
    LABELS,
    T,
    by_autograd,
    losses_of,
    make,
    representation_gramian,
    trained,
)

CPU = torch.device("cpu")


def weigh(B, losses=None, **options):
    method = MGDAUB(**options)
    B = torch.as_tensor(B, dtype=torch.float64)
    losses = torch.ones(len(B), dtype=torch.float64) if losses is None else losses
    weights, state = method.weigh(method.init(len(B), CPU), Signals(losses, representation=B))
    assert torch.equal(state["weights"], weights)
    return weights


def random_gramian(rows, seed=0):
    D = torch.randn(rows, 2 * rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return D @ D.T


class TestWeights:
    @pytest.mark.parametrize("normalization", ["none", "l2", "loss", "loss+"])
    def test_those_of_mgda_on_the_other_gramian(self, normalization):
        B, losses = random_gramian(5), torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0], dtype=torch.float64)
        method = MGDA(normalization=normalization)
        expected, _ = method.weigh(method.init(5, CPU), Signals(losses, B))
        assert torch.equal(weigh(B, losses, normalization=normalization), expected)


def expected(kind, model, inputs, align):
    """Weights, and the gradients of encoder and heads, with a full backward pass for every task."""
    rows, own, at_features = by_autograd(model, inputs)
    lam = frank_wolfe(representation_gramian(at_features, align, kind == "shared")).weights
    return T * lam, torch.cat([lam @ rows, own.flatten() / T])


@pytest.mark.parametrize("align", ["rows", "mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_against_autograd(kind, align):
    model, inputs = make(kind)
    weights, gradients = expected(kind, model, inputs, align)
    parameters = trained(model)
    step = MultiTaskStep(parameters, torch.optim.SGD(parameters, lr=0.1), MGDAUB(align=align), T, model=model)
    losses, objective = losses_of(kind, model, inputs)
    record = step(losses, representation=objective.representation)
    assert torch.allclose(record.weights, weights)
    assert torch.equal(record.next_weights, record.weights)
    assert torch.allclose(torch.cat([p.grad.flatten() for p in parameters]), gradients)


def test_one_backward_pass_through_the_encoder():
    model, inputs = make("shared")
    losses, objective = losses_of("shared", model, inputs)
    calls = []
    model.encoders[0].layers[1].weight.register_hook(lambda _: calls.append(1))
    step = MultiTaskStep(model.parameters(), torch.optim.SGD(model.parameters(), lr=0.1), MGDAUB(), T)
    step(losses, representation=objective.representation)
    assert len(calls) == 1


def test_the_bound_holds():
    """|sum_t lambda_t g_t| <= |J| |sum_t lambda_t dL_t/dZ|, J the Jacobian of the features."""
    model, inputs = make("shared")
    shared = list(model.encoders.parameters())
    features = model.encoders[0](inputs[0])
    flat = features.flatten()
    J = torch.stack([torch.cat([g.flatten() for g in torch.autograd.grad(z, shared, retain_graph=True)]) for z in flat])
    weights, gradients = expected("shared", model, inputs, "rows")
    losses = [cross_entropy(model.heads[t](features), LABELS[t]) for t in range(T)]
    found = Representation([features] * T, losses, list("abcd"))
    lam = weights / T
    upper = torch.linalg.matrix_norm(J, 2) * (lam @ found.gramian("rows") @ lam).sqrt()
    assert gradients[: J.shape[1]].norm() <= upper + 1e-9


class TestMistakes:
    def step(self, theta):
        return MultiTaskStep([theta], torch.optim.SGD([theta], lr=0.1), MGDAUB(), ["a", "b"])

    def test_no_features(self):
        theta = torch.ones(2, requires_grad=True)
        with pytest.raises(ConfigError, match="needs representation: pass representation="):
            self.step(theta)([lambda: theta[0] ** 2, lambda: theta[1] ** 2])
        assert theta.tolist() == [1.0, 1.0]

    @pytest.mark.parametrize(
        ("features", "part"),
        [
            (lambda theta, z: [z], "expected the features of 2 tasks"),
            (lambda theta, z: [z, z.detach()], "'b' need no gradient"),
            (lambda theta, z: [z, theta * 1.0], "'b' does not depend on the features"),
        ],
    )
    def test_wrong_features(self, features, part):
        theta = torch.ones(2, requires_grad=True)
        z = (theta * 2).view(1, 2)
        with pytest.raises(ConfigError, match=part):
            self.step(theta)(lambda: [z.sum(), (z**2).sum()], representation=lambda: features(theta, z))
        assert theta.tolist() == [1.0, 1.0]
