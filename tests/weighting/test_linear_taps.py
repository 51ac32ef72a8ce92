"""Gradients of linear layers kept as factors give what formed gradients give, and step aside where they would not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lossrag.weighting import GradientRows, MetaWeighting, MultiTaskStep, TaskGradients
from lossrag.weighting.gradients.linear_layers import LinearGradient, pays_off

TASKS = 5


class Trunk(nn.Module):
    """Linear layers as models have them: overwritten by an activation, called twice, over sequences, without bias."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second = nn.Linear(24, 32), nn.Linear(32, 32, bias=kind != "no bias")
        self.norm = nn.LayerNorm(32)

    def forward(self, inputs):
        hidden = torch.relu_(self.first(inputs))
        if self.kind == "sequence":
            hidden = self.second(torch.stack([hidden, hidden.flip(0)], dim=1)).mean(dim=1)
        elif self.kind == "functional":
            hidden = self.second(hidden) + nn.functional.linear(hidden.tanh(), self.second.weight)
        else:
            hidden = self.second(hidden)
            if self.kind == "twice":
                hidden = self.second(torch.relu_(hidden))
        return self.norm(hidden)


def run(kind, method, tapped, rows=8, query_rows=8, dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.ModuleList([Trunk(kind), nn.ModuleList(nn.Linear(32, 3) for _ in range(TASKS))]).to(dtype)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, eps=1e-3)
    step = MultiTaskStep(model.parameters(), optimizer, method, TASKS, model=model if tapped else None)

    def losses(size):
        inputs = torch.randn(size, 24, generator=generator, dtype=dtype)
        targets = torch.randint(3, (TASKS, size), generator=generator)

        def compute():
            features = model[0](inputs)
            return [nn.functional.cross_entropy(head(features), y) for head, y in zip(model[1], targets, strict=True)]

        return compute

    records = [step(losses(rows), losses(query_rows)) for _ in range(3)]
    return records, [p.detach() for p in model.parameters()], step


METHODS = [MetaWeighting(scale="unit"), MetaWeighting(parameters="shared"), MetaWeighting(inner="adam")]


@pytest.mark.parametrize("kind", ["plain", "twice", "sequence", "functional", "no bias"])
def test_factors_equal_formed_gradients(kind):
    for method in METHODS:
        formed, expected, plain = run(kind, method, tapped=False)
        factors, parameters, step = run(kind, method, tapped=True)
        for a, b in zip(formed, factors, strict=True):
            assert torch.allclose(a.hypergradient, b.hypergradient, rtol=1e-9, atol=1e-14)
            assert torch.allclose(a.next_weights, b.next_weights, rtol=1e-12)
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-13) for a, b in zip(expected, parameters, strict=True))
        assert step.nbytes < plain.nbytes, "the factors were used"


def test_a_weight_that_is_read_elsewhere_is_not_trusted():
    _, _, step = run("functional", METHODS[0], tapped=True)
    assert sorted(step.engine.passes.taps._trusted.values()) == [
        False,
        *[True] * (len(step.engine.passes.taps._trusted) - 1),
    ]


def test_batches_of_other_sizes_fall_back_on_either_side():
    """The query batch is too large for factors while the support batch is not, and the reverse."""
    for rows, query_rows in ((8, 200), (200, 8)):
        formed, expected, _ = run("plain", METHODS[0], False, rows, query_rows)
        mixed, parameters, _ = run("plain", METHODS[0], True, rows, query_rows)
        assert all(
            torch.allclose(a.hypergradient, b.hypergradient, rtol=1e-9) for a, b in zip(formed, mixed, strict=True)
        )
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-13) for a, b in zip(expected, parameters, strict=True))


def test_tied_weights_are_left_alone():
    first, second = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
    second.weight = first.weight
    model = nn.ModuleList([first, second])
    step = MultiTaskStep(model.parameters(), torch.optim.SGD(model.parameters(), 0.1), MetaWeighting(), 1, model=model)
    assert not step.engine.passes.taps._layers


def test_gramian_from_factors():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    outputs = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    weight = torch.zeros(5, 6, dtype=torch.float64, requires_grad=True)
    rows = GradientRows([weight], 3)
    for task in range(3):
        rows.write(TaskGradients(range(task, task + 1), {}, linear=[LinearGradient(0, inputs, outputs[task])]))
    gradients = torch.stack([outputs[t].T @ inputs for t in range(3)]).flatten(1)
    assert torch.allclose(rows.gramian(), gradients @ gradients.T)
    c = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)
    assert torch.allclose(rows.combine(c)[0].flatten(), c @ gradients)


def test_when_factors_pay():
    assert pays_off(rows=64, inputs=512, outputs=512, tasks=16)
    assert not pays_off(rows=2048, inputs=512, outputs=512, tasks=16)
