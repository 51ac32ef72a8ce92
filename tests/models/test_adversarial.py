"""The parts of the adversarial model against what they are by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lossrag import ConfigError
from lossrag.models import TaskDiscriminator, orthogonality, reverse


def test_the_reversal_changes_the_sign_of_the_gradient_and_nothing_else():
    x = torch.tensor([0.5, -2.0], dtype=torch.float64, requires_grad=True)
    y = reverse(x)
    assert torch.equal(y, x)
    (y * torch.tensor([3.0, 7.0])).sum().backward()
    assert x.grad.tolist() == [-3.0, -7.0]


def test_above_the_reversal_nothing_is_reversed():
    x = torch.tensor(2.0, requires_grad=True)
    u = torch.tensor(5.0, requires_grad=True)
    (u * reverse(x)).backward()
    assert (u.grad.item(), x.grad.item()) == (2.0, -5.0)


def test_two_reversals_cancel():
    x = torch.tensor(2.0, requires_grad=True)
    reverse(reverse(x)).pow(2).backward()
    assert x.grad.item() == 4.0


def test_the_discriminators_loss_by_a_plain_loop():
    torch.manual_seed(0)
    discriminator = TaskDiscriminator(4, 3).double()
    shared = torch.randn(5, 4, dtype=torch.float64)
    weight, bias = discriminator.layer.weight.tolist(), discriminator.layer.bias.tolist()
    total = 0.0
    for row in shared.tolist():
        scores = [math.exp(sum(u * s for u, s in zip(weight[t], row, strict=True)) + bias[t]) for t in range(3)]
        total -= math.log(scores[1] / sum(scores))
    assert discriminator.loss(shared, 1).item() == pytest.approx(total / 5, rel=1e-12)


def test_a_step_of_both_sides_pulls_the_loss_apart():
    """The discriminator descends its loss, the features ascend it."""
    torch.manual_seed(0)
    discriminator = TaskDiscriminator(4, 3)
    shared = torch.randn(5, 4, requires_grad=True)
    before = discriminator.loss(shared, 2)
    before.backward()
    with torch.no_grad():
        moved = shared - 0.1 * shared.grad
        assert discriminator.loss(moved, 2) > before
        torch._foreach_sub_(list(discriminator.parameters()), [0.1 * p.grad for p in discriminator.parameters()])
        assert discriminator.loss(shared, 2) < before


def test_a_single_task_cannot_be_told_apart():
    discriminator = TaskDiscriminator(4, 1)
    shared = torch.randn(5, 4, requires_grad=True)
    loss = discriminator.loss(shared, 0)
    loss.backward()
    assert loss.item() == 0
    assert not shared.grad.any()
    assert not discriminator.layer.weight.grad.any()


def test_the_penalty_by_a_plain_loop():
    torch.manual_seed(0)
    shared, private = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    total = 0.0
    for i in range(3):
        for j in range(4):
            total += sum(shared[b, i].item() * private[b, j].item() for b in range(5)) ** 2
    assert orthogonality(shared, private).item() == pytest.approx(total, rel=1e-12)


def test_the_unit_penalty_by_a_plain_loop():
    """The mean over pairs of samples of the product of their cosines in either space, around the batch's mean."""
    torch.manual_seed(0)
    parts = [torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)]
    rows = []
    for part in parts:
        mean = [sum(part[b, i].item() for b in range(5)) / 5 for i in range(part.shape[1])]
        centred = [[value - m for value, m in zip(row, mean, strict=True)] for row in part.tolist()]
        rows.append([[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in centred])
    total = 0.0
    for a in range(5):
        for b in range(5):
            cosines = [sum(x * y for x, y in zip(each[a], each[b], strict=True)) for each in rows]
            total += cosines[0] * cosines[1]
    assert orthogonality(*parts, "unit").item() == pytest.approx(total / 25, rel=1e-12)


def test_the_unit_penalty_knows_neither_size_nor_place():
    torch.manual_seed(0)
    shared, private = torch.randn(6, 3), torch.randn(6, 4)
    value = orthogonality(shared, private, "unit")
    assert 0 < value < 1
    assert orthogonality(10 * shared + 3, 0.1 * private - 1, "unit").item() == pytest.approx(value.item(), rel=1e-4)
    doubled = [torch.cat([part, part]) for part in (shared, private)]
    assert orthogonality(*doubled, "unit").item() == pytest.approx(value.item(), rel=1e-4)


@pytest.mark.parametrize("rows", [1, 4])
def test_the_unit_penalty_of_rows_that_are_all_alike_is_zero(rows):
    shared = torch.ones(rows, 3, requires_grad=True)
    value = orthogonality(shared, 2 * shared, "unit")
    value.backward()
    assert value.item() == 0
    assert not shared.grad.any()


@pytest.mark.parametrize("scale", ["paper", "unit"])
def test_orthogonal_features_pay_nothing(scale):
    shared = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    private = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert orthogonality(shared, private, scale).item() == 0
    assert orthogonality(shared, shared, scale).item() > 0


def test_unknown_scale():
    with pytest.raises(ConfigError, match=r"orthogonality: scale='units' is unknown: did you mean 'unit'"):
        orthogonality(torch.ones(1, 1), torch.ones(1, 1), "units")
