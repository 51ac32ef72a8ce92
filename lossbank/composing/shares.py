"""Shares: what every task's loss is composed of, how much of each loss, and what is known of them.

    L_t = sum_k c[t, k] * (size of the reference's gradient / size of k's gradient) * l_k,  c[t] = softmax(b[t] + a[t])
Retrieval sets the priors b. Evidence moves the scores a[t, k] by what loss k contributes: with the hypergradient of c,
per unit of gradient, that is mirror descent on the simplex. A single candidate that is the reference has c = 1 and
scale 1: nothing but itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

MEMORY = 0.9
"""Share of the running estimates that a new value leaves in place."""
LEAST_COVERAGE = 0.5
"""Share of the samples that the reference acts on, which a loss has to act on for its contribution to count."""
LARGEST_SCALE = 10.0
"""Of a loss, to bring its gradient to the size of the reference's."""


@dataclass(frozen=True)
class ShareState:
    """The state of T tasks over L losses; every tensor (T, L), ``sizes`` and estimates in float64.

    prior: b. scores: a. active: bool, whether the loss is part of the task's mixture.
    sizes: running size of the loss's gradient, 0 where never measured. reference: (T,) that of the task's reference.
    coverage: running share of the samples that it acts on, as a share of what the reference acts on.
    mean, square: running mean of the contribution and of its square. count: how often it was measured.
    off_until: reviews before which a switched-off loss stays off.
    """

    prior: Tensor
    scores: Tensor
    active: Tensor
    sizes: Tensor
    reference: Tensor
    coverage: Tensor
    mean: Tensor
    square: Tensor
    count: Tensor
    off_until: Tensor

    @classmethod
    def start(cls, active: Tensor) -> ShareState:
        """Equal shares of the ``active`` (T, L) losses, nothing known."""
        zeros = torch.zeros(active.shape, dtype=torch.float64, device=active.device)
        whole = torch.zeros(active.shape, dtype=torch.int64, device=active.device)
        return cls(zeros, zeros, active.clone(), zeros, zeros[:, 0], zeros, zeros, zeros, whole, whole)

    @property
    def shares(self) -> Tensor:
        """c (T, L): adds up to 1 over the active losses of a task, 0 elsewhere."""
        hidden = (self.prior + self.scores).masked_fill(~self.active, float("-inf"))
        return torch.softmax(hidden, dim=1).nan_to_num(0.0)

    def listed(self, task: int) -> list[int]:
        """The active losses of a task, ascending."""
        return self.active[task].nonzero().flatten().tolist()

    def switched(self, task: int, loss: int, active: bool) -> ShareState:
        """With a loss of a task switched on or off."""
        table = self.active.clone()
        table[task, loss] = active
        return replace(self, active=table)

    def removed(self, task: int, loss: int) -> ShareState:
        """Without a loss in a task's mixture, and without any review of it."""
        off = self.off_until.clone()
        off[task, loss] = 0
        return replace(self.switched(task, loss, False), off_until=off)

    def composed(self, task: int, shares: Mapping[int, float]) -> ShareState:
        """With these losses in a task's mixture and no other, at these shares as far as evidence says nothing."""
        active, prior, off = self.active.clone(), self.prior.clone(), self.off_until.clone()
        active[task], prior[task], off[task] = False, 0, 0
        active[task, list(shares)] = True
        prior[task, list(shares)] = prior.new_tensor(list(shares.values())).log()
        return replace(self, active=active, prior=prior, off_until=off)

    def coefficients(self, reference: list[int]) -> Tensor:
        """Factor of each loss (T, L): its share at the gradient size of the ``reference[t]``-th loss.

        Losses whose size was not measured yet enter as they are. One with hardly a gradient (a truncated loss early in
        training, say) is not blown up beyond LARGEST_SCALE.
        """
        known = (self.sizes > 0) & (self.reference > 0)[:, None]
        scale = torch.where(known, self.reference[:, None] / self.sizes.clamp(min=1e-12), torch.ones_like(self.sizes))
        scale[torch.arange(len(reference)), reference] = 1.0
        return self.shares * scale.clamp(max=LARGEST_SCALE)

    def observe_sizes(
        self,
        task: int,
        losses: list[int],
        sizes: Tensor,
        reference: Tensor,
        coverage: Tensor,
        memory: float = MEMORY,
    ) -> ShareState:
        """With the measured gradient sizes (n,) of some losses of a task and that of its reference (), and the share of
        the samples (n,) that each acts on, beside what the reference acts on; ``memory`` is the share of the running
        values that stays."""
        table, row, covered = self.sizes.clone(), self.reference.clone(), self.coverage.clone()
        table[task, losses] = _running(self.sizes[task, losses], sizes, memory)
        row[task] = _running(self.reference[task], reference, memory)
        covered[task, losses] = _running(self.coverage[task, losses], coverage, memory)
        return replace(self, sizes=table, reference=row, coverage=covered)

    def worth(self, task: int, losses: list[int]) -> Tensor:
        """1 for losses (n,) whose contributions count, 0 for those with so small a gradient that it is not worth its
        direction, and for those that act on so few samples that what they learn from is what they believe already: one
        step ahead that always looks good."""
        enough = self.sizes[task, losses] * LARGEST_SCALE >= self.reference[task]
        unknown = self.sizes[task, losses] == 0
        return (enough & (unknown | (self.coverage[task, losses] >= LEAST_COVERAGE))).double()

    def centred(self, task: int, losses: list[int], contributions: Tensor) -> Tensor:
        """``contributions`` (n,) less their mean: how well a batch agrees with the query batch as a whole says nothing
        about the losses, and is most of the noise. 0 where they are not :meth:`worth` anything."""
        worth = self.worth(task, losses)
        mean = (contributions * worth).sum() / worth.sum().clamp(min=1)
        return (contributions - mean) * worth

    def observe(
        self, task: int, losses: list[int], new: Tensor, gain: float, decay: float, unit: float | None = None
    ) -> ShareState:
        """With the contributions ``new`` (n,) of some losses of a task at one moment; ``gain`` 0 leaves the scores.

        Scores move by contributions in ``unit``, or in units of their running root mean square over the task's losses:
        where one lens is far better than the rest, large steps would swing from one extreme to the other.
        Losses that are not active keep score as well, so that one that comes back stands where it would had it never
        been away.
        decay: share in [0, 1) by which scores are drawn together each time, so that old contributions are forgotten.
        """
        mean, square, count, scores = (t.clone() for t in (self.mean, self.square, self.count, self.scores))
        seen = self.count[task, losses] > 0
        mean[task, losses] = torch.where(seen, MEMORY * mean[task, losses] + (1 - MEMORY) * new, new)
        square[task, losses] = torch.where(seen, MEMORY * square[task, losses] + (1 - MEMORY) * new**2, new**2)
        count[task, losses] += 1
        known = replace(self, mean=mean, square=square, count=count)
        size = known.typical(task) if unit is None else unit
        scores[task, losses] = (1 - decay) * scores[task, losses] + gain * new / size
        return replace(known, scores=scores)

    def typical(self, task: int) -> Tensor:
        """Root mean square () of the contributions of a task's losses, from their running means."""
        measured = self.count[task] > 0
        return (self.square[task].sum() / measured.sum().clamp(min=1)).sqrt().clamp(min=1e-12)

    @property
    def advantage(self) -> Tensor:
        """Running mean (T, L) of a loss's contribution less that of its task's mixture: what more of it would bring."""
        return self.mean - (self.shares * self.mean).sum(dim=1, keepdim=True)

    @property
    def uncertainty(self) -> Tensor:
        """Standard error (T, L) of ``mean``; 1 where a loss was measured less than twice."""
        held = self.count.clamp(max=round((1 + MEMORY) / (1 - MEMORY))).double()
        spread = (self.square - self.mean**2).clamp(min=0).sqrt() / held.clamp(min=1).sqrt()
        return torch.where(self.count > 1, spread, torch.ones_like(spread))

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _running(old: Tensor, new: Tensor, memory: float) -> Tensor:
    return torch.where(old > 0, memory * old + (1 - memory) * new, new)
