"""What every loss of the library would do to the outer objective: one tangent prices all of them.

With v the weighted query gradient at the new parameters and u = J v the tangent of the support outputs at the old ones,
the chain rule through the outputs gives for the loss l of a task
    <v, grad l> = <u_logits, d l / d logits> + <u_features, d l / d features>,
the derivative of the outer objective, up to -eta/T times the task's weight, with respect to the loss's share. It is
taken as a central difference of l along u in float64: two evaluations, no graph, whatever the loss, to 1e-6 relative.

Losses differ in scale, so a price is reported per unit of gradient on the logits: the cosine between the loss's
gradient and u, less where few samples make up the gradient. A loss that works on features has its gradient there
converted by what the reference loss shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from lossrag.lossbank.library.batched import Rows, loss_gradients, loss_values
from lossrag.lossbank.library.contract import Loss

STEP = 1e-6
"""Of the difference, relative to the outputs' own size over that of their tangent."""


@dataclass(frozen=True)
class Lens:
    """The outputs of one task on its support batch, and how they move along v.

    logits, logits_tangent (B, K); features, features_tangent (B, F); targets (B,) or (B, K).
    per_feature: size of a reference gradient on the logits over its size on the features, (), to convert scales.
    """

    logits: Tensor
    logits_tangent: Tensor
    features: Tensor
    features_tangent: Tensor
    targets: Tensor
    class_counts: Tensor | None
    per_feature: Tensor


def contributions(lens: Lens, losses: Sequence[Loss]) -> Tensor:
    """<v, grad of the mean of each loss> (L,), float64: positive where descending on the loss lowers the outer one."""
    (values,) = joint_contributions([lens], [losses])
    return values


def joint_contributions(lenses: Sequence[Lens], losses: Sequence[Sequence[Loss]]) -> list[Tensor]:
    """:func:`contributions` of several tasks; ``losses[t]`` are those of task t.

    What works row by row is computed for all tasks of one shape in one call: a small loss costs what launching its
    operations costs, however many rows it gets.
    """
    sides = [_sides(lens) for lens in lenses]
    result = [lens.logits.new_empty(len(losses[t]), dtype=torch.float64) for t, lens in enumerate(lenses)]
    with torch.no_grad():
        for tasks, union, places in _joined(lenses, losses):
            rows = Rows(torch.cat([sides[t].logits for t in tasks]), torch.cat([sides[t].targets for t in tasks]))
            parts = torch.split(loss_values(union, rows), [2 * len(lenses[t].logits) for t in tasks], dim=1)
            for t, part in zip(tasks, parts, strict=True):
                own, of_union = places[t]
                result[t][own] = _difference(part)[of_union]
        for t, side in enumerate(sides):
            own = [i for i, loss in enumerate(losses[t]) if not _row_by_row(loss)]
            if own:
                result[t][own] = _difference(side.values([losses[t][i] for i in own]))
            values = result[t] / (2 * side.h)
            result[t] = torch.where(side.moves, values, torch.zeros_like(values))
    return result


def _row_by_row(loss: Loss) -> bool:
    return not loss.relational and not loss.needs


Joined = tuple[list[int], list[Loss], dict[int, tuple[list[int], list[int]]]]
"""Tasks whose rows may be joined; the losses of all of them that work row by row; by task, which of its own losses
these are, and where each is among all."""


def _joined(lenses: Sequence[Lens], losses: Sequence[Sequence[Loss]]) -> Iterator[Joined]:
    alike: dict[tuple[int, bool, torch.dtype], list[int]] = {}
    for t, lens in enumerate(lenses):
        kind = (lens.logits.shape[1], lens.targets.is_floating_point(), lens.logits.dtype)
        alike.setdefault(kind, []).append(t)
    for tasks in alike.values():
        union = list(dict.fromkeys(loss for t in tasks for loss in losses[t] if _row_by_row(loss)))
        if not union:
            continue
        place = {loss.name: i for i, loss in enumerate(union)}
        places = {}
        for t in tasks:
            own = [i for i, loss in enumerate(losses[t]) if _row_by_row(loss)]
            places[t] = own, [place[losses[t][i].name] for i in own]
        yield tasks, union, places


def _difference(values: Tensor) -> Tensor:
    """Mean (L,) over the samples of what values (L, 2 B) are ahead, less behind."""
    ahead, behind = values.chunk(2, dim=1)
    return (ahead - behind).mean(dim=1)


@dataclass(frozen=True)
class _Sides:
    """The outputs a step ahead and a step behind along their tangent, one after the other, in float64."""

    logits: Tensor
    features: Tensor
    targets: Tensor
    class_counts: Tensor | None
    h: Tensor
    moves: Tensor

    def values(self, losses: Sequence[Loss]) -> Tensor:
        """Values (L, 2 B) on both sides."""
        whole = [i for i, loss in enumerate(losses) if not loss.relational]
        apart = [i for i, loss in enumerate(losses) if loss.relational]
        result = self.logits.new_empty(len(losses), len(self.logits))
        if whole:
            rows = Rows(self.logits, self.targets, self.features, self.class_counts)
            result[whole] = loss_values([losses[i] for i in whole], rows)
        if apart:
            halves = zip(self.logits.chunk(2), self.targets.chunk(2), self.features.chunk(2), strict=True)
            chosen = [losses[i] for i in apart]
            values = [loss_values(chosen, Rows(z, y, f, self.class_counts)) for z, y, f in halves]
            result[apart] = torch.cat(values, dim=1)
        return result


def _sides(lens: Lens) -> _Sides:
    z, u = lens.logits.double(), lens.logits_tangent.double()
    f, uf = lens.features.double(), lens.features_tangent.double()
    size = torch.cat([z.flatten(), f.flatten()]).square().mean().sqrt().clamp(min=1e-3)
    speed = torch.cat([u.flatten(), uf.flatten()]).square().mean().sqrt()
    h = STEP * size / speed.clamp(min=torch.finfo(torch.float64).tiny)
    h = torch.where(speed > 0, h, torch.ones_like(h))
    targets = lens.targets.double() if lens.targets.is_floating_point() else lens.targets
    counts = None if lens.class_counts is None else lens.class_counts.double()
    logits, features = torch.cat([z + h * u, z - h * u]), torch.cat([f + h * uf, f - h * uf])
    return _Sides(logits, features, torch.cat([targets, targets]), counts, h, speed > 0)


def gradient_sizes(lens: Lens, losses: Sequence[Loss]) -> tuple[Tensor, Tensor]:
    """How strongly each loss pulls at the samples it acts on (L,), float64, in units of a gradient on the logits.

    With g_i the gradient of the mean loss at sample i of B: sqrt(B) sum |g_i|^2 / sum |g_i|. That is the length of the
    gradient for a loss that pulls at all samples alike, and more for one that acts on few (a truncated loss, say):
    brought to the same length it would pull at these few beyond anything that a first-order price can speak of.

    And the share of the samples that each acts on (L,), (sum |g_i|)^2 / (B sum |g_i|^2), in [0, 1]; 0 without gradient.
    """
    (found,) = joint_gradient_sizes([lens], [losses])
    return found


def joint_gradient_sizes(lenses: Sequence[Lens], losses: Sequence[Sequence[Loss]]) -> list[tuple[Tensor, Tensor]]:
    """:func:`gradient_sizes` of several tasks; ``losses[t]`` are those of task t. As :func:`joint_contributions`,
    with one backward pass for all losses that work row by row."""
    pulls = [lens.logits.new_empty(len(losses[t]), len(lens.logits)) for t, lens in enumerate(lenses)]
    for tasks, union, places in _joined(lenses, losses):
        rows = Rows(torch.cat([lenses[t].logits for t in tasks]), torch.cat([lenses[t].targets for t in tasks]))
        found, _ = loss_gradients(union, rows)
        parts = torch.split(found.norm(dim=2), [len(lenses[t].logits) for t in tasks], dim=1)
        for t, part in zip(tasks, parts, strict=True):
            own, of_union = places[t]
            pulls[t][own] = part[of_union]
    for t, lens in enumerate(lenses):
        own = [i for i, loss in enumerate(losses[t]) if not _row_by_row(loss)]
        if own:
            rows = Rows(lens.logits, lens.targets, lens.features, lens.class_counts)
            on_logits, on_features = loss_gradients([losses[t][i] for i in own], rows)
            pull = on_logits.norm(dim=2)
            if on_features is not None:
                pull = torch.hypot(pull, on_features.norm(dim=2) * lens.per_feature)
            pulls[t][own] = pull.to(lens.logits.dtype)
    return [_strength(pull.double() / pull.shape[1]) for pull in pulls]


def _strength(pull: Tensor) -> tuple[Tensor, Tensor]:
    """Size and coverage (L,), from the lengths (L, B) of the gradients of the mean."""
    total, squares = pull.sum(dim=1), pull.square().sum(dim=1)
    sizes = torch.where(total > 0, squares / total, total) * pull.shape[1] ** 0.5
    return sizes, torch.where(squares > 0, total.square() / squares, total) / pull.shape[1]


def cosines(lens: Lens, prices: Tensor, sizes: Tensor) -> Tensor:
    """``prices`` (L,) per unit of :func:`gradient_sizes` and of tangent, in [-1, 1]: at most the cosine between
    gradient and tangent; 0 where there is no gradient."""
    reach = lens.logits_tangent.double().norm() * sizes
    return torch.where(reach > 0, prices / reach, torch.zeros_like(prices)).clamp(-1, 1)


class _Call(nn.Module):
    """A function that reads the model, as a module, which functional_call can lend other parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
        return function()


def push_forward(
    model: nn.Module,
    point: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    function: Callable[[], Sequence[Tensor]],
) -> list[tuple[Tensor, Tensor]]:
    """(value, tangent) of every tensor that ``function`` computes with ``model`` at the parameters ``point``.

    point, direction: by name of the parameter, those that move; the others of the model stay as they are.
    The tangent is J direction, with J the Jacobian of the value with respect to the parameters at ``point``; zeros
    where the value does not depend on them. No graph is built.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> at, along = {"weight": torch.ones(1, 2)}, {"weight": torch.tensor([[1.0, 2.0]])}
    >>> [(value, tangent)] = push_forward(layer, at, along, lambda: [layer(torch.tensor([[3.0, 4.0]]))])
    >>> value.item(), tangent.item()
    (7.0, 11.0)
    """
    with torch.no_grad(), forward_ad.dual_level():
        duals = {f"model.{name}": _dual(value, direction[name]) for name, value in point.items()}
        found = functional_call(_Call(model), duals, (function,))
        return [_parts(value) for value in found]


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    dual: Tensor = forward_ad.make_dual(value, tangent)  # type: ignore[no-untyped-call]
    return dual


def _parts(dual: Tensor) -> tuple[Tensor, Tensor]:
    value, tangent = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
    return value.clone(), torch.zeros_like(value) if tangent is None else tangent.clone()
