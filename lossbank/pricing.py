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

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lossbank.contract import Loss

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
    found: list[dict[str, Tensor]] = [{} for _ in lenses]
    alike: dict[tuple[int, bool], list[int]] = {}
    for t, lens in enumerate(lenses):
        alike.setdefault((lens.logits.shape[1], lens.targets.is_floating_point()), []).append(t)
    with torch.no_grad():
        for tasks in alike.values():
            lengths = [len(lenses[t].logits) for t in tasks]
            joined = torch.cat([sides[t].logits for t in tasks])  # (both sides of every task, K)
            targets = torch.cat([sides[t].targets for t in tasks])
            row_by_row = {loss: None for t in tasks for loss in losses[t] if not loss.relational and not loss.needs}
            for loss in row_by_row:
                parts = torch.split(loss(joined, targets), [2 * n for n in lengths])
                for t, part in zip(tasks, parts, strict=True):
                    found[t][loss.name] = _difference(part)
            for t in tasks:
                for loss in losses[t]:
                    if loss not in row_by_row:
                        found[t][loss.name] = _difference(sides[t].loss(loss))
    result = []
    for t, side in enumerate(sides):
        values = torch.stack([found[t][loss.name] for loss in losses[t]]) / (2 * side.h)
        result.append(torch.where(side.moves, values, torch.zeros_like(values)))
    return result


def _difference(values: Tensor) -> Tensor:
    ahead, behind = values.chunk(2)
    return (ahead - behind).mean()


@dataclass(frozen=True)
class _Sides:
    """The outputs a step ahead and a step behind along their tangent, one after the other, in float64."""

    logits: Tensor
    features: Tensor
    targets: Tensor
    class_counts: Tensor | None
    h: Tensor
    moves: Tensor

    def loss(self, loss: Loss) -> Tensor:
        """Its values (2 B,) on both sides."""
        if not loss.relational:
            return loss(self.logits, self.targets, features=self.features, class_counts=self.class_counts)
        halves = zip(self.logits.chunk(2), self.targets.chunk(2), self.features.chunk(2), strict=True)
        return torch.cat([loss(z, y, features=f, class_counts=self.class_counts) for z, y, f in halves])


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
    sizes, coverage = [], []
    for loss in losses:
        z = lens.logits.detach().clone().requires_grad_()
        f = lens.features.detach().clone().requires_grad_()
        with torch.enable_grad():
            value = loss(z, lens.targets, features=f, class_counts=lens.class_counts).mean()
        gz, gf = torch.autograd.grad(value, (z, f), allow_unused=True)
        on_logits = z.new_zeros(len(z)) if gz is None else gz.flatten(1).norm(dim=1)
        on_features = z.new_zeros(len(z)) if gf is None else gf.norm(dim=1) * lens.per_feature
        pull = torch.hypot(on_logits, on_features).double()
        total, squares = pull.sum(), pull.square().sum()
        sizes.append(torch.where(total > 0, squares / total, total) * len(pull) ** 0.5)
        coverage.append(torch.where(squares > 0, total.square() / squares, total) / len(pull))
    return torch.stack(sizes), torch.stack(coverage)


def cosines(lens: Lens, prices: Tensor, sizes: Tensor) -> Tensor:
    """``prices`` (L,) per unit of :func:`gradient_sizes` and of tangent, in [-1, 1]: at most the cosine between
    gradient and tangent; 0 where there is no gradient."""
    reach = lens.logits_tangent.double().norm() * sizes
    return torch.where(reach > 0, prices / reach, torch.zeros_like(prices)).clamp(-1, 1)
