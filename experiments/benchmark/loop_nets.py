"""Net of three tasks, its batches, and an update of it by MGDA: here, and by torchjd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossrag.experiments.benchmark.peer_torchjd import METHODS, aggregator, torchjd
from lossrag.weighting import MGDA, MultiTaskStep

TASKS = 3
RATE = 0.1
Batch = tuple[Tensor, Tensor]
"""Inputs (B, 8), and labels (B, T)."""
Given = list[Tensor | None]


def draw(number: int, rows: int = 16) -> Batch:
    """A batch in float64."""
    g = torch.Generator().manual_seed(1000 + number)
    return torch.randn(rows, 8, generator=g, dtype=torch.float64), torch.randint(3, (rows, TASKS), generator=g)


class Net(nn.Module):
    """A trunk and heads in float64; temperature: learned, after the heads; table: an embedding added to the trunk,
    ``sparse`` or ``dense``; unit: what all losses are multiplied by."""

    def __init__(self, temperature: bool = False, table: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.Tanh())
        self.heads = nn.ModuleList(nn.Linear(16, 3) for _ in range(TASKS))
        self.table = nn.Embedding(4, 16, sparse=table == "sparse") if table else None
        self.double()
        self.temperature = nn.Parameter(torch.tensor(1.0, dtype=torch.float64), requires_grad=temperature)
        self.unit = 1.0
        self.call: Callable[[Tensor], Tensor] = self.trunk

    def losses(self, batch: Batch, tasks: Sequence[int], absent: int | None = None) -> tuple[Given, Tensor]:
        """Those of these tasks, None for the absent one, and the features."""
        x, y = batch
        z = self.call(x)
        if self.table is not None:
            z = z + self.table(torch.arange(len(x)) % 4)
        outputs = [self.heads[t](z) * self.temperature for t in tasks]
        every: Given = [self.unit * F.cross_entropy(out, y[:, t]) for out, t in zip(outputs, tasks, strict=True)]
        return [None if t == absent else loss for t, loss in zip(tasks, every, strict=True)], z

    def shared(self) -> list[nn.Parameter]:
        """Parameters of all tasks."""
        return [*self.trunk.parameters(), *(self.table.parameters() if self.table is not None else ())]

    def flat(self) -> Tensor:
        """All parameters, end to end."""
        return torch.cat([p.detach().flatten() for p in self.parameters()])


class Updater:
    """Updates of a net by SGD, its gradient combined by MGDA. twice: one shared parameter is listed two times."""

    def __init__(self, net: Net, twice: bool = False) -> None:
        self.net = net
        self.listed = net.shared() + (net.shared()[:1] if twice else [])
        trained = [p for p in net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=RATE)

    def update(
        self,
        batch: Batch,
        tasks: Sequence[int] = range(TASKS),
        absent: int | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """One step from a batch, over these tasks."""
        raise NotImplementedError

    def update_from(self, batches: Sequence[Batch]) -> None:
        """One step from micro-batches."""
        raise NotImplementedError

    def _applied(self, scaler: torch.amp.GradScaler | None) -> None:
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()


def _scaled(losses: Given, scaler: torch.amp.GradScaler | None) -> Given:
    return losses if scaler is None else [None if loss is None else scaler.scale(loss) for loss in losses]


class Ours(Updater):
    """By MultiTaskStep."""

    def __init__(self, net: Net, twice: bool = False) -> None:
        super().__init__(net, twice)
        self.step = MultiTaskStep([*self.listed, *net.heads.parameters()], self.optimizer, MGDA(), TASKS)

    def update(
        self,
        batch: Batch,
        tasks: Sequence[int] = range(TASKS),
        absent: int | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        step = self.step
        if len(tasks) < TASKS:
            parameters = [*self.listed, *(p for t in tasks for p in self.net.heads[t].parameters())]
            step = MultiTaskStep(parameters, self.optimizer, MGDA(), len(tasks))
        self.optimizer.zero_grad()
        step.backward(lambda: _scaled(self.net.losses(batch, tasks, absent)[0], scaler))
        self._applied(scaler)

    def _losses(self, batch: Batch) -> Given:
        return self.net.losses(batch, range(TASKS))[0]

    def update_from(self, batches: Sequence[Batch]) -> None:
        self.optimizer.zero_grad()
        for batch in batches[:-1]:
            self.step.accumulate(partial(self._losses, batch))
        self.step.backward(partial(self._losses, batches[-1]))
        self.optimizer.step()


class Theirs(Updater):
    """By torchjd's mtl_backward and jac_to_grad, its MGDA iterated to rounding; one row of the Jacobian at a
    time, its way for models that cannot be vectorised."""

    def _differentiate(self, losses: Given, features: Tensor, tasks: Sequence[int]) -> None:
        heads = [list(self.net.heads[t].parameters()) for t in tasks]
        torchjd().autojac.mtl_backward(
            losses, features=features, tasks_params=heads, shared_params=self.listed, parallel_chunk_size=1
        )

    def _combine(self) -> None:
        mgda: Any = aggregator(METHODS["MGDA"], tight=True)
        torchjd().autojac.jac_to_grad(self.listed, mgda)

    def update(
        self,
        batch: Batch,
        tasks: Sequence[int] = range(TASKS),
        absent: int | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.optimizer.zero_grad()
        losses, features = self.net.losses(batch, tasks, absent)
        self._differentiate(_scaled(losses, scaler), features, tasks)
        self._combine()
        self._applied(scaler)

    def update_from(self, batches: Sequence[Batch]) -> None:
        self.optimizer.zero_grad()
        for batch in batches:
            losses, features = self.net.losses(batch, range(TASKS))
            self._differentiate([None if v is None else v / len(batches) for v in losses], features, range(TASKS))
        self._combine()
        self.optimizer.step()
