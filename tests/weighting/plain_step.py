"""Plain reference of a step: autograd task by task, dictionaries by name, a sub-problem written out each time."""

from __future__ import annotations

import torch
from torch import Tensor

from lossrag.weighting import frank_wolfe


class PlainStep:
    """SGD on (1/n) sum_t w_t L_t over the n tasks that are there, float64. kind: uniform, mgda or metaweighting, whose
    weights are kept by the names of the tasks. outer: tasks of the outer problem, which runs every so many steps."""

    def __init__(self, net, names, kind, lr=0.1, alpha=0.1, outer=None, every=1):
        self.net, self.names, self.kind, self.lr, self.alpha = net, list(names), kind, lr, alpha
        self.outer, self.every, self.count = outer or names, every, 0
        self.weights = dict.fromkeys(names, 1.0)
        self.losses, self.query_losses = {}, {}

    def gradients(self, losses, names) -> dict[str, dict[int, Tensor]]:
        """By task, by place of the parameter, the gradients of parameters that it touches."""
        trained = [(i, p) for i, p in enumerate(self.net.parameters()) if p.requires_grad]
        found = {}
        for name in names:
            rows = torch.autograd.grad(losses[name], [p for _, p in trained], retain_graph=True, allow_unused=True)
            found[name] = {i: g for (i, _), g in zip(trained, rows, strict=True) if g is not None}
        return found

    def __call__(self, support, query) -> str | None:
        """One step; support and query: losses by the names of the tasks that are there. Returns which of the two is no
        number, if one is."""
        self.count += 1
        self.losses, self.query_losses = {name: float(loss.detach()) for name, loss in support.items()}, {}
        there = [name for name in self.names if name in support]
        if not there:
            return None
        rows = self.gradients(support, there)
        if not _finite(support, rows):
            return "support"
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
        learns = self.kind == "metaweighting" and self.count % self.every == 0
        return self._outer(rows, there, query()) if learns else None

    def _mgda(self, rows, there) -> list[float]:
        shared = [i for i in range(len(list(self.net.parameters()))) if sum(i in rows[n] for n in there) > 1]
        gram = torch.zeros(len(there), len(there), dtype=torch.float64)
        for a, first in enumerate(there):
            for b, second in enumerate(there):
                common = shared if len(there) > 1 else list(rows[first])
                places = [i for i in common if i in rows[first] and i in rows[second]]
                gram[a, b] = sum((rows[first][i] * rows[second][i]).sum() for i in places)
        return (len(there) * frank_wolfe(gram).weights).tolist()

    def _outer(self, rows, there, query) -> str | None:
        outer = [name for name in self.names if name in query and name in self.outer]
        if not outer:
            return None
        self.query_losses = {name: float(query[name].detach()) for name in outer}
        held_out = self.gradients(query, outer)
        if not _finite({name: query[name] for name in outer}, held_out):
            return "query"
        D = torch.zeros(len(outer), len(there), dtype=torch.float64)
        for a, first in enumerate(outer):
            for b, second in enumerate(there):
                places = [i for i in held_out[first] if i in rows[second]]
                D[a, b] = -sum((held_out[first][i] * rows[second][i]).sum() for i in places)
        direction = frank_wolfe(D @ D.mT).weights @ D
        for b, name in enumerate(there):
            self.weights[name] -= self.alpha * float(direction[b])
        return None


def _finite(losses, rows) -> bool:
    gradients = [gradient for own in rows.values() for gradient in own.values()]
    return all(bool(value.isfinite().all()) for value in [*losses.values(), *gradients])
