"""Models on a GPU: outputs, gradients and whole steps of the CPU."""

from __future__ import annotations

import pytest
import torch

from lossrag.experiments.run import task_groups
from lossrag.models import MLP, MultiTaskModel, TextCNN
from lossrag.models.max_over_time import max_over_time
from lossrag.weighting import WEIGHTINGS, MultiTaskStep
from tests.weighting import problems
from tests.weighting.loops import take

CPU = torch.device("cpu")


def gradients_of(value, tensors):
    return [g.cpu() for g in torch.autograd.grad(value, tensors, materialize_grads=True)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sizes", [(3, 5, 7), (1, 2, 4)])
def test_max_over_time(sizes, dtype, device):
    g = torch.Generator().manual_seed(0)
    words = torch.randn(6, 20, 5, generator=g, dtype=dtype)
    weights = [torch.randn(4, 5, size, generator=g, dtype=dtype) for size in sizes]
    out = torch.randn(6, 12, generator=g, dtype=dtype)
    found = []
    for where in (device, CPU):
        own = [part.to(where).requires_grad_() for part in (words, *weights)]
        pooled = max_over_time(own[0], own[1:])
        found.append([pooled.detach().cpu(), *gradients_of((pooled * out.to(where)).sum(), own)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("encoder", ["textcnn", "mlp"])
def test_forward_and_backward(encoder, precision, trainable, device):
    """All routes of a model: joint passes over own inputs, and one over a shared input."""
    found = []
    for where in (device, CPU):
        torch.manual_seed(0)
        if encoder == "textcnn":
            vectors = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
            model = MultiTaskModel(
                lambda vectors=vectors: TextCNN(vectors, filters=5, dropout=0.0, trainable=trainable),
                [3, 3, 2],
                precision=precision,
            ).to(where)
            words = [torch.randint(40, (rows, 9), generator=torch.Generator().manual_seed(rows)) for rows in (4, 6, 5)]
            outputs = model.forward_joint([part.to(where) for part in words])
        else:
            model = MultiTaskModel(lambda: MLP((7,), [9, 6]), [3, 3, 2], precision=precision).to(where)
            outputs = model.forward_shared(torch.randn(8, 7, generator=torch.Generator().manual_seed(1)).to(where))
        trained = problems.trained(model)
        value = sum(out.logits.square().mean() for out in outputs)
        logits = [out.logits.detach().cpu() for out in outputs]
        found.append([*logits, *gradients_of(value, trained)])
    close = {"rtol": 1e-3, "atol": 1e-4} if precision is None else {"rtol": 0.1, "atol": 0.05}
    for one, other in zip(*found, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, **close)


@pytest.mark.parametrize("name", ["uniform", "mgda", "metaweighting"])
@pytest.mark.parametrize("kind", problems.KINDS)
def test_every_route_of_losses(kind, name, device, monkeypatch):
    """Shared input, a pass for each task, groups of tasks, and joint passes."""
    monkeypatch.setattr(task_groups, "GROUP_ROWS", 10)
    found = []
    for where in (device, CPU):
        model, inputs = problems.make(kind)
        model = model.to(where)
        monkeypatch.setattr(problems, "LABELS", problems.LABELS.to(where))
        inputs = [part.to(where) for part in inputs]
        parameters = problems.trained(model)
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        step = MultiTaskStep(parameters, optimizer, WEIGHTINGS[name](), problems.T, model=model)
        for _ in range(3):
            support, query = (problems.losses_of(kind, model, inputs)[0] for _ in range(2))
            take(step, support, query)
        found.append([p.detach().cpu() for p in parameters] + [step.task_weights.cpu()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("sizes", [(4, 4), (3, 6)])
def test_text_in_groups_with_trained_vectors(sizes, device):
    """Segments of one pass, whose gradients are kept apart, with the rows of a trained table."""
    found = []
    for where in (device, CPU):
        torch.manual_seed(0)
        vectors = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        model = MultiTaskModel(lambda v=vectors: TextCNN(v, filters=5, dropout=0.0, trainable=True), [3, 3])
        model = model.double().to(where)
        g = torch.Generator().manual_seed(1)
        words = [torch.randint(40, (rows, 9), generator=g).to(where) for rows in sizes]
        labels = [torch.randint(3, (rows,), generator=g).to(where) for rows in sizes]
        objective = problems.BatchObjective(
            [problems.Task(str(t), "classification", 3) for t in range(2)],
            [problems.Mixture((problems.LOSSES["cross_entropy"],))] * 2,
            labels,
        )
        parameters = problems.trained(model)
        step = MultiTaskStep(parameters, torch.optim.SGD(parameters, lr=0.1), WEIGHTINGS["metaweighting"](), 2)
        rows = task_groups.table_rows(model, words)
        for _ in range(3):
            losses = [task_groups.task_losses(model, words, objective, rows, query=q) for q in (False, True)]
            step(*losses)
        found.append([p.detach().cpu() for p in parameters] + [step.task_weights.cpu()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
