"""One step ahead: the hypergradient of a loss's share, by one forward-mode tangent for all losses.

With v the weighted query gradient at the new parameters and u = J v the tangent of the support outputs at the old ones,
the chain rule through the outputs gives for the loss l of a task
    <v, grad l> = <u_logits, d l / d logits> + <u_features, d l / d features>,
the derivative of the outer objective, up to -eta/T times the task's weight, with respect to the loss's share. It is
taken as a central difference of l along u in float64: two evaluations, no graph, whatever the loss, to 1e-6 relative.

Losses differ in scale, so a contribution is reported per unit of gradient on the logits: the cosine between the loss's
gradient and u, less where few samples make up the gradient. A loss that works on features has its gradient there
converted by what the outer loss shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lossrag.checks import check_choice, check_least, check_share
from lossrag.lossbank.composing.evidence import Batch, Moment, TaskMoment, TaskSpec
from lossrag.lossbank.composing.shares import ShareState
from lossrag.lossbank.composing.tangents import PushForward
from lossrag.lossbank.library.batched import loss_values
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.library.inputs import LossInputs, joined_rows

STEP = 1e-6
"""Of the difference, relative to the outputs' own size over that of their tangent."""


@dataclass(frozen=True)
class OneStepOptions:
    """step: how far a contribution of typical size (root mean square over the task's losses) moves a score.
    smoothing: share of the running query gradient that a new one leaves in place.
    outer: losses contribute to the ``mean`` of the tasks' outer losses, or to their ``lambda``-weighted sum, as in the
        direction d_c of MetaWeighting. Lambda is sparse: where it is 0, the losses of that task are judged by what they
        do to other tasks through the shared parameters alone.
    decay: share by which scores are drawn together at each measurement. every: training steps between two measurements.
    review: measurements between two reviews, at which what harms is switched off.

    Raises OptionError for values out of range.
    """

    step: float = 0.15
    smoothing: float = 0.9
    outer: str = "mean"
    decay: float = 0.1
    every: int = 2
    review: int = 25

    def __post_init__(self) -> None:
        check_choice(self, "outer", ("mean", "lambda"))
        check_share(self, "smoothing", "decay")
        check_least(self, 0, "step")
        check_least(self, 1, "every", "review")

    def due(self, step: int) -> bool:
        """At the first step and then every so many.

        >>> [step for step in range(1, 7) if OneStepOptions(every=2).due(step)]
        [1, 3, 5]
        """
        return (step - 1) % self.every == 0

    def judges(self, loss: Loss, active: bool) -> bool:
        """All; those on pairs of samples, which cost much, while they are active."""
        return not loss.relational or active

    def read(self, state: ShareState, task: int, losses: list[int], contributions: Tensor) -> Tensor:
        """Beside each other only: see :meth:`ShareState.centred`."""
        return state.centred(task, losses, contributions)

    def moved(self, state: ShareState, task: int, losses: list[int], read: Tensor) -> ShareState:
        """Scores move by ``step`` in units of the typical contribution."""
        return state.observe(task, losses, read, self.step, self.decay)


class OneStep:
    """Evidence by the hypergradient of ``model``, whose outputs a :class:`Batch` gives.

    Layers without a forward derivative are differentiated in other ways, see :mod:`.tangents`.

    The direction v is a running mean of query gradients, up to a factor: a batch has too few rows to judge losses by,
    and the gradient on all of them moves slowly.
    """

    rows: int | None = None

    def __init__(self, model: nn.Module, options: OneStepOptions | None = None) -> None:
        self.model, self.options = model, options or OneStepOptions()
        self.follows = self.options.outer == "mean"
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.direction = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        self._old: dict[str, Tensor] = {}
        self._followed = False
        self._push_forward = PushForward()

    def begin(self, step: int) -> None:
        """Copies the parameters when ``step`` is due."""
        due = self.options.due(step)
        self._old = {name: p.detach().clone() for name, p in self.parameters.items()} if due else {}
        self._followed = False

    def follow(self, gradient: Sequence[Tensor | None]) -> None:
        """Adds the gradient of the outer objective, by parameter, to the running mean."""
        for held, new in zip(self.direction.values(), gradient, strict=True):
            held.mul_(self.options.smoothing)
            if new is not None:
                held.add_(new, alpha=1 - self.options.smoothing)
        self._followed = True

    def moment(self, tasks: Sequence[TaskSpec], support: Batch, query: Batch, lam: Tensor | None) -> Moment:
        """See :meth:`Evidence.moment`; ``support`` is the batch of the update. Where the query gradient of this step
        was followed, the query outputs need a graph down to the features alone; else it is computed from them."""
        logits, features = zip(*query.outputs(), strict=True)
        T = len(tasks)
        losses = torch.stack([query.outer_loss(t, task, logits[t], features[t]) for t, task in enumerate(tasks)])
        at = torch.autograd.grad(losses.sum(), [*logits, *features], retain_graph=True)
        if not self._followed:
            weights = lam if self.options.outer == "lambda" and lam is not None else torch.ones_like(losses)
            total = (losses * weights.to(losses.dtype)).sum()
            gradient = torch.autograd.grad(total, list(self.parameters.values()), allow_unused=True)
            self.follow([None if g is None else (g.to_dense() if g.is_sparse else g) for g in gradient])
        moved = self._push_forward(
            self.model, self._old, self.direction, lambda: [part for task in support.outputs() for part in task]
        )
        tangents, moments = [], []
        for t, task in enumerate(tasks):
            (z, u), (f, uf) = moved[2 * t], moved[2 * t + 1]
            tangents.append(Tangent(support.inputs(t, task, z, f), u, uf))
            ratio = (at[t].norm() / at[T + t].norm().clamp(min=1e-12)).detach()
            held_out = query.inputs(t, task, logits[t].detach(), features[t].detach())
            moments.append(TaskMoment(tangents[t].inputs, held_out, ratio))

        def measured(chosen: Sequence[Sequence[Loss]], sizes: Sequence[Tensor]) -> list[Tensor]:
            return [cosines(*own) for own in zip(tangents, joint_contributions(tangents, chosen), sizes, strict=True)]

        return Moment(moments, measured)

    def state_dict(self) -> dict[str, Tensor]:
        """The direction, by parameter."""
        return {f"direction/{name}": value for name, value in self.direction.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`."""
        for name, held in self.direction.items():
            held.copy_(state[f"direction/{name}"])


@dataclass(frozen=True)
class Tangent:
    """The support rows of one task, and how its outputs move along v: logits (B, K) and features (B, F)."""

    inputs: LossInputs
    logits: Tensor
    features: Tensor

    def present(self) -> Tangent:
        """The same, with zeros for rows without a label, none of which counts."""
        if self.inputs.labelled is True:
            return self
        missing = ~self.inputs.present_rows()[:, None]
        logits, features = (part.masked_fill(missing, 0) for part in (self.logits, self.features))
        assert self.inputs.features is not None
        z, f = (part.masked_fill(missing, 0) for part in (self.inputs.logits, self.inputs.features))
        return Tangent(replace(self.inputs, logits=z, features=f), logits, features)


def contributions(tangent: Tangent, losses: Sequence[Loss]) -> Tensor:
    """<v, grad of the mean of each loss> (L,), float64: positive where descending on the loss lowers the outer one."""
    (values,) = joint_contributions([tangent], [losses])
    return values


def joint_contributions(tangents: Sequence[Tangent], losses: Sequence[Sequence[Loss]]) -> list[Tensor]:
    """:func:`contributions` of several tasks; ``losses[t]`` are those of task t.

    What works row by row is computed for all tasks of one shape in one call: a small loss costs what launching its
    operations costs, however many rows it gets.
    """
    sides = [_sides(tangent.present()) for tangent in tangents]
    result = [side.h.new_empty(len(own)) for side, own in zip(sides, losses, strict=True)]
    by_row = [[i for i, loss in enumerate(own) if loss.row_by_row] for own in losses]
    alike: dict[tuple[int, bool], list[int]] = {}
    for t, side in enumerate(sides):
        alike.setdefault((side.inputs.logits.shape[1], side.inputs.targets.is_floating_point()), []).append(t)
    with torch.no_grad():
        for tasks in alike.values():
            union = list(dict.fromkeys(losses[t][i] for t in tasks for i in by_row[t]))
            if not union:
                continue
            place = {loss: i for i, loss in enumerate(union)}
            inputs = [sides[t].inputs for t in tasks]
            values = loss_values(union, joined_rows(inputs))
            for t, part in zip(tasks, torch.split(values, [len(i.logits) for i in inputs], dim=1), strict=True):
                result[t][by_row[t]] = _difference(part, sides[t])[[place[losses[t][i]] for i in by_row[t]]]
        for t, side in enumerate(sides):
            for relational, batches in ((False, [side.inputs]), (True, side.apart)):
                own = [i for i, loss in enumerate(losses[t]) if not loss.row_by_row and loss.relational == relational]
                if own:
                    parts = [loss_values([losses[t][i] for i in own], batch) for batch in batches]
                    result[t][own] = _difference(torch.cat(parts, dim=1), side)
            values = result[t] / (2 * side.h)
            result[t] = torch.where(side.moves, values, torch.zeros_like(values))
    return result


def _difference(values: Tensor, side: _Sides) -> Tensor:
    """Mean (L,) over the samples with a label of what values (L, 2 B) are ahead, less behind."""
    ahead, behind = values.chunk(2, dim=1)
    return (ahead - behind).sum(dim=1) / side.number


@dataclass(frozen=True)
class _Sides:
    """The outputs a step ``h`` ahead and one behind along their tangent, one after the other (2 B, ...), in float64.

    number: samples that have a label, 1 at least.
    """

    inputs: LossInputs
    h: Tensor
    moves: Tensor
    number: Tensor

    @property
    def apart(self) -> list[LossInputs]:
        """The two sides, for losses that look at other samples."""
        B = len(self.inputs.logits) // 2
        return [self.inputs.rows(0, B), self.inputs.rows(B, 2 * B)]


def _sides(tangent: Tangent) -> _Sides:
    inputs = tangent.inputs
    assert inputs.features is not None
    z, u = inputs.logits.double(), tangent.logits.double()
    f, uf = inputs.features.double(), tangent.features.double()
    size = torch.cat([z.flatten(), f.flatten()]).square().mean().sqrt().clamp(min=1e-3)
    speed = torch.cat([u.flatten(), uf.flatten()]).square().mean().sqrt()
    h = STEP * size / speed.clamp(min=torch.finfo(torch.float64).tiny)
    h = torch.where(speed > 0, h, torch.ones_like(h))
    targets = inputs.targets.double() if inputs.targets.is_floating_point() else inputs.targets
    features = torch.cat([f + h * uf, f - h * uf])
    ahead, behind = (replace(inputs, logits=logits, targets=targets) for logits in (z + h * u, z - h * u))
    both = replace(joined_rows([ahead, behind]), features=features, class_counts=inputs.class_counts)
    return _Sides(both, h, speed > 0, inputs.present_rows().sum().clamp(min=1))


def cosines(tangent: Tangent, products: Tensor, sizes: Tensor) -> Tensor:
    """:func:`contributions` (L,) per unit of :func:`gradient_sizes` and of tangent, in [-1, 1]: at most the cosine
    between gradient and tangent; 0 where there is no gradient."""
    reach = tangent.present().logits.double().norm() * sizes
    return torch.where(reach > 0, products / reach, torch.zeros_like(products)).clamp(-1, 1)
