"""Engine of a step: the passes and gradient rows for one list of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossrag.weighting.gradients.linear_layers import LinearTaps
from lossrag.weighting.gradients.mean import GradientSum
from lossrag.weighting.gradients.passes import Passes
from lossrag.weighting.gradients.rows import GradientRows
from lossrag.weighting.parallel.group import Group
from lossrag.weighting.parallel.rows import SlicedRows
from lossrag.weighting.training.closures import Value
from lossrag.weighting.training.optimizers import Optimizers
from lossrag.weighting.training.parameters import Given, positions
from lossrag.weighting.training.statistics import buffers_of


@dataclass(frozen=True, eq=False)
class Engine:
    """parameters: the first ``told`` are compared, all are trained. buffers: running statistics of the model, None
    where it is not known. names: of the parameters; buffer_names: of the buffers."""

    parameters: list[Tensor]
    told: int
    rows: GradientRows | SlicedRows
    passes: Passes
    query_sum: GradientSum
    buffers: list[Tensor] | None
    names: list[str]
    buffer_names: list[str]

    @staticmethod
    def of(
        parameters: list[Tensor],
        told: int,
        tasks: Sequence[str],
        optimizers: Optimizers,
        model: nn.Module | None,
        shared: Given | None,
        private: Given | None,
        group: Group | None = None,
    ) -> Engine:
        """An engine without gradients; those of a ``group`` are held in slices."""
        places = optimizers.places()
        sparse = frozenset(i for i, p in enumerate(parameters) if places[p][1].get("sparse", False))
        declared = positions(parameters, shared, "shared"), positions(parameters, private, "private")
        rows: GradientRows | SlicedRows
        if group is None:
            rows = GradientRows(parameters, len(tasks), sparse, told, *declared)
        else:
            rows = SlicedRows(parameters, len(tasks), group, told, *declared)
        # what is divided among processes is formed: they have no common input to keep factors of
        watched = nn.Module() if model is None or group else model
        passes = Passes(parameters, tasks, rows.restrict, LinearTaps(watched, parameters[:told]))
        buffers = None if model is None else buffers_of(model)
        known = {} if model is None else {id(p): name for name, p in model.named_parameters()}
        names = [known.get(id(p), f"{i} of shape {tuple(p.shape)}") for i, p in enumerate(parameters)]
        called = {} if model is None else {id(buffer): name for name, buffer in model.named_buffers()}
        buffer_names = [called[id(buffer)] for buffer in buffers or ()]
        query_sum = GradientSum(parameters, rows.table_rows)
        return Engine(parameters, told, rows, passes, query_sum, buffers, names, buffer_names)

    def fits(self, parameters: Sequence[Tensor], told: int) -> bool:
        """True for the very same parameters."""
        same = told == self.told and len(parameters) == len(self.parameters)
        return same and all(a is b for a, b in zip(parameters, self.parameters, strict=True))

    @property
    def dense_rows(self) -> GradientRows:
        """The rows of a process of its own, which holds them whole."""
        assert isinstance(self.rows, GradientRows)
        return self.rows

    @property
    def sliced_rows(self) -> SlicedRows:
        """The rows of a process that holds a slice of them."""
        assert isinstance(self.rows, SlicedRows)
        return self.rows

    def fresh_rows(self) -> GradientRows:
        """Rows that compare what those of the engine do, without sparse tables."""
        own = GradientRows(self.parameters, self.rows.tasks, told=self.told)
        own.scale = self.rows.scale
        return own

    @property
    def statistics(self) -> list[Tensor]:
        """Running statistics, as far as they are known: those of the model, or of the losses seen first."""
        return self.passes.buffers if self.buffers is None else self.buffers

    @property
    def named_statistics(self) -> dict[str, Tensor]:
        """The same by name."""
        names = self.buffer_names if self.buffers is not None else [f"number {i}" for i in range(len(self.statistics))]
        return dict(zip(names, self.statistics, strict=True))

    def names_by_id(self) -> dict[int, str]:
        """The names of the parameters, by ``id``."""
        return {id(parameter): name for parameter, name in zip(self.parameters, self.names, strict=True)}

    def scale(self, scale: float) -> None:
        """Multiply losses by this before they are differentiated."""
        self.passes.scale = self.rows.scale = scale

    def passes_over(self, tasks: Sequence[str], numbers: Sequence[int]) -> Passes:
        """The passes over the losses of some of the tasks alone."""
        if len(numbers) == len(tasks):
            return self.passes
        names = [tasks[number] for number in numbers]
        own = Passes(self.parameters, names, self.rows.restrict, self.passes.taps, numbers)
        own.scale = self.passes.scale
        return own

    def is_silent(self, loss: Value) -> bool:
        """True where the gradient of a loss is 0 or absent (reads the device); its graph stays."""
        if loss is None:
            return True
        gradients = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
        return not any(g is not None and bool(g.any()) for g in gradients)
