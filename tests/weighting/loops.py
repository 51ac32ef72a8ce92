"""A small loop over tasks on one input: a trunk, a head for each task, and batches drawn by a seed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lossrag.weighting import WEIGHTINGS, MultiTaskStep


class Net(nn.Module):
    """A trunk of one layer with a head for each task, in float64."""

    def __init__(self, tasks: int, seed: int = 0, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        layers = [nn.Linear(6, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.Tanh()]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(tasks))
        self.double()

    def forward(self, x):
        z = self.trunk(x)
        return [head(z) for head in self.heads]


def batch(number: int, tasks: int, rows: int = 12):
    """Inputs (B, 6) and labels (B, T), those of a task the same whatever T."""
    g = torch.Generator().manual_seed(1000 + number)
    return torch.randn(rows, 6, generator=g, dtype=torch.float64), torch.randint(3, (rows, tasks), generator=g)


def losses_of(net, x, y, absent=(), how="none"):
    """A joint closure; absent tasks have None, or labels that are all ignored."""

    def closure():
        told = []
        for t, z in enumerate(net(x)):
            if t in absent and how == "none":
                told.append(None)
                continue
            labels = torch.full_like(y[:, t], -100) if t in absent else y[:, t]
            told.append(F.cross_entropy(z, labels, ignore_index=-100))
        return told

    return closure


def made(name: str, tasks: int = 3, lr: float = 0.1, net: Net | None = None, **options):
    """A net and its step, over tasks a, b, c ..."""
    net = net or Net(tasks)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    return net, MultiTaskStep(net, optimizer, WEIGHTINGS[name](), [*"abcdefgh"[:tasks]], **options)


def signals(step, number: int = 0, tasks: int = 3):
    """What the method asks for besides losses."""
    needs = step.needs
    more = {"epoch": number // 2} if needs.epoch else {}
    if needs.scores:
        more["scores"] = lambda: torch.tensor([0.5, 0.6, 0.7, 0.5, 0.6], dtype=torch.float64)[:tasks]
    return more


def take(step, support, query, **more):
    """A step, with the query losses where the method takes any."""
    return step(support, query, **more) if step.needs.hypergradient is not None else step(support, **more)


def flat(net):
    """All parameters, end to end."""
    return torch.cat([p.detach().flatten() for p in net.parameters()])
