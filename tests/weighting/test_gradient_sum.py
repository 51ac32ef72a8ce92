"""The query gradient that a step keeps on demand, against autograd at the new parameters."""

from __future__ import annotations

import pytest
import torch

from lossrag.weighting import MetaWeighting, MultiTaskStep
from tests.weighting.test_hypergradient import cross_entropy, losses_at, own_input, shared_input


@pytest.mark.parametrize("kind", ["own", "own, trained vectors", "shared", "shared, watched"])
def test_it_is_the_mean_of_the_tasks_at_the_new_parameters(kind):
    double = torch.float64
    model, support, query = own_input(double, "trained" in kind) if kind.startswith("own") else shared_input(double)
    parameters = [p for p in model.parameters() if p.requires_grad]
    watched = model if "watched" in kind else None
    step = MultiTaskStep(parameters, torch.optim.SGD(parameters, lr=0.1), MetaWeighting(), 3, model=watched)
    step.keep_query_gradient = True

    def closures(batch):
        if kind.startswith("shared"):
            return lambda: [
                cross_entropy(each.logits, labels)
                for each, (_, labels) in zip(model.forward_shared(batch[0][0]), batch, strict=True)
            ]
        return [lambda x=x, y=y, t=t: cross_entropy(model(x, t), y) for t, (x, y) in enumerate(batch)]

    for _ in range(2):  # nothing of the first step is left in the second
        record = step(closures(support), closures(query))
    total = sum(losses_at(model, dict(model.named_parameters()), query)) / 3
    expected = torch.autograd.grad(total, parameters, allow_unused=True)
    for found, wanted in zip(record.query_gradient, expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-14)


def test_without_demand_nothing_is_kept():
    model, support, query = shared_input(torch.float64)
    step = MultiTaskStep(model.parameters(), torch.optim.SGD(model.parameters(), lr=0.1), MetaWeighting(), 3)
    losses = [
        [lambda x=x, y=y, t=t: cross_entropy(model(x, t), y) for t, (x, y) in enumerate(b)] for b in (support, query)
    ]
    assert step(*losses).query_gradient is None
