"""MGDA by hand, and the Gramian that a step hands to such methods against autograd, for every kind of losses."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from lossrag import ConfigError
from lossrag.experiments.benchmark.peer_problems import Plain
from lossrag.experiments.run import task_groups
from lossrag.models import MLP, MultiTaskModel, TextCNN
from lossrag.weighting import MGDA, MultiTaskStep, Signals

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
    def test_one_task(self):
        assert weigh([[3.0]]).tolist() == [1.0]

    def test_orthogonal_gradients_weigh_by_the_inverse_square_of_their_length(self):
        # lambda ~ (1, 1/4, 1/9): 36/49, 9/49, 4/49
        expected = [3 * 36 / 49, 3 * 9 / 49, 3 * 4 / 49]
        assert weigh(torch.diag(torch.tensor([1.0, 4.0, 9.0]))).tolist() == pytest.approx(expected)

    def test_a_gradient_that_the_other_contains_takes_all(self):
        # g_1 = (1, 0), g_2 = (2, 0): the shortest point of the segment is g_1
        assert weigh([[1.0, 2.0], [2.0, 4.0]]).tolist() == pytest.approx([2.0, 0.0])

    def test_no_gradient_at_all(self):
        assert weigh(torch.zeros(4, 4)).tolist() == pytest.approx([1.0] * 4)

    def test_permutation(self):
        B, order = gramian(6), torch.tensor([3, 0, 5, 1, 4, 2])
        assert torch.allclose(weigh(B[order][:, order]), weigh(B)[order])

    def test_a_common_scale_changes_nothing(self):
        assert torch.allclose(weigh(1e6 * gramian(5)), weigh(gramian(5)))

    def test_common_descent(self):
        B = gramian(8)
        products = B @ weigh(B)
        assert (products >= products.min() - 1e-9).all()
        assert products.min() > 0


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

    def test_unknown(self):
        with pytest.raises(ConfigError, match="did you mean 'loss"):
            MGDA(normalization="los")


def own_input():
    vectors = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.manual_seed(0)
    model = MultiTaskModel(lambda: TextCNN(vectors, filters=3, dropout=0.0), [3] * 4).double()
    words = list(torch.randint(30, (4, 5, 8), generator=torch.Generator().manual_seed(1)))
    labels = torch.randint(3, (4, 5), generator=torch.Generator().manual_seed(2))
    return model, [lambda t=t: cross_entropy(model(words[t], t), labels[t]) for t in range(4)], words, labels


def shared_input():
    torch.manual_seed(0)
    model = MultiTaskModel(lambda: MLP((16,), [16, 16]), [3] * 4).double()
    inputs = torch.randn(3, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.randint(3, (4, 3), generator=torch.Generator().manual_seed(2))
    closures = [lambda t=t: cross_entropy(model(inputs, t), labels[t]) for t in range(4)]

    def joint():
        features = model.encoders[0](inputs)
        return [cross_entropy(head(features), labels[t]) for t, head in enumerate(model.heads)]

    return model, closures, joint


def expected_gradients(model, closures):
    """sum_t lambda_t g_t for the encoder, g_t / T for the heads, by autograd alone."""
    shared = [p for p in model.encoders.parameters() if p.requires_grad]
    rows = [torch.autograd.grad(closure(), shared) for closure in closures]
    J = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    weights = weigh(J @ J.T)
    encoder = (weights / len(closures)) @ J
    heads = [g / 4 for t, c in enumerate(closures) for g in torch.autograd.grad(c(), list(model.heads[t].parameters()))]
    return weights, torch.cat([encoder, *(g.flatten() for g in heads)])


@pytest.mark.parametrize("kind", ["closures", "groups", "groups of two", "joint", "joint, watched"])
def test_the_step_against_autograd(kind, monkeypatch):
    watched = None
    if kind.startswith("joint"):
        model, closures, losses = shared_input()
        watched = model if kind.endswith("watched") else None
    else:
        model, closures, words, labels = own_input()
        losses = closures
        if kind.startswith("groups"):
            monkeypatch.setattr(task_groups, "GROUP_ROWS", 10 if kind.endswith("two") else 100)
            losses = task_groups.task_losses(model, words, Plain(list(labels)), None)
            assert len(losses) == (2 if kind.endswith("two") else 1)
    weights, gradients = expected_gradients(model, closures)
    parameters = [p for p in model.parameters() if p.requires_grad]
    step = MultiTaskStep(parameters, torch.optim.SGD(parameters, lr=0.1), MGDA(), 4, model=watched)
    record = step(losses)
    assert torch.allclose(record.weights, weights)
    assert torch.equal(record.next_weights, record.weights)
    assert torch.allclose(torch.cat([p.grad.flatten() for p in parameters]), gradients)
