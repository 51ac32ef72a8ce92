"""Tasks that share a pass give the step exactly what a pass of their own gives."""

from __future__ import annotations

import pytest
import torch

from lossrag.experiments.run import task_groups
from lossrag.experiments.run.objective import BatchObjective
from lossrag.lossbank import LOSSES, Mixture
from lossrag.models import MLP, MultiTaskModel, TextCNN
from lossrag.tasks import Task
from lossrag.weighting import MetaWeighting, MultiTaskStep, TaskGroup, Uniform


def objective_of(outputs, labels):
    tasks = [Task(str(t), "classification", outputs[t]) for t in range(5)]
    return BatchObjective(tasks, [Mixture((LOSSES["cross_entropy"],))] * 5, labels)


def run(monkeypatch, group_rows, trainable, method, outputs=(2,) * 5, sizes=(3, 2, 4, 1, 2), memory="rows"):
    """Three steps; ``group_rows`` None: with plain closures."""
    monkeypatch.setattr(task_groups, "GROUP_ROWS", group_rows)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    model = MultiTaskModel(lambda: TextCNN(vectors, filters=3, dropout=0.0, trainable=trainable), outputs).double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    step = MultiTaskStep(parameters, torch.optim.Adam(parameters, lr=0.01, eps=1e-3), method, 5, memory)
    step.keep_query_gradient = method.needs.hypergradient is not None

    def batch():
        words = [torch.randint(60, (n, 9), generator=generator) for n in sizes]
        return words, [torch.randint(2, (n,), generator=generator) for n in sizes]

    def losses(words, labels, rows):
        if group_rows is None:
            return [
                lambda t=t: torch.nn.functional.cross_entropy(model(words[t], t), labels[t]) for t in range(len(words))
            ]
        return task_groups.task_losses(model, words, objective_of(outputs, labels), rows)

    records = []
    for _ in range(3):
        support, query = batch(), batch()
        rows = task_groups.table_rows(model, support[0])
        entries = losses(*support, rows)
        records.append(step(entries, losses(*query, rows) if method.needs.hypergradient else None))
    return records, parameters, entries, step


METHODS = [MetaWeighting(scale="unit"), MetaWeighting(parameters="shared"), MetaWeighting(inner="adam"), Uniform()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("group_rows", [0, 5, 100])
@pytest.mark.parametrize(
    ("outputs", "sizes"),
    [((2,) * 5, (3, 2, 4, 1, 2)), ((2,) * 5, (2,) * 5), ((2, 3, 2, 4, 2), (3, 2, 4, 1, 2))],
    ids=["same outputs", "same outputs and rows", "other outputs"],
)
def test_groups_equal_single_passes(monkeypatch, group_rows, trainable, method, outputs, sizes):
    alone, expected, _, plain = run(monkeypatch, None, trainable, method, outputs, sizes)
    grouped, parameters, entries, step = run(monkeypatch, group_rows, trainable, method, outputs, sizes)
    assert any(isinstance(entry, TaskGroup) for entry in entries) == (trainable or group_rows > 0)
    for a, b in zip(alone, grouped, strict=True):
        assert torch.allclose(a.support_losses, b.support_losses, rtol=1e-10)
        assert torch.allclose(a.next_weights, b.next_weights, rtol=1e-9)
        if a.hypergradient is not None:
            assert torch.allclose(a.hypergradient, b.hypergradient, rtol=1e-8, atol=1e-12)
            for whole, part in zip(a.query_gradient, b.query_gradient, strict=True):
                # of a trained word table only the rows of the support batch
                table = trainable and len(whole) == 60
                assert part.any()
                assert torch.allclose(torch.where(part == 0, 0, whole) if table else whole, part, rtol=1e-8, atol=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-12) for a, b in zip(expected, parameters, strict=True))
    if trainable and method.needs.hypergradient:
        assert step.nbytes < plain.nbytes, "only the rows of the batch are held"


def test_models_that_cannot_keep_gradients_apart_get_a_pass_per_task():
    model = MultiTaskModel(lambda: MLP((3,)), [2, 2])
    entries = task_groups.task_losses(model, [torch.ones(2, 3)] * 2, objective_of([2] * 5, []), None)
    assert [callable(entry) for entry in entries] == [True, True]
    unshared = MultiTaskModel(lambda: TextCNN(torch.ones(5, 2), filters=2), [2, 2], "none")
    assert unshared.segment_encoder() is None


@pytest.mark.parametrize("method", METHODS[:3])
def test_low_memory_computes_the_same(monkeypatch, method):
    rows, expected, *_ = run(monkeypatch, None, True, method)
    low, parameters, _, step = run(monkeypatch, None, True, method, memory="low")
    for a, b in zip(rows, low, strict=True):
        assert torch.allclose(a.hypergradient, b.hypergradient, rtol=1e-9, atol=1e-13)
        assert torch.allclose(a.query_losses, b.query_losses, rtol=1e-10)
        assert torch.allclose(a.next_weights, b.next_weights, rtol=1e-10)
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-12) for a, b in zip(expected, parameters, strict=True))
    assert step.nbytes == 0
    assert low[0].query_gradient is None


def test_groups_may_differ_between_support_and_query(monkeypatch):
    """A support batch of few rows goes through in groups, a larger query batch task by task, and the reverse."""
    alone = run(monkeypatch, None, False, MetaWeighting(scale="unit"))[0]
    original = task_groups._consecutive
    calls = []

    def alternate(rows, most):
        calls.append(len(calls) % 3)
        return [range(t, t + 1) for t in range(5)] if calls[-1] == 1 else original(rows, most)

    monkeypatch.setattr(task_groups, "_consecutive", alternate)
    mixed = run(monkeypatch, 5, False, MetaWeighting(scale="unit"))[0]
    assert all(torch.allclose(a.hypergradient, b.hypergradient, rtol=1e-9) for a, b in zip(alone, mixed, strict=True))
