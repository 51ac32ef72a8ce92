"""Four tasks on a small model, every way in which their losses reach a step, and their gradients by autograd alone."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from lossrag.experiments.run import task_groups
from lossrag.experiments.run.objective import BatchObjective
from lossrag.lossbank import LOSSES, Mixture
from lossrag.models import MLP, MultiTaskModel, TextCNN
from lossrag.tasks import Task

T = 4
KINDS = ("shared", "single", "groups", "joint", "joint, apart")
LABELS = torch.randint(3, (T, 5), generator=torch.Generator().manual_seed(2))


def make(kind):
    """The model and one batch per task: tasks on one input, or with inputs of their own."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    if kind == "shared":
        model = MultiTaskModel(lambda: MLP((16,), [16, 16]), [3] * T).double()
        return model, [torch.randn(5, 16, generator=generator, dtype=torch.float64)] * T
    vectors = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = MultiTaskModel(lambda: TextCNN(vectors, filters=3, dropout=0.0), [3] * T).double()
    return model, list(torch.randint(30, (T, 5, 8), generator=generator))


class Apart(BatchObjective):
    """Tasks that must not go through stacked heads."""

    def alike(self, tasks):
        return False


def losses_of(kind, model, inputs):
    """What a step is given, and the objective that keeps the features."""
    tasks = [Task(str(t), "classification", 3) for t in range(T)]
    mixtures = [Mixture((LOSSES["cross_entropy"],))] * T
    cls = Apart if kind == "joint, apart" else BatchObjective
    objective = cls(tasks, mixtures, list(LABELS), keep_features=True)
    if kind == "shared":
        return lambda: [objective.one(t, o) for t, o in enumerate(model.forward_shared(inputs[0]))], objective
    if kind == "single":
        return task_groups.single_losses(model, inputs, objective), objective
    if kind == "groups":
        return task_groups.task_losses(model, inputs, objective, None), objective
    return task_groups.joint_losses(model, inputs, objective), objective


def trained(model):
    """The parameters (encoder first) as a list."""
    return [p for p in model.parameters() if p.requires_grad]


def by_autograd(model, inputs):
    """Gradients of the encoder (T, d), of the own head of each task (T, h), and at the features (T, rows, F)."""
    shared = [p for p in model.encoders.parameters() if p.requires_grad]
    parts = []
    for t in range(T):
        features = model.encoders[0](inputs[t])
        loss = cross_entropy(model.heads[t](features), LABELS[t])
        at_features, *rest = torch.autograd.grad(loss, [features, *shared, *model.heads[t].parameters()])
        flat = [gradient.flatten() for gradient in rest]
        parts.append((torch.cat(flat[: len(shared)]), torch.cat(flat[len(shared) :]), at_features))
    return tuple(torch.stack(column) for column in zip(*parts, strict=True))


def representation_gramian(at_features, align, shared):
    """Of gradients (T, rows, F) at one representation that all tasks share, or at one of different rows for each."""
    if align == "mean":
        J = at_features.sum(1)
    elif shared:
        J = at_features.flatten(1)
    else:
        J = torch.block_diag(*[gradient.flatten()[None] for gradient in at_features])
    return J @ J.T
