"""Tasks that share a pass give the step exactly what a pass of their own gives."""

from __future__ import annotations

import pytest
import torch

from experiments import task_groups
from models import MLP, MultiTaskModel, TextCNN
from weighting import MetaWeighting, MultiTaskStep, TaskGroup, Uniform

SIZES = [3, 2, 4, 1, 2]


def run(monkeypatch, group_rows, trainable, method):
    monkeypatch.setattr(task_groups, "GROUP_ROWS", group_rows)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    model = MultiTaskModel(lambda: TextCNN(vectors, filters=3, dropout=0.0, trainable=trainable), [2] * 5).double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    step = MultiTaskStep(parameters, torch.optim.Adam(parameters, lr=0.01), method, 5)

    def batch(shift):
        words = [torch.randint(30, (n, 9), generator=generator) for n in SIZES]
        labels = [torch.randint(2, (n,), generator=generator) for n in SIZES]
        return task_groups.task_losses(
            model, words, lambda t, out: torch.nn.functional.cross_entropy(out, labels[t]) * (1 + shift)
        )

    records = []
    for _ in range(3):
        support, query = batch(0.0), batch(0.5)
        records.append(step(support, query if method.hypergradient else None))
    return records, parameters, support


@pytest.mark.parametrize("method", [MetaWeighting(scale="unit"), MetaWeighting(parameters="shared"), Uniform()])
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("group_rows", [5, 100])
def test_groups_equal_single_passes(monkeypatch, group_rows, trainable, method):
    alone, expected, closures = run(monkeypatch, 0, trainable, method)
    grouped, parameters, groups = run(monkeypatch, group_rows, trainable, method)
    assert not any(isinstance(entry, TaskGroup) for entry in closures)
    assert any(isinstance(entry, TaskGroup) for entry in groups)
    for a, b in zip(alone, grouped, strict=True):
        assert torch.allclose(a.support_losses, b.support_losses, rtol=1e-10)
        assert torch.allclose(a.next_weights, b.next_weights, rtol=1e-9)
        if a.hypergradient is not None:
            assert torch.allclose(a.hypergradient, b.hypergradient, rtol=1e-8, atol=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-12) for a, b in zip(expected, parameters, strict=True))


def test_models_that_cannot_keep_gradients_apart_get_a_pass_per_task():
    model = MultiTaskModel(lambda: MLP((3,)), [2, 2])
    entries = task_groups.task_losses(model, [torch.ones(2, 3)] * 2, lambda t, out: out.sum())
    assert [callable(entry) for entry in entries] == [True, True]
    unshared = MultiTaskModel(lambda: TextCNN(torch.ones(5, 2), filters=2), [2, 2], "none")
    assert unshared.segment_encoder() is None
