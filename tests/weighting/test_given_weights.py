"""Weights that do not look at the tasks: fixed and random ones."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from lossrag.weighting import Fixed, MultiTaskStep, RandomWeights, Signals

CPU = torch.device("cpu")


def draws(method, steps, tasks=3):
    state = method.init(tasks, CPU)
    return torch.stack([method.weigh(state, Signals(torch.ones(tasks), step=s + 1))[0] for s in range(steps)])


class TestRandom:
    @pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
    def test_a_function_of_seed_and_step(self, distribution):
        one, again, other = (draws(RandomWeights(distribution, seed), 20) for seed in (1, 1, 2))
        assert torch.equal(one, again)
        assert len({tuple(row) for row in torch.cat([one, other]).tolist()}) == 40

    def test_generators_of_others_are_left_alone(self):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        draws(RandomWeights(), 2)
        draws(RandomWeights("dirichlet"), 2)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]

    def test_normal_is_a_softmax_of_standard_normals(self):
        logs = draws(RandomWeights("normal"), 4000).log()
        difference = logs[:, 0] - logs[:, 1]  # N(0, 2): mean within 4 standard errors
        assert abs(float(difference.mean())) < 4 * math.sqrt(2 / 4000)
        assert float(difference.var()) == pytest.approx(2, rel=0.1)

    def test_dirichlet_is_uniform_on_the_simplex(self):
        share = draws(RandomWeights("dirichlet"), 4000) / 3
        assert share.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
        assert share.var(0).tolist() == pytest.approx([2 / 36] * 3, rel=0.1)  # (T - 1) / (T^2 (T + 1))
        assert float((share[:, 0] > 0.5).double().mean()) == pytest.approx(0.25, abs=0.03)  # (1 - 1/2)^2

    def test_a_step_counts_for_it(self):
        theta = torch.zeros(1, requires_grad=True)
        step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=0.1), RandomWeights(seed=3), 3)
        losses = [theta.sum] * 3
        found = torch.stack([step(losses).weights for _ in range(5)])
        assert torch.equal(found, draws(RandomWeights(seed=3), 5))


class TestFixed:
    def test_they_stay(self):
        theta = torch.zeros(2, requires_grad=True)
        step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=1.0), Fixed([0.5, 3.0]), 2)
        record = step([lambda: theta[0], lambda: theta[1]])
        assert record.weights.tolist() == record.next_weights.tolist() == [0.5, 3.0]
        assert theta.tolist() == [-0.25, -1.5]  # (1/T) w_t
