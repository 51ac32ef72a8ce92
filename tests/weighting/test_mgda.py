"""MGDA by hand, and the Gramian that a step hands to such methods against autograd, for every kind of losses."""

from __future__ import annotations

import pytest
import torch

from lossrag.weighting import MGDA, Signals

CPU = torch.device("cpu")


def weigh(B, losses=None, **options):
    method = MGDA(**options)
    B = torch.as_tensor(B, dtype=torch.float64)
    losses = torch.ones(len(B), dtype=torch.float64) if losses is None else torch.tensor(losses, dtype=torch.float64)
    weights, state = method.weigh(method.init(len(B), CPU), Signals(losses, B))
    assert torch.equal(state["weights"], weights)
    return weights


def gramian(T, seed=0):
    D = torch.randn(T, 2 * T, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return D @ D.T


class TestWeights:
    def test_orthogonal_gradients_weigh_by_the_inverse_square_of_their_length(self):
        # lambda ~ (1, 1/4, 1/9): 36/49, 9/49, 4/49
        expected = [3 * 36 / 49, 3 * 9 / 49, 3 * 4 / 49]
        assert weigh(torch.diag(torch.tensor([1.0, 4.0, 9.0]))).tolist() == pytest.approx(expected)

    def test_a_gradient_that_the_other_contains_takes_all(self):
        # g_1 = (1, 0), g_2 = (2, 0): the shortest point of the segment is g_1
        assert weigh([[1.0, 2.0], [2.0, 4.0]]).tolist() == pytest.approx([2.0, 0.0])


class TestNormalization:
    def test_by_length_every_orthogonal_gradient_counts_alike(self):
        B = torch.diag(torch.tensor([1.0, 4.0]))
        assert weigh(B, normalization="l2").tolist() == pytest.approx([1.0, 1.0])

    def test_by_loss(self):
        # the lengths 1 and 2 become 1/2 and 1/2
        B = torch.diag(torch.tensor([1.0, 4.0]))
        assert weigh(B, [2.0, 4.0], normalization="loss").tolist() == pytest.approx([1.0, 1.0])

    def test_by_both(self):
        # the lengths 1 and 2 become 1/1 and 1/3: lambda ~ (1, 9)
        B = torch.diag(torch.tensor([1.0, 4.0]))
        assert weigh(B, [1.0, 3.0], normalization="loss+").tolist() == pytest.approx([0.2, 1.8])

    def test_by_length_scales_of_single_tasks_change_nothing(self):
        B, scale = gramian(5), torch.tensor([1e-3, 1.0, 7.0, 1e3, 0.5], dtype=torch.float64)
        assert torch.allclose(
            weigh(scale[:, None] * B * scale, normalization="l2"), weigh(B, normalization="l2"), atol=1e-6
        )

    @pytest.mark.parametrize("normalization", ["l2", "loss", "loss+"])
    def test_a_divisor_of_zero_is_left_out(self, normalization):
        weights = weigh(torch.diag(torch.tensor([0.0, 1.0])), [0.0, 1.0], normalization=normalization)
        assert weights.tolist() == pytest.approx([2.0, 0.0])
