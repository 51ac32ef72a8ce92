"""The Gramian over all parameters, heads included, against autograd, for every way that losses reach the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch.nn.functional import cross_entropy

from lossrag.experiments.benchmark.peer_problems import Plain
from lossrag.experiments.run import task_groups
from lossrag.models import MLP, MultiTaskModel, TextCNN
from lossrag.weighting import MultiTaskStep, Weighting

T = 4


@dataclass(frozen=True)
class Watching(Weighting):
    """Weights 1, 2, 3, 4; remembers the Gramian."""

    needs_gramian: ClassVar[bool] = True
    weighs: ClassVar[str] = "all"

    @property
    def gramian_of(self):
        return "all"

    def init(self, tasks, device):
        weights = torch.arange(1.0, tasks + 1, dtype=torch.float64)
        return {"weights": weights, "gramian": torch.zeros(tasks, tasks, dtype=torch.float64)}

    def weigh(self, state, signals):
        return state["weights"], {**state, "gramian": signals.gramian}


def problem(kind, monkeypatch):
    """The model, a closure per task, and what the step is given."""
    torch.manual_seed(0)
    labels = torch.randint(3, (T, 5), generator=torch.Generator().manual_seed(2))
    if kind.startswith("joint"):
        model = MultiTaskModel(lambda: MLP((16,), [16, 16]), [3] * T).double()
        inputs = torch.randn(5, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        closures = [lambda t=t: cross_entropy(model(inputs, t), labels[t]) for t in range(T)]

        def joint():
            features = model.encoders[0](inputs)
            return [cross_entropy(head(features), labels[t]) for t, head in enumerate(model.heads)]

        return model, closures, joint
    vectors = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = MultiTaskModel(lambda: TextCNN(vectors, filters=3, dropout=0.0), [3] * T).double()
    words = list(torch.randint(30, (T, 5, 8), generator=torch.Generator().manual_seed(1)))
    closures = [lambda t=t: cross_entropy(model(words[t], t), labels[t]) for t in range(T)]
    if kind == "closures":
        return model, closures, closures
    monkeypatch.setattr(task_groups, "GROUP_ROWS", 10 if kind.endswith("two") else 100)
    return model, closures, task_groups.task_losses(model, words, Plain(list(labels)), None)


@pytest.mark.parametrize("kind", ["closures", "groups", "groups of two", "joint", "joint, watched"])
def test_against_autograd(kind, monkeypatch):
    model, closures, losses = problem(kind, monkeypatch)
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for closure in closures:
        found = torch.autograd.grad(closure(), parameters, allow_unused=True)
        rows.append(torch.cat([(p * 0 if g is None else g).flatten() for g, p in zip(found, parameters, strict=True)]))
    J = torch.stack(rows).detach()
    watched = model if kind.endswith("watched") else None
    step = MultiTaskStep(parameters, torch.optim.SGD(parameters, lr=0.1), Watching(), T, model=watched)
    step(losses)
    assert torch.allclose(step.state["gramian"], J @ J.T)
    gradient = torch.cat([p.grad.flatten() for p in parameters])
    assert torch.allclose(gradient, torch.arange(1.0, 5.0, dtype=torch.float64) / T @ J)
