"""Plain reference of a step: autograd task by task, dictionaries by name, a sub-problem written out each time."""

from __future__ import annotations

import torch
from torch import Tensor

from lossrag.weighting import frank_wolfe


class PlainStep:
    """SGD on (1/n) sum_t w_t L_t over the n tasks that are there, float64. kind: uniform, mgda or metaweighting, whose
    weights are kept by the names of the tasks."""

    def __init__(self, net, names, kind, lr=0.1, alpha=0.1):
        self.net, self.names, self.kind, self.lr, self.alpha = net, list(names), kind, lr, alpha
        self.weights = dict.fromkeys(names, 1.0)
        self.lam = dict.fromkeys(names, 1 / len(names))

    def gradients(self, losses, names) -> dict[str, dict[int, Tensor]]:
        """By task, by place of the parameter, the gradients of parameters that it touches."""
        trained = [(i, p) for i, p in enumerate(self.net.parameters()) if p.requires_grad]
        found = {}
        for name in names:
            rows = torch.autograd.grad(losses[name], [p for _, p in trained], retain_graph=True, allow_unused=True)
            found[name] = {i: g for (i, _), g in zip(trained, rows, strict=True) if g is not None}
        return found

    def __call__(self, support, query) -> None:
        """One step; support and query: losses by the names of the tasks that are there."""
        there = [name for name in self.names if name in support]
        if not there or not all(bool(loss.isfinite()) for loss in support.values()):
            return
        rows = self.gradients(support, there)
        if self.kind == "mgda":
            self.weights |= dict(zip(there, self._mgda(rows, there), strict=True))
        parameters = list(self.net.parameters())
        with torch.no_grad():
            for i, p in enumerate(parameters):
                touching = [name for name in there if i in rows[name]]
                # a task's own parameters are unweighted under MGDA
                own = self.kind == "mgda" and len(touching) == 1 and len(there) > 1
                for name in touching:
                    p.sub_(self.lr / len(there) * (1.0 if own else self.weights[name]) * rows[name][i])
        if self.kind == "metaweighting":
            self._outer(rows, there, query())

    def _mgda(self, rows, there) -> list[float]:
        shared = [i for i in range(len(list(self.net.parameters()))) if sum(i in rows[n] for n in there) > 1]
        gram = torch.zeros(len(there), len(there), dtype=torch.float64)
        for a, first in enumerate(there):
            for b, second in enumerate(there):
                common = shared if len(there) > 1 else list(rows[first])
                places = [i for i in common if i in rows[first] and i in rows[second]]
                gram[a, b] = sum((rows[first][i] * rows[second][i]).sum() for i in places)
        return (len(there) * frank_wolfe(gram).weights).tolist()

    def _outer(self, rows, there, query) -> None:
        outer = [name for name in self.names if name in query]
        if not outer or not all(bool(loss.isfinite()) for loss in query.values()):
            return
        held_out = self.gradients(query, outer)
        D = torch.zeros(len(outer), len(there), dtype=torch.float64)
        for a, first in enumerate(outer):
            for b, second in enumerate(there):
                places = [i for i in held_out[first] if i in rows[second]]
                D[a, b] = -sum((held_out[first][i] * rows[second][i]).sum() for i in places)
        direction = frank_wolfe(D @ D.mT).weights @ D
        for b, name in enumerate(there):
            self.weights[name] -= self.alpha * float(direction[b])
