"""Look ahead: what each loss would make of a task's head in the long run, by heads trained ahead on fixed features.

The hypergradient of a share (lossbank/composing/one_step.py) looks one step ahead. Where the bias of that horizon
matters (Wu, Ren, Liao, Grosse, Understanding Short-Horizon Bias in Stochastic Meta-Optimization, ICLR 2018) it takes
the loss that moves fastest for the one that leads to the right place: one that corrects twice for rare classes, or one
that only shrinks the logits. So every loss gets a copy of the task's linear head, trains it for some steps on the
features of support rows as they are now, and is judged by what this head then knows of the query rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from lossrag.checks import check_least, check_positive, check_share, require
from lossrag.errors import ConfigError
from lossrag.lossbank.composing.evidence import Batch, Moment, TaskSpec, observed
from lossrag.lossbank.composing.shares import ShareState
from lossrag.lossbank.library.batched import named
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.library.inputs import wide
from lossrag.weighting.training.adam import adam_direction

RATE = 0.003
"""Of Adam, on standardised features."""


@dataclass(frozen=True)
class LookAheadOptions:
    """horizon: steps that the heads are trained ahead.
    unit: the contribution that changes the odds of a loss by a factor e.
    rows: support and query rows of a task that a look ahead sees.
    decay: share of the way to contribution / unit that a score goes at each measurement, in [0, 1).
    every: training steps between two measurements.
    review: measurements between two reviews, at which what harms is switched off.

    Raises OptionError for values out of range.
    """

    horizon: int = 20
    unit: float = 0.05
    rows: int = 512
    decay: float = 0.3
    every: int = 32
    review: int = 1

    def __post_init__(self) -> None:
        require(
            self.horizon > 1, self, "{horizon} must be 2 or more: one step of all parameters is the other evidence."
        )
        check_least(self, 1, "rows", "every", "review")
        check_positive(self, "unit")
        check_share(self, "decay")

    def due(self, step: int) -> bool:
        """At steps 1, 4, 8, 16 ... and then every so many: a look ahead changes the losses much at the start of a run
        and little later.

        >>> [step for step in range(1, 70) if LookAheadOptions(every=32).due(step)]
        [1, 4, 8, 16, 32, 64]
        """
        early = step < self.every and step & (step - 1) == 0 and step != 2
        return early or step % self.every == 0

    def judges(self, loss: Loss, active: bool) -> bool:
        """Those on pairs of samples have nothing to say to a head."""
        return not loss.relational

    def read(self, state: ShareState, task: int, losses: list[int], contributions: Tensor) -> Tensor:
        """As they are, where they are :meth:`ShareState.worth` anything."""
        return contributions * state.worth(task, losses)

    def moved(self, state: ShareState, task: int, losses: list[int], read: Tensor) -> ShareState:
        """Scores move towards contribution / unit."""
        return state.observe(task, losses, read, self.decay, self.decay, self.unit)


class LookAhead:
    """Evidence by copies of the tasks' linear ``heads``, trained ahead on the features that ``model`` gives.

    by_class: heads of classifications are judged by the mean over the classes of the query rows, not over the rows.
    """

    follows = False

    def __init__(
        self,
        model: nn.Module,
        heads: Sequence[nn.Linear],
        options: LookAheadOptions | None = None,
        by_class: bool = False,
    ) -> None:
        self.model, self.heads, self.by_class = model, heads, by_class
        self.options = options or LookAheadOptions()
        self.rows: int | None = self.options.rows

    def begin(self, step: int) -> None:
        """Needs nothing of the step."""

    def follow(self, gradient: Sequence[Tensor | None]) -> None:
        """Needs no gradient."""

    def moment(self, tasks: Sequence[TaskSpec], support: Batch, query: Batch, lam: Tensor | None) -> Moment:
        """See :meth:`Evidence.moment`; the model runs in evaluation mode."""
        moments = observed(self.model, tasks, support, query)
        looked = torch.stack([seen.present for seen in moments]).nonzero().flatten().tolist()
        views = []
        for t in looked:
            task, seen = tasks[t], moments[t]
            assert seen.query is not None
            fits, held_out = seen.support.present(), seen.query.features
            assert fits.features is not None
            assert held_out is not None
            known = seen.query.present_rows()
            held_out = wide(held_out).masked_fill(~known[:, None], 0)
            weight, bias = (wide(part.detach()) for part in (self.heads[t].weight, self.heads[t].bias))
            leaf = wide(seen.query.logits).clone().requires_grad_()
            with torch.enable_grad():
                loss = query.outer_loss(t, task, leaf, held_out)
            (at,) = torch.autograd.grad(loss, leaf)
            moments[t] = replace(seen, per_feature=at.norm() / (at @ weight).norm().clamp(min=1e-12))
            views.append(
                HeadView(
                    *(weight, bias, wide(fits.features), fits.targets, held_out),
                    self._judge(t, task, query, held_out, known),
                    task.class_counts,
                )
            )

        def measured(chosen: Sequence[Sequence[Loss]], sizes: Sequence[Tensor]) -> list[Tensor]:
            outer = look_ahead(views, [chosen[t] for t in looked], self.options.horizon)
            found = [size.new_zeros(len(size)) for size in sizes]
            for t, view, lost in zip(looked, views, outer, strict=True):
                place = [loss.name for loss in chosen[t]].index(tasks[t].reference)
                saved = savings(view, lost, place)
                found[t] = torch.where(lost.isinf(), torch.full_like(saved, float("nan")), saved)
            return found

        return Moment(moments, measured)

    def _judge(
        self, t: int, task: TaskSpec, query: Batch, features: Tensor, known: Tensor
    ) -> Callable[[Tensor], Tensor]:
        if task.target_kind != "classification":
            return lambda logits: torch.stack([query.outer_loss(t, task, head, features) for head in logits])
        targets = query.targets[t].masked_fill(~known, 0)
        weights = known.double() / known.sum()
        if self.by_class:
            counts = torch.bincount(targets, weights=known.double())
            weights = known / counts.clamp(min=1)[targets] / (counts > 0).sum()
        return partial(calibrated, targets=targets, weights=weights)

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing: it looks afresh each time."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Has nothing to load."""


@dataclass(frozen=True)
class HeadView:
    """A task's linear head, weight (K, F) and bias (K,), and the rows that copies of it are trained and judged on.

    features (R, F), targets (R,) or (R, K) of support rows, all with a label; query_features (Q, F).
    judge: what logits (n, Q, K) for the query rows lose (n,), the less the better; see :func:`calibrated`.
    """

    weight: Tensor
    bias: Tensor
    features: Tensor
    targets: Tensor
    query_features: Tensor
    judge: Callable[[Tensor], Tensor]
    class_counts: Tensor | None = None


def calibrated(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy (n,) of n heads' logits (n, Q, K) with targets (Q,) and weights (Q,), each head at the temperature
    that suits it best (Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML 2017).

    log K minus it is what a head knows of the query labels. How sure a head is of itself, which is what losses differ
    in most, does not count.
    """
    z = logits.double()
    own = (z.gather(2, targets.expand(len(z), -1)[:, :, None])[:, :, 0] * weights).sum(dim=1)
    low, high = z.new_full((len(z),), -20.0), z.new_full((len(z),), 5.0)
    for _ in range(32):  # the slope in the inverse temperature b rises with b
        middle = (low + high) / 2
        p = (z * middle.exp()[:, None, None]).softmax(dim=2)
        rises = ((p * z).sum(dim=2) * weights).sum(dim=1) > own
        low, high = torch.where(rises, low, middle), torch.where(rises, middle, high)
    z = z * high.exp()[:, None, None]
    return ((z.logsumexp(dim=2) - z.gather(2, targets.expand(len(z), -1)[:, :, None])[:, :, 0]) * weights).sum(dim=1)


def savings(view: HeadView, lost: Tensor, reference: int) -> Tensor:
    """Contributions (L,) in [-1, 1], float64, from what heads ``lost`` (L,): how much less than the ``reference``-th of
    them, as a share of what the best of them saves beside a head that says nothing (logits 0). 0 where not a number.
    """
    silent = view.weight.new_zeros(1, len(view.query_features), len(view.bias))
    known = torch.where(lost.isfinite(), lost, torch.full_like(lost, float("inf")))
    saved = (known[reference] - known) / (view.judge(silent).double()[0] - known.min()).clamp(min=1e-12)
    return torch.where(lost.isnan(), torch.zeros_like(saved), saved.nan_to_num(nan=0.0).clamp(-1, 1))


def look_ahead(
    views: Sequence[HeadView], losses: Sequence[Sequence[Loss]], steps: int, rate: float = RATE
) -> list[Tensor]:
    """Outer loss (L_t,), float64, of every task's head after ``steps`` with each of ``losses[t]``; not a number where
    a loss has nothing to say to the head (it works on features, or on pairs of samples), infinite where the loss's
    gradient, or what became of the head, is no finite number.

    All heads take their steps side by side: Adam on features brought to mean 0 and spread 1, the second half of the
    iterates averaged. Raises ConfigError for less than one step.
    """
    if steps < 1:
        raise ConfigError(f"A look ahead takes one step or more, got {steps}.")
    runs = [_Run(view, own, rate) for view, own in zip(views, losses, strict=True)]
    if not runs:
        return []
    for step in range(1, steps + 1):
        logits = [run.logits().requires_grad_() for run in runs]
        total = _total(runs, logits)
        with named([loss for own in losses for loss in own]):
            gradients = torch.autograd.grad(total, logits)
        for run, gradient in zip(runs, gradients, strict=True):
            run.step(gradient, step, averaged=2 * step > steps)
    return [run.judged() for run in runs]


def _total(runs: Sequence[_Run], logits: Sequence[Tensor]) -> Tensor:
    """The sum over heads of each one's mean loss. A loss that works row by row sees the rows of all tasks at once."""
    total = logits[0].new_zeros(())
    places: dict[tuple[Loss, int, bool, tuple[int, int] | None], list[tuple[int, int]]] = {}
    for r, run in enumerate(runs):
        for place, loss in enumerate(run.losses):
            if not loss.relational:
                alone = None if loss.row_by_row else (r, place)
                alike = (loss, logits[r].shape[2], run.view.targets.is_floating_point(), alone)
                places.setdefault(alike, []).append((r, place))
    for (loss, *_), where in places.items():
        rows = torch.cat([logits[r][place] for r, place in where])
        views = [runs[r].view for r, _ in where]
        targets = torch.cat([view.targets for view in views])
        own = {"features": views[0].features, "class_counts": views[0].class_counts}
        with named([loss]):
            values = loss(rows, targets, **own, labelled=True)
        weights = torch.cat([values.new_full((len(view.targets),), 1 / len(view.targets)) for view in views])
        total = total + (values * weights).sum()
    return total


class _Run:
    """The heads of one task, one per loss, in the middle of their training."""

    def __init__(self, view: HeadView, losses: Sequence[Loss], rate: float) -> None:
        self.view, self.losses, self.rate = view, losses, rate
        self.mean = view.features.mean(dim=0)
        self.spread = view.features.std(dim=0, unbiased=False).clamp(min=1e-3)
        self.inputs = (view.features - self.mean) / self.spread
        n = len(losses)
        weight, bias = view.weight * self.spread, view.bias + view.weight @ self.mean
        self.heads = [weight.expand(n, -1, -1).clone(), bias.expand(n, -1).clone()]
        self.moments = [(torch.zeros_like(parameter), torch.zeros_like(parameter)) for parameter in self.heads]
        self.sums = [torch.zeros_like(parameter) for parameter in self.heads]
        self.averaged = 0
        self.moved = torch.zeros(n, dtype=torch.bool, device=view.weight.device)
        self.lost = self.moved.clone()

    def logits(self) -> Tensor:
        """(L, R, K)."""
        return self._of(self.inputs, *self.heads)

    @staticmethod
    def _of(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        n, K, F = weight.shape
        flat = inputs @ weight.reshape(n * K, F).T
        return flat.view(len(inputs), n, K).transpose(0, 1) + bias[:, None]

    def step(self, gradient: Tensor, count: int, averaged: bool) -> None:
        n, R, K = gradient.shape
        at_weight = (gradient.transpose(1, 2).reshape(n * K, R) @ self.inputs).view(n, K, -1)
        gradients = (at_weight, gradient.sum(dim=1))
        largest = gradient.flatten(1).abs().amax(dim=1)
        self.moved |= largest > 0
        self.lost |= ~largest.isfinite()
        for parameter, g, (first, second) in zip(self.heads, gradients, self.moments, strict=True):
            first.lerp_(g, 0.1)
            second.lerp_(g.square(), 0.01)
            parameter.sub_(adam_direction(first, second, (0.9, 0.99), count, 1e-12), alpha=self.rate)
        if averaged:
            self.averaged += 1
            for total, parameter in zip(self.sums, self.heads, strict=True):
                total.add_(parameter)

    def judged(self) -> Tensor:
        inputs = (self.view.query_features - self.mean) / self.spread
        logits = self._of(inputs, *(total / self.averaged for total in self.sums))
        with torch.no_grad():
            lost = self.view.judge(logits).double()
        judged = torch.where(self.moved, lost, torch.full_like(lost, float("nan")))
        return judged.masked_fill(self.lost | (self.moved & ~lost.isfinite()), float("inf"))
