"""A training step, with any weighting method, in anybody's own loop.

The data flow (Algorithm 1): support losses -> weights -> update of theta -> query losses at the new theta
-> D -> Frank-Wolfe -> next weights. What a method does not ask for is not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lossrag.checks import one_of
from lossrag.errors import ConfigError
from lossrag.weighting.base import HypergradientSpec, Needs, Signals, State, Weighting
from lossrag.weighting.closures import Losses, Ungrouped
from lossrag.weighting.gradients.features import Representation
from lossrag.weighting.gradients.inner_update import check_inner, inner_factors
from lossrag.weighting.gradients.linear_layers import LinearTaps
from lossrag.weighting.gradients.mean import GradientSum
from lossrag.weighting.gradients.passes import Passes
from lossrag.weighting.gradients.replay import Replay, replayed_hypergradient
from lossrag.weighting.gradients.rows import GradientRows, TaskGradients
from lossrag.weighting.record import StepRecord

MEMORY = ("rows", "low")
Weigh = Callable[..., Tensor]
"""From the losses (T,), and the Gramians where they are asked for, to the weights (T,) of this step."""
Features = Callable[[], Sequence[Tensor]]


class MultiTaskStep:
    """A step over T tasks: call it with the support losses, and the query losses if the method learns on them.

    parameters: all that the optimiser updates and that require a gradient, shared and task-specific alike.
    optimizer: any of torch's. A parameter group with ``sparse=True`` gets the gradient of a table, of which the losses
        name the rows (:class:`TableRows`), as a sparse tensor with these rows alone.
    tasks: their number or their names (names appear in records and errors).
    memory: with an outer problem, ``rows`` holds the support gradients, one T x d matrix; ``low`` holds one of them at
        a time and computes them again, for one more support pass and T query passes (weighting/gradients/replay.py).
    keep_query_gradient: set it to have the mean query gradient of a step in its record (with ``memory="rows"``).
    model: lets the step watch the linear layers, so that tasks on one shared input need not form T gradients of each
        where there is a cheaper way (weighting/gradients/linear_layers.py); results differ by rounding only.

    Tasks with their own inputs should be given as one closure per task: T backward passes over disjoint slices
    cost what one backward over the joint batch costs, while T passes through one retained graph cost T times
    that. Each closure is called exactly once per step.

    >>> theta = torch.zeros(2, requires_grad=True)
    >>> optimizer = torch.optim.SGD([theta], lr=0.1)
    >>> step = MultiTaskStep([theta], optimizer, Weighting(), tasks=["a", "b"])
    >>> record = step([lambda: (theta[0] - 1) ** 2, lambda: (theta[1] + 1) ** 2])
    >>> record.support_losses.tolist(), theta.tolist()
    ([1.0, 1.0], [0.10000000149011612, -0.10000000149011612])
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        optimizer: torch.optim.Optimizer,
        weighting: Weighting,
        tasks: int | Sequence[str],
        memory: str = "rows",
        model: nn.Module | None = None,
    ) -> None:
        one_of("MultiTaskStep: memory", memory, MEMORY)
        self.parameters = [p for p in parameters if p.requires_grad]
        if not self.parameters:
            raise ConfigError("MultiTaskStep: none of the parameters requires a gradient, there is nothing to train.")
        updated = {p for group in optimizer.param_groups for p in group["params"]}
        if any(p not in updated for p in self.parameters):
            raise ConfigError("MultiTaskStep: some parameters are not in the optimiser: give it the same list.")
        self.tasks = tuple(map(str, range(tasks))) if isinstance(tasks, int) else tuple(tasks)
        if not self.tasks:
            raise ConfigError("MultiTaskStep: at least one task is needed, got none.")
        self.optimizer = optimizer
        self.weighting = weighting
        self.needs = weighting.needs
        if memory == "low" and self.needs.hypergradient is not None:
            _check_low(type(weighting).__name__, self.needs)
        self.device = self.parameters[0].device
        self.state: State = weighting.init(len(self.tasks), self.device)
        if "count" in self.state:
            raise ConfigError(
                f"MultiTaskStep: the state of {type(weighting).__name__} must not have the key 'count', under which "
                "the step stores its own: use another name."
            )
        self.count = 0
        self.memory = memory
        wanted = {p for group in optimizer.param_groups if group.get("sparse", False) for p in group["params"]}
        sparse = frozenset(i for i, parameter in enumerate(self.parameters) if parameter in wanted)
        self._rows = GradientRows(self.parameters, len(self.tasks), sparse)
        self._query_sum = GradientSum(self.parameters, self._rows.table_rows)
        self.keep_query_gradient = False
        taps = LinearTaps(nn.Module() if model is None else model, self.parameters)
        self._passes = Passes(self.parameters, self.tasks, self._rows.restrict, taps)
        if self.needs.hypergradient is not None:
            check_inner(optimizer, self.needs.hypergradient)

    @property
    def task_weights(self) -> Tensor:
        """The weights (T,) of the next step."""
        return self.state["weights"]

    @property
    def nbytes(self) -> int:
        """Bytes that the step holds beyond the optimiser: the support gradient rows."""
        return self._rows.nbytes

    def __call__(
        self,
        support: Losses,
        query: Losses | None = None,
        *,
        epoch: int | None = None,
        scores: Callable[[], Tensor] | None = None,
        representation: Features | None = None,
    ) -> StepRecord:
        """Update the parameters once, and the task weights if the method learns them.

        epoch: its number, from 0, for methods that need it (:class:`Needs`).
        scores: the tasks' scores (T,) on the support batch, such as accuracies; called once, after the support losses
            were computed and before the update, and only for methods that need them.
        representation: the features (B_t, F) that the head of each task read in the support pass, the same tensor for
            tasks that share it; called once, right after that pass, and only for methods that need it.

        Raises ConfigError when the method needs query losses, the epoch or scores and there are none, when there are
        query losses that it does not take, and when the losses or scores do not match the number of tasks.
        """
        needs, spec = self.needs, self.needs.hypergradient
        if (spec is None) != (query is None):
            need = "needs query losses: pass query=..." if query is None else "takes no query losses: leave query out"
            raise ConfigError(f"MultiTaskStep: {type(self.weighting).__name__} {need}.")
        for name, given, wanted in (
            ("epoch", epoch, needs.epoch),
            ("scores", scores, needs.scores),
            ("representation", representation, needs.representation is not None),
        ):
            if wanted and given is None:
                raise ConfigError(f"MultiTaskStep: {type(self.weighting).__name__} needs {name}: pass {name}=...")
        self.count += 1
        weigh = partial(self._weigh, epoch=epoch or 0, scores=scores)
        replay = Replay(self.parameters, support) if self.memory == "low" and spec is not None else None
        if replay is not None:
            losses, weights = self._update_in_turn(replay.recording(), weigh)
        else:
            update = self._update_by_rows if needs.rows else self._update_joint
            losses, weights = update(support, weigh, representation)
        if spec is None or query is None:
            return StepRecord(self.count, self.tasks, losses, weights, self.task_weights)
        query_losses, D = self._hypergradient(query, spec, replay)
        self.state, outer = self.weighting.learn(self.state, D)
        kept = self._query_sum.take_mean(len(self.tasks)) if self.keep_query_gradient and replay is None else None
        decided = (losses, weights, self.task_weights)
        return StepRecord(self.count, self.tasks, *decided, query_losses, D, **vars(outer), query_gradient=kept)

    def _update_joint(self, support: Losses, weigh: Weigh, features: Features | None) -> tuple[Tensor, Tensor]:
        """theta <- optimiser step on (1/T) sum_t w_t L_t: one backward pass, and one more above the features for each
        task where gradients are compared there."""
        values = self._passes.values(support)
        representation = self._representation(features, values)
        losses = torch.stack(values)
        weights = weigh(losses.detach(), None, representation)
        self.optimizer.zero_grad()
        if representation is not None and self.needs.applies_to == "shared":
            representation.backward(weights)
        else:
            (losses * weights.to(losses.dtype)).mean().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return losses.detach(), weights

    def _update_in_turn(self, support: Ungrouped, weigh: Weigh) -> tuple[Tensor, Tensor]:
        """The same update with one task's graph and gradient at a time; the weights cannot depend on the losses."""
        unknown = torch.full((len(self.tasks),), float("nan"), device=self.device)
        weights = weigh(unknown)
        self.optimizer.zero_grad()
        losses = self._passes.accumulate(support, weights / len(weights))
        self.optimizer.step()
        return losses, weights

    def _update_by_rows(self, support: Losses, weigh: Weigh, features: Features | None) -> tuple[Tensor, Tensor]:
        """The same update from the T gradient rows, which Gramian or hypergradient (Eq. 9) need."""
        self._rows.clear()
        compared: list[Representation | None] = []

        def look(values: list[Tensor]) -> None:
            compared.append(self._representation(features, values))

        needs = self.needs
        losses = self._passes.gradients(support, self._rows.write, look if needs.representation else None)
        gramian = self._rows.gramian(own=needs.gramian == "all") if needs.gramian else None
        weights = weigh(losses, gramian, *compared)
        own = torch.ones_like(weights) if needs.applies_to == "shared" else weights
        combined = self._rows.combine(weights / len(weights), own / len(weights))
        for parameter, gradient in zip(self.parameters, combined, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        return losses, weights

    def _representation(self, features: Features | None, values: Sequence[Tensor]) -> Representation | None:
        if features is None or self.needs.representation is None:
            return None
        return Representation(features(), values, self.tasks)

    def _weigh(
        self,
        losses: Tensor,
        gramian: Tensor | None = None,
        representation: Representation | None = None,
        *,
        epoch: int,
        scores: Callable[[], Tensor] | None,
    ) -> Tensor:
        reached = scores().detach() if self.needs.scores and scores is not None else None
        if reached is not None and reached.shape != losses.shape:
            raise ConfigError(
                f"MultiTaskStep: expected {len(losses)} scores, one per task, got shape {tuple(reached.shape)}."
            )
        at_features = representation.gramian(self.needs.representation or "rows") if representation else None
        signals = Signals(losses, gramian, reached, epoch, self.count, at_features)
        weights, self.state = self.weighting.weigh(self.state, signals)
        return weights

    def _hypergradient(self, query: Losses, spec: HypergradientSpec, replay: Replay | None) -> tuple[Tensor, Tensor]:
        """D[t, j] = -(1/T) <factor * grad L_t^q(theta^k), grad L_j^s(theta^{k-1})> (Eq. 10), row by row."""
        factors = inner_factors(self.optimizer, self.parameters, spec)
        divisor = 1 if spec.scale == "unit" else len(self.tasks)
        if replay is not None:
            losses, products = replayed_hypergradient(replay, query, self._passes, factors, spec)
            return losses, products / -divisor
        D = self.parameters[0].new_zeros(len(self.tasks), len(self.tasks))

        def add_rows(gradients: TaskGradients) -> None:
            rows = self._rows.inner(gradients, factors, shared=spec.parameters == "shared")
            D[gradients.tasks.start : gradients.tasks.stop] -= rows / divisor
            if self.keep_query_gradient:
                self._query_sum.add(gradients)

        return self._passes.gradients(query, add_rows), D

    def state_dict(self) -> State:
        """Everything the step remembers, as tensors (the optimiser has its own state)."""
        return {**self.state, "count": torch.tensor(self.count)}

    def load_state_dict(self, state: State) -> None:
        """Continue from :meth:`state_dict`; raises ConfigError when the keys or shapes differ."""
        expected = self.state_dict()
        if state.keys() != expected.keys() or any(state[k].shape != expected[k].shape for k in expected):
            raise ConfigError(
                f"MultiTaskStep: this state is of another method or number of tasks: expected "
                f"{ {k: tuple(v.shape) for k, v in expected.items()} }, got "
                f"{ {k: tuple(v.shape) for k, v in state.items()} }."
            )
        self.count = int(state["count"])
        self.state = {key: state[key].to(value) for key, value in self.state.items()}


def _check_low(method: str, needs: Needs) -> None:
    """Raise ConfigError for what ``memory="low"`` has not got: it weighs before it knows the losses."""
    early = {
        "losses": needs.losses,
        "the Gramian": needs.gramian,
        "the representation": needs.representation,
        "scores": needs.scores,
    }
    reads = [what for what, wanted in early.items() if wanted]
    if reads:
        raise ConfigError(
            f"MultiTaskStep: {method} reads {', '.join(reads)} before the update, which memory='low' does not have by "
            "then: use memory='rows'."
        )
    if needs.applies_to == "shared":
        raise ConfigError(
            f"MultiTaskStep: {method} leaves the tasks' own parameters unweighted, which memory='low' cannot tell "
            "apart: use memory='rows'."
        )
