"""No method silently equals another: on tasks that conflict each one's weights go their own way, the way it says."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from lossrag.weighting import (
    DTP,
    DWA,
    BanditMTL,
    Fixed,
    MultiTaskStep,
    RandomWeights,
    Tchebycheff,
    Uncertainty,
    Uniform,
)

METHODS = {
    "uniform": Uniform(),
    "uncertainty": Uncertainty(lr=0.02),
    "uncertainty, sgd": Uncertainty(lr=0.02, optimizer="sgd"),
    "dwa": DWA(),
    "random": RandomWeights(),
    "random, dirichlet": RandomWeights("dirichlet"),
    "fixed": Fixed([0.5, 1.0, 1.5]),
    "tchebycheff": Tchebycheff(),
    "tchebycheff, smooth": Tchebycheff(mu=1.0),
    "bandit_mtl": BanditMTL(eta_p=0.05),
    "bandit_mtl, small ball": BanditMTL(rho=0.05, eta_p=0.05),
    "dtp": DTP(),
    "dtp, paper": DTP(scale="paper"),
}
STEPS, AN_EPOCH = 40, 5


def losses(theta):
    """Two tasks that pull apart, and a third on a larger scale with a place of its own."""
    return [
        lambda: (theta - torch.tensor([1.0, 0.0])).square().sum(),
        lambda: (theta - torch.tensor([-1.0, 0.0])).square().sum(),
        lambda: 10 * (theta - torch.tensor([0.0, 1.0])).square().sum(),
    ]


@pytest.fixture(scope="module")
def runs():
    """name -> weights, losses and scores, each (S, 3), and the final losses (3,)."""
    found = {}
    for name, method in METHODS.items():
        theta = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
        step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=0.01), method, 3)
        rows = []
        for index in range(STEPS):
            with torch.no_grad():
                score = torch.exp(-torch.stack([loss() for loss in losses(theta)]))
            record = step(losses(theta), epoch=index // AN_EPOCH, scores=lambda score=score: score)
            rows.append((record.weights, record.support_losses, score))
        end = torch.stack([loss().detach() for loss in losses(theta)])
        found[name] = (*(torch.stack(column) for column in zip(*rows, strict=True)), end)
    return found


@pytest.mark.parametrize(("one", "two"), list(combinations(METHODS, 2)))
def test_no_two_are_alike(runs, one, two):
    (weights, _, _, end), (others, _, _, other_end) = runs[one], runs[two]
    assert (weights - others).abs().max() > 1e-2
    assert (end - other_end).abs().max() > 1e-4


def orders(values):
    return values.argsort(dim=-1)


def test_tchebycheff_puts_all_on_the_worst_task_and_lowers_it_most(runs):
    weights, support, _, end = runs["tchebycheff"]
    assert torch.equal(weights.argmax(1), support.argmax(1))
    assert (weights.max(1).values == 3).all()
    assert end.max() < runs["uniform"][3].max()


def test_smooth_tchebycheff_orders_the_tasks_by_loss(runs):
    weights, support, _, _ = runs["tchebycheff, smooth"]
    assert torch.equal(orders(weights), orders(support))
    assert weights[:, 1].max() < 3


@pytest.mark.parametrize("name", ["uncertainty", "uncertainty, sgd"])
def test_uncertainty_lowers_the_weights_of_large_losses(runs, name):
    weights, support, _, _ = runs[name]
    assert (support[:10, 2] > support[:10, :2].max(1).values).all()
    assert (weights[1:10].diff(dim=0)[:, 2] < 0).all()
    assert weights[9, 2] < 1


def test_dwa_raises_the_task_that_falls_slowly(runs):
    weights, support, _, _ = runs["dwa"]
    means = support.view(-1, AN_EPOCH, 3).mean(1)
    epochs = weights.view(-1, AN_EPOCH, 3)
    assert (epochs[:2] == 1).all()
    assert (epochs == epochs[:, :1]).all()
    assert torch.equal(orders(epochs[2:, 0]), orders(means[1:-1] / means[:-2]))


def test_bandit_mtl_orders_the_tasks_by_what_they_have_lost(runs):
    weights, support, _, _ = runs["bandit_mtl"]
    assert torch.equal(orders(weights[1:]), orders(support.cumsum(0)[:-1]))
    assert weights[-1].max() > 1.2


def test_the_ball_of_bandit_mtl_holds_the_weights_back(runs):
    wide, small = (runs[name][0] for name in ("bandit_mtl", "bandit_mtl, small ball"))
    assert small.max() < wide.max() - 0.1
    assert (torch.special.entr(small / 3).sum(1) >= torch.tensor(3.0).log() - 0.05 - 1e-6).all()
    assert (small[1:10, 2] > 1).all()


@pytest.mark.parametrize("name", ["dtp", "dtp, paper"])
def test_dtp_prefers_the_tasks_that_are_done_badly(runs, name):
    weights, _, scores, _ = runs[name]
    kappa = scores[:1]
    for row in scores[1:]:
        kappa = torch.cat([kappa, 0.9 * kappa[-1:] + 0.1 * row])
    assert torch.equal(orders(weights), orders(-kappa))


def test_random_weights_wander_about_one(runs):
    for name in ("random", "random, dirichlet"):
        weights = runs[name][0]
        assert weights.std(0).min() > 0.2
        assert (weights.mean(0) - 1).abs().max() < 0.5


def test_fixed_weights_stay(runs):
    assert (runs["fixed"][0] == torch.tensor([0.5, 1.0, 1.5])).all()
