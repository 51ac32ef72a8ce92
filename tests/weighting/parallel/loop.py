"""A small float32 loop over tasks with inputs of their own or on a shared one, whole or divided among processes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lossrag.weighting import WEIGHTINGS, MetaWeighting, MultiTaskStep

T, ROWS = 4, (24, 17, 9, 12)
"""Tasks, and rows of each in every batch: they do not divide by 2, 3 or 4 alike."""
METHODS = {
    "uniform": lambda: "uniform",
    "uncertainty": lambda: "uncertainty",
    "dwa": lambda: "dwa",
    "gradnorm": lambda: "gradnorm",
    "mgda": lambda: "mgda",
    "pcgrad": lambda: "torchjd/pcgrad",
    "upgrad": lambda: "torchjd/upgrad",
    "meta paper": lambda: MetaWeighting(alpha=5.0),
    "meta unit": lambda: MetaWeighting(alpha=0.2, scale="unit"),
    "meta adam": lambda: MetaWeighting(alpha=0.2, scale="unit", inner="adam"),
}


class Net(nn.Module):
    """A trunk of one layer and a head for each task."""

    def __init__(self, dropout=0.0, norm=False, width=32):
        super().__init__()
        norms = [nn.BatchNorm1d(width)] if norm else []
        self.trunk = nn.Sequential(nn.Linear(6, width), *norms, nn.Tanh(), nn.Dropout(dropout))
        self.heads = nn.ModuleList(nn.Linear(width, 3) for _ in range(T))

    def forward(self, x, t):
        return self.heads[t](self.trunk(x))


def made(name, group=None, seed=0, net=None, **options):
    """A net and its step."""
    torch.manual_seed(seed)
    net = net or Net()
    kind = torch.optim.Adam if name == "meta adam" else torch.optim.SGD
    # at the default eps Adam divides rounding by rounding: rows in another order move one process by 3e-6 as well
    options_of = {"lr": 0.01, "eps": 1e-4} if kind is torch.optim.Adam else {"lr": 0.1}
    optimizer = kind(net.parameters(), **options_of)
    method = METHODS[name]() if name in METHODS else WEIGHTINGS[name]()
    return net, MultiTaskStep(net, optimizer, method, [*"abcd"], group=group, **options)


def batch(number, side, rows=ROWS):
    """Inputs and labels of every task; those of tasks differ, so that gradients do."""
    g = torch.Generator().manual_seed(2 * number + side)
    drawn = []
    for t, count in enumerate(rows):
        x = torch.randn(count, 6, generator=g)
        drawn.append((x, ((x @ torch.randn(6, 3, generator=torch.Generator().manual_seed(t))).argmax(1) + t) % 3))
    return drawn


def share(drawn, rank, size):
    """The rows of one process, uneven on purpose: the last has what is left."""
    if size == 1:
        return drawn
    cuts = [[0] + [len(x) * (r + 1) ** 2 // size**2 for r in range(size)] for x, _ in drawn]
    return [(x[c[rank] : c[rank + 1]], y[c[rank] : c[rank + 1]]) for (x, y), c in zip(drawn, cuts, strict=True)]


def closures(net, drawn, absent=()):
    """A closure for each task; None without rows."""

    def one(t, x, y):
        return lambda: F.cross_entropy(net(x, t), y)

    return [one(t, x, y) if len(x) and t not in absent else None for t, (x, y) in enumerate(drawn)]


def counts(drawn):
    return [len(x) for x, _ in drawn]


def take(step, net, number, rank=0, size=1, joint=False, absent=(), query_absent=()):
    """One step on a batch, or on the share of a process."""
    support, query = (share(batch(number, side), rank, size) for side in (0, 1))
    needs = step.needs
    more = {"epoch": number // 5} if needs.epoch else {}
    if step.group is not None:
        more |= {"rows": counts(support)}
        more |= {"query_rows": counts(query)} if needs.hypergradient else {}
    first = closures(net, support, absent)
    if joint:
        single = first
        first = lambda: [None if one is None else one() for one in single]  # noqa: E731
    if needs.hypergradient is None:
        return step(first, **more)
    return step(first, closures(net, query, query_absent), **more)


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def difference(one, other):
    return float((one - other).norm() / other.norm())
