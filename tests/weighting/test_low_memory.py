"""Gradients that are computed again instead of being held: the same D, dropout masks included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lossrag import ConfigError
from lossrag.weighting import MetaWeighting, MultiTaskStep, TaskGroup


def run(memory: str, shared_input: bool, method: MetaWeighting = MetaWeighting(scale="unit")):  # noqa: B008
    torch.manual_seed(0)
    trunk, heads = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5)), nn.ModuleList(nn.Linear(8, 2) for _ in range(3))
    model = nn.ModuleList([trunk, heads]).double()
    step = MultiTaskStep(model.parameters(), torch.optim.Adam(model.parameters(), lr=0.05), method, 3, memory)
    generator = torch.Generator().manual_seed(1)

    def losses():
        inputs = torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
        if shared_input:
            return lambda: [head(features).square().mean() for features in [trunk(inputs[0])] for head in heads]
        return [lambda t=t: heads[t](trunk(inputs[t])).square().mean() for t in range(3)]

    torch.manual_seed(2)
    return [step(losses(), losses()) for _ in range(3)], [p.detach() for p in model.parameters()], step


@pytest.mark.parametrize("method", [MetaWeighting(scale="unit"), MetaWeighting(parameters="shared")])
@pytest.mark.parametrize("shared_input", [False, True])
def test_same_numbers_with_dropout(shared_input, method):
    held, expected, _ = run("rows", shared_input, method)
    again, parameters, step = run("low", shared_input, method)
    for a, b in zip(held, again, strict=True):
        assert torch.allclose(a.support_losses, b.support_losses, rtol=1e-12)
        assert torch.allclose(a.query_losses, b.query_losses, rtol=1e-12)
        assert torch.allclose(a.hypergradient, b.hypergradient, rtol=1e-9, atol=1e-15)
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(expected, parameters, strict=True))
    assert step.nbytes == 0


def test_random_numbers_go_on_as_if_nothing_was_repeated():
    run("rows", False)
    expected = torch.rand(1)
    run("low", False)
    assert torch.equal(torch.rand(1), expected)


def test_groups_are_refused():
    theta = torch.zeros(2, requires_grad=True)
    step = MultiTaskStep([theta], torch.optim.SGD([theta], 0.1), MetaWeighting(), 2, "low")
    group = TaskGroup(range(2), [theta], [], lambda copies, stacks: copies[0].sum(1))
    with pytest.raises(ConfigError, match="give one closure per task"):
        step([group], [theta.sum, theta.sum])
    with pytest.raises(ConfigError, match="did you mean 'low'"):
        MultiTaskStep([theta], torch.optim.SGD([theta], 0.1), MetaWeighting(), 2, "lo")
