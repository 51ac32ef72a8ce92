"""Support side of a step that several processes take together; with no group it is that of one process.

What a process meets in its own losses, an error or a value that is no number, is told to the others before any of them
acts on it: no process raises alone while others wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from lossrag.errors import ConfigError, GroupError
from lossrag.weighting.base import HypergradientSpec, Weighting
from lossrag.weighting.gradients.engine import Engine
from lossrag.weighting.gradients.features import Representation
from lossrag.weighting.gradients.inner_update import inner_factors
from lossrag.weighting.gradients.passes import Passes
from lossrag.weighting.parallel.digest import of_tensors, of_text
from lossrag.weighting.parallel.exchange import Exchange
from lossrag.weighting.parallel.group import Group
from lossrag.weighting.parallel.randomness import drawing_alike
from lossrag.weighting.parallel.tally import Rows, Tally, rows_of
from lossrag.weighting.state.saved import ABOUT, saved_state
from lossrag.weighting.training.closures import Ordered, TaskGroup, Value
from lossrag.weighting.training.optimizers import Optimizers
from lossrag.weighting.update.judge import OVERFLOW, Judge
from lossrag.weighting.update.support import Gathered, Inputs, SupportSide

Found = TypeVar("Found")
Mean = Callable[[Sequence[int]], tuple[Tensor, ...]]
"""The mean over some tasks of their gradients, per parameter and in its shape."""


class GroupSide(SupportSide):
    """The support side, and the inner products of the query side, of the steps of one process of a ``group``."""

    optimizers: Optimizers
    outer: tuple[int, ...]

    def __init__(
        self, weighting: Weighting, tasks: tuple[str, ...], engine: Engine, memory: str, group: Group | None
    ) -> None:
        super().__init__(weighting, tasks, engine, memory)
        self.group = group
        self._tally = Tally(len(tasks), len(engine.parameters))

    def compare(self) -> None:
        """Raise GroupError where the processes differ, now and then."""
        group = self.group
        if group is None or not group.check_every or self.count % group.check_every:
            return
        about = saved_state(self.weighting, self.tasks, {}, 0)[ABOUT]
        shapes = str([tuple(parameter.shape) for parameter in self.parameters])
        alike = "give all processes the same tasks, method, options and model"
        group.compare({"method": of_tensors([about]), "parameters' shapes": of_text(shapes)}, alike)
        hint = "make all models with the same seed, or broadcast them, and load the same checkpoint"
        if self.count:
            hint = "something beside the step changed them there, such as a gradient that was added and not summed"
        held = {"parameters": of_tensors(self.parameters), "task weights": of_tensors(self.state.values())}
        group.compare({**held, "number of steps": self.count}, hint)

    def _settled(
        self, support: Ordered, inputs: Inputs, judge: Judge
    ) -> tuple[list[Value], tuple[int, ...], Representation | None]:
        group = self.group
        if group is None:
            return super()._settled(support, inputs, judge)
        self.add_shared(group, support, inputs)
        passes, rows = self.engine.passes, self.engine.sliced_rows
        joined = self._tally.joined(group, passes.scale, self.parameters[0])
        self.engine.scale(joined.scale)
        # before anything is raised: whose gradient is not finite
        rows.settle([t for t, value in enumerate(joined.values) if value is not None], joined)
        return joined.values, judge.present(joined.values, _never), None

    def add_shared(self, group: Group, support: Ordered, inputs: Inputs) -> None:
        """Add this process's share of a batch, or of a micro-batch, to what is held."""
        counts = rows_of(inputs.rows, group, self.tasks, "support")
        if not self.micro.any:
            self.engine.rows.clear()
            self._tally = Tally(len(self.tasks), len(self.parameters))
        exchange = self.engine.sliced_rows.exchange(counts)
        values = self._passed(group, self.engine.passes, support, exchange, "its support losses")
        self._tally.add(values, counts, exchange.peaks, exchange.touched)
        self.micro.add([None] * len(self.tasks))

    def _passed(self, group: Group, passes: Passes, losses: Ordered, exchange: Exchange, where: str) -> list[Value]:
        """The losses of this process (T,), after all rounds of the exchange of their gradients."""

        def run() -> list[Value]:
            values = passes.gradients(self._own(group, losses, passes), exchange.write, tapped=False)
            self._check_statistics()
            return values

        return _together(group, run, exchange.close, where)

    def _own(self, group: Group, losses: Ordered, passes: Passes) -> Ordered:
        """The losses that this process computes."""
        if group.split == "rows":
            return losses
        if callable(losses):
            raise ConfigError(
                "MultiTaskStep: tasks are divided among processes where each has a function of its own: give a list or "
                "a dict of them, or divide rows, Group(split='rows')."
            )
        mine = set(group.own(len(self.tasks))[group.rank])
        kept: list[Callable[[], Value] | TaskGroup] = []
        numbers = iter(passes.numbers)
        for entry in losses:
            tasks = [next(numbers) for _ in (entry.tasks if isinstance(entry, TaskGroup) else [0])]
            if 0 < len(mine & set(tasks)) < len(tasks):
                raise ConfigError(
                    f"MultiTaskStep: process {group.rank} computes the tasks {sorted(mine)}, which a TaskGroup of "
                    f"{tasks} crosses: make groups of the tasks in Group.own(T), or divide rows."
                )
            kept += [entry] if mine.issuperset(tasks) else [_nothing] * len(tasks)
        return kept

    def _check_statistics(self) -> None:
        if self.engine.buffers is None and self.engine.passes.buffers:
            raise ConfigError(
                "MultiTaskStep: the running statistics of a normalisation are to be the same in all processes, so the "
                "step must know them: give it the model, as parameters or as model=."
            )

    def share_statistics(self) -> None:
        """Make running statistics the mean of those that the processes have."""
        if self.group is None:
            return
        moving = [buffer for buffer in self.engine.buffers or () if buffer.is_floating_point()]
        if moving:
            flat = torch.cat([buffer.flatten().float() for buffer in moving])
            mean = self.group.gather(flat).mean(0)
            for buffer, part in zip(moving, torch.split(mean, [b.numel() for b in moving]), strict=True):
                buffer.copy_(part.view_as(buffer))

    def _update_joint(self, support: Ordered, inputs: Inputs, judge: Judge) -> Gathered:
        group = self.group
        if group is None:
            return super()._update_joint(support, inputs, judge)
        engine, passes, slices = self.engine, self.engine.passes, self.engine.sliced_rows.slices
        counts = rows_of(inputs.rows, group, self.tasks, "support")

        def run() -> tuple[list[Value], Tensor]:
            values = passes.values(self._own(group, support, passes))
            self._check_statistics()
            unknown = [value is not None and bool(value.isnan()) for value in values]
            silent = [nan and engine.is_silent(value) for nan, value in zip(unknown, values, strict=True)]
            return values, torch.tensor([float(not quiet) for quiet in silent])

        values, peaks = _together(group, run, _nothing, "its support losses")
        tally = Tally(len(self.tasks), len(self.parameters))
        tally.add(values, counts, peaks.to(slices.like), tally.touched)
        joined = tally.joined(group, passes.scale, self.parameters[0])
        engine.scale(joined.scale)
        present = judge.present(joined.values, _never)
        told = self._told(joined.values)
        weights = self.task_weights if judge.overflowed else self._weigh(told, inputs, present, judge)
        parts = [
            value * (weights[task] * joined.share[task] / len(present)).to(value.dtype)
            for task in present
            if (value := values[task]) is not None and joined.share[task]
        ]
        gradients: Sequence[Value] = [None] * len(self.parameters)
        if parts:
            total = torch.stack(parts).sum() * passes.scale
            gradients = torch.autograd.grad(total, self.parameters, allow_unused=True)
        held = [(position, gradient) for position, gradient in enumerate(gradients) if gradient is not None]
        touched = torch.zeros(len(self.parameters), dtype=torch.uint8, device=group.device)
        touched[[position for position, _ in held]] = 1
        reached = group.gather(touched).amax(0).tolist()
        for parameter, gradient, there in zip(self.parameters, slices.total(slices.flat(held)), reached, strict=True):
            parameter.grad = gradient.clone() if there else None
        return Gathered(told, weights, present, OVERFLOW if judge.overflowed else None)

    def _scores(self, inputs: Inputs) -> Tensor | None:
        """The scores of the tasks, means over the rows of all processes."""
        own = super()._scores(inputs)
        if own is None or self.group is None:
            return own
        mine = self.group.own(len(self.tasks))[self.group.rank]
        rows = rows_of(inputs.rows, self.group, self.tasks, "support")
        counts = own.new_tensor([count if task in mine else 0.0 for task, count in enumerate(rows)])
        every = self.group.gather(torch.stack([torch.where(counts > 0, own, 0.0) * counts, counts])).sum(0)
        return every[0] / every[1].clamp(min=torch.finfo(own.dtype).tiny)

    def _weigh(
        self,
        losses: Tensor,
        inputs: Inputs,
        present: tuple[int, ...],
        judge: Judge,
        gramian: Tensor | None = None,
        representation: Representation | None = None,
    ) -> Tensor:
        with drawing_alike(self.group, self.parameters):
            return super()._weigh(losses, inputs, present, judge, gramian, representation)

    def query_counts(self, given: Rows | None) -> list[float]:
        """The query rows (T,) of this process; none where it is alone."""
        if self.group is None:
            return []
        rows = rows_of(given, self.group, [self.tasks[task] for task in self.outer], "query")
        told = dict(zip(self.outer, rows, strict=True))
        return [told.get(task, 0.0) for task in range(len(self.tasks))]

    def shared_hypergradient(
        self, group: Group, query: Ordered, counts: Sequence[float], spec: HypergradientSpec, passes: Passes, keep: bool
    ) -> tuple[list[Value], Tensor, Mean | None]:
        """Query losses of the outer tasks, the products (T, T) of their gradients with the rows, which D is -1/T times
        of, and the mean of these gradients where it is to be kept, for T d / R numbers more."""
        rows = self.engine.sliced_rows
        factor = rows.slices.factor(inner_factors(self.optimizers, self.parameters, spec))
        products = torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64, device=self.parameters[0].device)
        kept = rows.slices.like.new_zeros(len(self.tasks), rows.slices.n) if keep else None

        def arrived(task: int, piece: Tensor) -> None:
            products[task] = rows.products(piece[None], spec.parameters == "shared", factor)[0]
            if kept is not None:
                kept[task] = piece

        own = [[task for task in tasks if task in passes.numbers] for tasks in group.own(len(self.tasks))]
        exchange = Exchange(rows.slices, own, counts, arrived)
        found = dict(zip(passes.numbers, self._passed(group, passes, query, exchange, "its query losses"), strict=True))
        tally = Tally(len(self.tasks), len(self.parameters))
        tally.add([found.get(task) for task in range(len(self.tasks))], counts, exchange.peaks, exchange.touched)
        joined = tally.joined(group, passes.scale, self.parameters[0])
        share = products.new_tensor([1 / count if count else 0.0 for count in joined.counts])
        told = rows.told(products * (share / rows.scale / joined.scale)[:, None])

        def mean(there: Sequence[int]) -> tuple[Tensor, ...]:
            assert kept is not None
            wanted = (share / joined.scale / max(len(there), 1)).to(kept.dtype)
            return tuple(rows.slices.joined(wanted[list(there)] @ kept[list(there)]))

        return [joined.values[task] for task in passes.numbers], told, mean if keep else None


def _together(group: Group, run: Callable[[], Found], close: Callable[[], None], where: str) -> Found:
    """What ``run`` returns, where no process has met an error; ``close`` is called in any case."""
    failed: Exception | None = None
    try:
        found = run()
    except GroupError:
        raise
    except Exception as error:
        failed = error
    close()
    group.agree(failed, where)
    return found


def _never(task: int) -> bool:
    """Absent tasks are known by then."""
    return False


def _nothing() -> None:
    """The loss of a task that another process computes."""
