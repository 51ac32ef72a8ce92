"""No method that reads gradients silently equals another: three tasks that conflict, with a head each."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch

from lossrag.weighting import EPO, MGDA, MGDAUB, GradNorm, MetaWeighting, MultiDDS, MultiTaskStep, ParetoMTL, Uniform
from tests.weighting.test_trajectories import METHODS as LOSS_METHODS

METHODS = {
    "uniform": Uniform(),
    "metaweighting": MetaWeighting(alpha=0.05, scale="unit"),
    "mgda": MGDA(),
    "gradnorm": GradNorm(lr=0.02),
    "gradnorm, equal norms": GradNorm(alpha=0.0, lr=0.02),
    "mgda_ub": MGDAUB(),
    "mgda_ub, mean": MGDAUB(align="mean"),
    "pareto_mtl": ParetoMTL(start_steps=5),
    "pareto_mtl, one side": ParetoMTL(preference=[1.0, 4.0, 1.0], start_steps=5),
    "epo": EPO(),
    "epo, one side": EPO(preference=[4.0, 1.0, 1.0]),
    "multi_dds": MultiDDS(lr=0.1),
    "multi_dds, sum": MultiDDS(lr=0.1, update="sum"),
}
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(2, 6, 4, generator=GENERATOR, dtype=torch.float64)
TARGETS = torch.randn(2, 6, 3, generator=GENERATOR, dtype=torch.float64) * torch.tensor([1.0, 2.0, 4.0])


def train(method):
    """Weights (S, 3), final parameters (d,), and losses (S, 3)."""
    torch.manual_seed(0)
    trunk = torch.nn.Linear(4, 3).double()
    heads = torch.nn.ModuleList([torch.nn.Linear(3, 1) for _ in range(3)]).double()
    parameters = [*trunk.parameters(), *heads.parameters()]
    step = MultiTaskStep(parameters, torch.optim.SGD(parameters, lr=0.02), method, 3)
    features = []

    def losses(split):
        features[:] = [torch.tanh(trunk(INPUTS[split]))] * 3
        return [(head(features[t])[:, 0] - TARGETS[split, :, t]).square().mean() for t, head in enumerate(heads)]

    def scores():
        with torch.no_grad():
            return torch.exp(-torch.stack(losses(0)))

    rows = []
    for index in range(40):
        query = None if method.needs.hypergradient is None else (lambda: losses(1))
        rows.append(step(lambda: losses(0), query, representation=lambda: features, epoch=index // 5, scores=scores))
    return (
        torch.stack([row.weights for row in rows]),
        torch.cat([p.detach().flatten() for p in parameters]),
        torch.stack([row.support_losses for row in rows]),
    )


@pytest.fixture(scope="module")
def runs():
    """name -> what :func:`train` gives."""
    return {name: train(method) for name, method in METHODS.items()}


@pytest.fixture(scope="module")
def runs_of_losses():
    """The same for the methods that read losses, uniform weights left out."""
    return {name: train(method) for name, method in LOSS_METHODS.items() if name != "uniform"}


def assert_differ(one, two):
    (weights, end, _), (others, other_end, _) = one, two
    assert (weights - others).abs().max() > 1e-3
    assert (end - other_end).abs().max() > 1e-4


@pytest.mark.parametrize(("one", "two"), list(combinations(METHODS, 2)))
def test_no_two_are_alike(runs, one, two):
    assert_differ(runs[one], runs[two])


@pytest.mark.parametrize(("one", "two"), list(product(METHODS, [name for name in LOSS_METHODS if name != "uniform"])))
def test_none_is_one_that_reads_losses(runs, runs_of_losses, one, two):
    assert_differ(runs[one], runs_of_losses[two])


@pytest.mark.parametrize("name", METHODS)
def test_weights_keep_their_sum(runs, name):
    weights = runs[name][0]
    if name != "metaweighting":  # its weights are free
        assert torch.allclose(weights.abs().sum(1), torch.full((40,), 3.0, dtype=torch.float64))
    assert torch.isfinite(weights).all()


def test_gradnorm_lowers_the_weight_of_the_largest_gradient(runs):
    """The third task's targets are the largest, and so is its gradient."""
    assert runs["gradnorm, equal norms"][0][-1].argmin() == 2


def test_epo_lowers_the_spread_of_its_weighted_losses(runs):
    losses = runs["epo"][2]
    spread = losses.max(1).values / losses.min(1).values
    assert spread[-1] < 0.5 * spread[0]
