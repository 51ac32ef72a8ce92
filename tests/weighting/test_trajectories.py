"""Trajectories on tasks that conflict: no method silently equals another, each one's weights go the way it says, and a
stored state continues alike."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from lossrag.weighting import (
    DTP,
    DWA,
    EPO,
    MGDA,
    MGDAUB,
    WEIGHTINGS,
    BanditMTL,
    Fixed,
    GradNorm,
    MetaWeighting,
    MultiDDS,
    MultiTaskStep,
    ParetoMTL,
    RandomWeights,
    Tchebycheff,
    Uncertainty,
    Uniform,
)

LOSS_METHODS = {
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
GRADIENT_METHODS = {
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
TORCHJD = ("upgrad", "dualproj", "mgda", "pcgrad", "imtl_g", "aligned_mtl", "fairgrad", "gradvac", "pcd")
"""Those that need neither a solver of their own nor more than three tasks."""
METHODS = {
    **LOSS_METHODS,
    **GRADIENT_METHODS,
    **{f"torchjd/{name}": WEIGHTINGS[f"torchjd/{name}"]() for name in TORCHJD},
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
def loss_runs():
    """name -> weights, losses and scores, each (S, 3), and the final losses (3,)."""
    found = {}
    for name, method in LOSS_METHODS.items():
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


GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(2, 6, 4, generator=GENERATOR, dtype=torch.float64)
TARGETS = torch.randn(2, 6, 3, generator=GENERATOR, dtype=torch.float64) * torch.tensor([1.0, 2.0, 4.0])


def problem(method):
    """Three tasks with a head each: their parameters, a step, and the function that a step is advanced by."""
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

    def advance(step):
        query = None if method.needs.hypergradient is None else (lambda: losses(1))
        epoch = step.count // 5
        return step(lambda: losses(0), query, representation=lambda: features, epoch=epoch, scores=scores)

    return parameters, step, advance


def train(method):
    """Weights (S, 3), final parameters (d,), and losses (S, 3)."""
    parameters, step, advance = problem(method)
    records = [advance(step) for _ in range(STEPS)]
    return (
        torch.stack([record.weights for record in records]),
        torch.cat([p.detach().flatten() for p in parameters]),
        torch.stack([record.support_losses for record in records]),
    )


@pytest.fixture(scope="module")
def runs():
    """name -> what :func:`train` gives."""
    return {name: train(method) for name, method in METHODS.items()}


def test_no_two_are_alike(runs):
    same = {("uniform", "torchjd/dualproj")}  # it leaves the mean alone where no task conflicts with it, as here
    for one, two in combinations(METHODS, 2):
        (weights, end, _), (others, other_end, _) = runs[one], runs[two]
        differ = bool((weights - others).abs().max() > 1e-3 and (end - other_end).abs().max() > 1e-4)
        assert differ == ((one, two) not in same), (one, two)


def test_a_stored_state_continues_alike():
    for name, method in METHODS.items():
        parameters, step, advance = problem(method)
        for _ in range(7):
            advance(step)
        saved = {key: value.clone() for key, value in step.state_dict().items()}
        point = [p.detach().clone() for p in parameters]
        torch.manual_seed(1)  # torchjd's random orders
        expected = [advance(step).next_weights for _ in range(7)]
        fresh = MultiTaskStep(parameters, torch.optim.SGD(parameters, lr=0.02), method, 3)
        fresh.load_state_dict(saved)
        with torch.no_grad():
            for parameter, value in zip(parameters, point, strict=True):
                parameter.copy_(value)
        torch.manual_seed(1)
        again = [advance(fresh).next_weights for _ in range(7)]
        assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True)), name


def test_gradnorm_lowers_the_weight_of_the_largest_gradient(runs):
    """The third task's targets are the largest, and so is its gradient."""
    assert runs["gradnorm, equal norms"][0][-1].argmin() == 2


def test_epo_lowers_the_spread_of_its_weighted_losses(runs):
    losses = runs["epo"][2]
    spread = losses.max(1).values / losses.min(1).values
    assert spread[-1] < 0.5 * spread[0]


def orders(values):
    return values.argsort(dim=-1)


def test_tchebycheff_puts_all_on_the_worst_task_and_lowers_it_most(loss_runs):
    weights, support, _, end = loss_runs["tchebycheff"]
    assert torch.equal(weights.argmax(1), support.argmax(1))
    assert (weights.max(1).values == 3).all()
    assert end.max() < loss_runs["uniform"][3].max()


def test_smooth_tchebycheff_orders_the_tasks_by_loss(loss_runs):
    weights, support, _, _ = loss_runs["tchebycheff, smooth"]
    assert torch.equal(orders(weights), orders(support))
    assert weights[:, 1].max() < 3


@pytest.mark.parametrize("name", ["uncertainty", "uncertainty, sgd"])
def test_uncertainty_lowers_the_weights_of_large_losses(loss_runs, name):
    weights, support, _, _ = loss_runs[name]
    assert (support[:10, 2] > support[:10, :2].max(1).values).all()
    assert (weights[1:10].diff(dim=0)[:, 2] < 0).all()
    assert weights[9, 2] < 1


def test_dwa_raises_the_task_that_falls_slowly(loss_runs):
    weights, support, _, _ = loss_runs["dwa"]
    means = support.view(-1, AN_EPOCH, 3).mean(1)
    epochs = weights.view(-1, AN_EPOCH, 3)
    assert (epochs[:2] == 1).all()
    assert (epochs == epochs[:, :1]).all()
    assert torch.equal(orders(epochs[2:, 0]), orders(means[1:-1] / means[:-2]))


def test_bandit_mtl_orders_the_tasks_by_what_they_have_lost(loss_runs):
    weights, support, _, _ = loss_runs["bandit_mtl"]
    assert torch.equal(orders(weights[1:]), orders(support.cumsum(0)[:-1]))
    assert weights[-1].max() > 1.2


def test_the_ball_of_bandit_mtl_holds_the_weights_back(loss_runs):
    wide, small = (loss_runs[name][0] for name in ("bandit_mtl", "bandit_mtl, small ball"))
    assert small.max() < wide.max() - 0.1
    assert (torch.special.entr(small / 3).sum(1) >= torch.tensor(3.0).log() - 0.05 - 1e-6).all()
    assert (small[1:10, 2] > 1).all()


@pytest.mark.parametrize("name", ["dtp", "dtp, paper"])
def test_dtp_prefers_the_tasks_that_are_done_badly(loss_runs, name):
    weights, _, scores, _ = loss_runs[name]
    kappa = scores[:1]
    for row in scores[1:]:
        kappa = torch.cat([kappa, 0.9 * kappa[-1:] + 0.1 * row])
    assert torch.equal(orders(weights), orders(-kappa))


def test_random_weights_wander_about_one(loss_runs):
    for name in ("random", "random, dirichlet"):
        weights = loss_runs[name][0]
        assert weights.std(0).min() > 0.2
        assert (weights.mean(0) - 1).abs().max() < 0.5


def test_fixed_weights_stay(loss_runs):
    assert (loss_runs["fixed"][0] == torch.tensor([0.5, 1.0, 1.5])).all()
