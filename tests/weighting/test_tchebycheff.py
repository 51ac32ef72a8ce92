"""Tchebycheff weights against the gradient of the scalarisation itself, by autograd."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from lossrag.weighting import MultiTaskStep, Signals, Tchebycheff

CPU = torch.device("cpu")


def weigh(losses, **options):
    method = Tchebycheff(**options)
    losses = torch.tensor(losses, dtype=torch.float64)
    weights, state = method.weigh(method.init(len(losses), CPU), Signals(losses))
    assert torch.equal(weights, state["weights"])
    return weights


def gradient(losses, mu=0.0, preference=None, reference=None):
    """d / d L of the scalarisation, scaled to sum T."""
    values = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    c = torch.tensor(preference or [1.0] * len(losses), dtype=torch.float64)
    height = c * (values - torch.tensor(reference or [0.0] * len(losses), dtype=torch.float64))
    scalar = mu * torch.log(torch.exp(height / mu).sum()) if mu else height.max()
    (found,) = torch.autograd.grad(scalar, values)
    return len(losses) * found / found.sum()


OPTIONS = [{}, {"preference": [3.0, 1.0, 0.5]}, {"reference": [1.5, 0.5, 0.1]}]
OPTIONS += [{"preference": [0.2, 1.0, 7.0], "reference": [0.3, -1.0, 0.2]}]


def test_against_autograd():
    for options, mu in product(OPTIONS, [0.0, 0.2, 1.0, 30.0]):
        losses = [2.0, 1.1, 0.3]
        assert torch.allclose(weigh(losses, mu=mu, **options), gradient(losses, mu, **options))


def test_by_hand():
    assert weigh([1.0, 2.0, 1.5]).tolist() == [0.0, 3.0, 0.0]
    assert weigh([1.0, 2.0, 1.5], preference=[3.0, 1.0, 1.0]).tolist() == [3.0, 0.0, 0.0]
    assert weigh([1.0, 2.0, 1.5], reference=[0.0, 1.5, 0.0]).tolist() == [0.0, 0.0, 3.0]
    # exp(0) and exp(log 3), of which the second counts twice
    assert weigh([0.0, 0.5493061443340548], mu=1.0, preference=[1.0, 2.0]).tolist() == pytest.approx([2 / 7, 12 / 7])


def test_tied_tasks_share():
    assert weigh([2.0, 1.0, 2.0]).tolist() == [1.5, 0.0, 1.5]


def test_mu_leads_from_the_worst_task_to_equal_weights():
    losses = [1.0, 2.0, 1.5]
    assert torch.allclose(weigh(losses, mu=1e-6), weigh(losses))
    assert torch.allclose(weigh(losses, mu=1e6), torch.ones(3, dtype=torch.float64), atol=1e-5)
    tops = [float(weigh(losses, mu=mu)[1]) for mu in (0.1, 0.5, 2.0)]
    assert tops == sorted(tops, reverse=True)


def test_a_common_scale_is_that_of_mu():
    losses = [1.0, 2.0, 1.5]
    assert torch.allclose(weigh([7 * x for x in losses], mu=7 * 0.3), weigh(losses, mu=0.3))
    assert torch.equal(weigh([7 * x for x in losses]), weigh(losses))


def test_the_step_descends_the_worst_task():
    theta = torch.zeros(2, requires_grad=True)
    step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=0.1), Tchebycheff(), 2)
    step([lambda: (theta[0] - 1) ** 2, lambda: (theta[1] - 3) ** 2])
    assert theta.tolist() == pytest.approx([0.0, 0.6])  # the gradient of the worst loss alone
