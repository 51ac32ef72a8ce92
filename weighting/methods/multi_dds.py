"""MultiDDS style: a scorer of tasks rewarded for agreement with the query gradient (Wang, Tsvetkov and Neubig,
"Balancing Training for Multilingual Neural Machine Translation", ACL 2020): the single-objective meta relative
of MetaWeighting, which averages the query losses of all tasks into one.

The scorer is p = softmax(psi), psi (T,). Its reward for task j is the agreement of the support gradient g_j at the old
parameters with the mean query gradient at the new ones (their Eq. 6), and psi ascends on the expected reward.

Deviations, hence "style". (1) The paper draws the language of a batch from p; here every task has its batch in every
step and p weighs the losses, w = T p, which is the expectation of that. So the gradient of the expected reward is known
exactly, p_j (R_j - sum_i p_i R_i), and nothing is sampled; ``update=sum`` is the authors' code instead, which adds the
terms of all tasks up as if p were uniform: R_j - p_j sum_i R_i. (2) Their reward is a cosine. The step offers inner
products D and the support norms, but not the norm of the mean query gradient, the same for all tasks: ``reward=cosine``
divides by |g_j|, and then by the largest magnitude over the tasks in its place. Ratios and signs are those of the
cosines, the sizes are not. (3) psi moves by plain steps in every iteration, theirs by Adam every so many.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag.checks import check_choice, check_positive
from lossrag.weighting.base import WEIGHTINGS, HypergradientSpec, Needs, Outer, Signals, State, Weighting


@WEIGHTINGS.register("multi_dds")
@dataclass(frozen=True)
class MultiDDS(Weighting):
    """w = T softmax(psi) (T,), for shared and task-specific parameters alike.

    lr: > 0, step size of psi. reward: ``cosine``, in [-1, 1], or ``inner``, the inner products as they are.
    update: ``expected`` or ``sum``, see above. parameters: that gradients are compared on, ``all`` or ``shared``.

    Raises ConfigError for options out of range.

    >>> method = MultiDDS(lr=1.0)
    >>> _, state = method.weigh(method.init(2, torch.device("cpu")), Signals(torch.ones(2), torch.eye(2)))
    >>> state, _ = method.learn(state, torch.tensor([[-1.0, 0.0], [0.0, 0.0]]))  # D[t, j] = -<query t, support j>
    >>> [round(weight, 4) for weight in state["weights"].tolist()]  # rewards 1 and 0
    [1.2449, 0.7551]
    """

    lr: float = 0.01
    reward: str = "cosine"
    update: str = "expected"
    parameters: str = "all"

    def __post_init__(self) -> None:
        check_positive(self, "lr")
        check_choice(self, "reward", ("cosine", "inner"))
        check_choice(self, "update", ("expected", "sum"))
        check_choice(self, "parameters", ("all", "shared"))

    @property
    def needs(self) -> Needs:
        """D without the factor eta/T, and the norms on the same parameters."""
        return Needs(gramian=self.parameters, hypergradient=HypergradientSpec("unit", "sgd", self.parameters))

    def init(self, tasks: int, device: torch.device) -> State:
        """psi 0, so every weight 1; ``lengths`` (T,) of the support gradients of the step under way."""
        state = super().init(tasks, device)
        zeros = torch.zeros_like(state["weights"])
        return {**state, "psi": zeros, "lengths": zeros.clone()}

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """The weights (T,) that the last step learned; the state holds the lengths of the gradients."""
        assert signals.gramian is not None
        lengths = signals.gramian.diagonal().to(state["weights"].dtype).clamp(min=0).sqrt()
        weights = len(lengths) * torch.softmax(state["psi"], dim=0)
        return weights, {**state, "weights": weights, "lengths": lengths}

    def learn(self, state: State, hypergradient: Tensor) -> tuple[State, Outer]:
        """One step of psi from D (T, T); lam is 1/T, as the query losses are averaged, and nothing is solved for."""
        D = hypergradient.to(state["weights"].dtype)
        lam = torch.full_like(D[:, 0], 1 / len(D))
        direction = lam @ D
        rewards = self._rewards(-direction, state["lengths"])
        p = torch.softmax(state["psi"], dim=0)
        slope = p * (rewards - p @ rewards) if self.update == "expected" else rewards - p * rewards.sum()
        psi = state["psi"] + self.lr * slope
        weights = len(psi) * torch.softmax(psi, dim=0)
        none = torch.zeros((), dtype=D.dtype, device=D.device)
        outer = Outer(lam, direction, none, none.to(torch.int64))
        return {**state, "weights": weights, "psi": psi}, outer

    def _rewards(self, agreement: Tensor, lengths: Tensor) -> Tensor:
        if self.reward == "inner":
            return agreement
        per_length = torch.where(lengths > 0, agreement / lengths, torch.zeros_like(agreement))
        largest = per_length.abs().max()
        return torch.where(largest > 0, per_length / largest, torch.zeros_like(per_length))
