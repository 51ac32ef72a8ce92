"""A training step, with any weighting method, in anybody's own loop.

The data flow (Algorithm 1): support losses -> weights -> update of theta -> query losses at the new theta
-> D -> Frank-Wolfe -> next weights. What a method does not ask for is not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lossrag.checks import one_of
from lossrag.errors import ConfigError, DivergedError
from lossrag.weighting.base import HypergradientSpec, State, Weighting
from lossrag.weighting.gradients.engine import Engine
from lossrag.weighting.gradients.held import add_held, set_aside
from lossrag.weighting.gradients.inner_update import check_inner, inner_factors
from lossrag.weighting.gradients.lying import Lying
from lossrag.weighting.gradients.passes import Passes
from lossrag.weighting.gradients.places import columns
from lossrag.weighting.gradients.random_state import random_state
from lossrag.weighting.gradients.replay import replayed_hypergradient
from lossrag.weighting.gradients.rows import TaskGradients
from lossrag.weighting.parallel.group import Group
from lossrag.weighting.parallel.tally import Rows
from lossrag.weighting.record import StepRecord
from lossrag.weighting.state.host import learn_on_host
from lossrag.weighting.state.presence import learn_present
from lossrag.weighting.state.saved import OWN, load_state, saved_state
from lossrag.weighting.training.closures import Losses, Ordered, Value, ordered
from lossrag.weighting.training.data_parallel import refuse_wrapped, wrapped_refused
from lossrag.weighting.training.named import method_of, numbers_of, task_names
from lossrag.weighting.training.optimizers import Optimizers
from lossrag.weighting.training.parameters import Given, Trained
from lossrag.weighting.training.statistics import Statistics
from lossrag.weighting.update.finite import POLICIES
from lossrag.weighting.update.guard import Guard
from lossrag.weighting.update.in_group import GroupSide, Mean
from lossrag.weighting.update.judge import OVERFLOW, Judge, SkippedStep
from lossrag.weighting.update.refused import check_group, check_low
from lossrag.weighting.update.support import Features, Gathered, Inputs

MEMORY = ("rows", "low")


class MultiTaskStep(GroupSide):
    """A step over T tasks: call it with the support losses, and the query losses if the method learns on them.

    parameters: those whose gradients are compared, a list, ``model.parameters()`` or the model. What the optimiser
        trains besides is trained by the weighted losses, and compared nowhere. They are looked at in every step: frozen
        ones are left out, thawed and added ones taken in.
    optimizer: any of torch's but LBFGS, or a list of them. A parameter group with ``sparse=True`` gets the gradient of
        a table, of which the losses name the rows (:class:`TableRows`), as a sparse tensor with these rows alone.
    weighting: a method, its class or its name. tasks: their number or their names.
    memory: with an outer problem, ``rows`` holds the support gradients, one T x d matrix; ``low`` holds one of them at
        a time and computes them again, for one more support pass and T query passes (weighting/gradients/replay.py).
    model: lets the step watch the linear layers, so that tasks on one shared input need not form T gradients of each
        where there is a cheaper way (weighting/gradients/linear_layers.py); results differ by rounding only.
    outer: the tasks, by name or number, that the outer problem is over; all by default.
    every: the outer problem runs in every so many steps; between them the weights stay, and query losses are not asked.
    shared, private: parameters declared to be shared, or a single task's own; of others the graph tells.
    nonfinite: ``raise`` DivergedError before anything is changed when a loss or a gradient is not finite, ``skip`` the
        step and count it in ``skipped``, or ``trust`` all values, which reads nothing back from the device.
    query_statistics: let query passes move the running statistics of normalisations.
    group: the processes that take the step together (docs/devices.md): the call then needs ``rows``, the number of rows
        that the losses of this process are means over, and ``query_rows``; all processes get the same parameters.
    keep_query_gradient: set it to have the mean query gradient of a step in its record (with ``memory="rows"``).

    A task is absent from a batch when its closure or its loss is None, or its loss is no number and has no gradient, as
    the mean over no labelled row has (on the query side also a loss of 0 without a gradient): then the step is that of
    the other tasks, and the task's weight and state stay.

    Tasks with their own inputs should be given as one closure per task: T backward passes over disjoint slices
    cost what one backward over the joint batch costs, while T passes through one retained graph cost T times
    that. Each closure is called exactly once per step, but for ``memory="low"``, and for compiled models whose graph
    can be walked only once; there a closure that gives another loss the second time is refused.

    Gradients that you compute between two steps are added to; those that the last step left, or that lay about when
    this one was made, are not.

    >>> theta = torch.zeros(2, requires_grad=True)
    >>> optimizer = torch.optim.SGD([theta], lr=0.1)
    >>> step = MultiTaskStep([theta], optimizer, Weighting(), tasks=["a", "b"])
    >>> record = step([lambda: (theta[0] - 1) ** 2, lambda: (theta[1] + 1) ** 2])
    >>> record.support_losses.tolist(), theta.tolist()
    ([1.0, 1.0], [0.10000000149011612, -0.10000000149011612])
    """

    def __init__(
        self,
        parameters: Given,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        weighting: Weighting | type[Weighting] | str,
        tasks: int | Sequence[str],
        memory: str = "rows",
        model: nn.Module | None = None,
        *,
        outer: Sequence[int | str] | None = None,
        every: int = 1,
        shared: Given | None = None,
        private: Given | None = None,
        nonfinite: str = "raise",
        query_statistics: bool = False,
        group: Group | None = None,
    ) -> None:
        one_of("MultiTaskStep: memory", memory, MEMORY)
        one_of("MultiTaskStep: nonfinite", nonfinite, POLICIES)
        if every < 1:
            raise ConfigError(f"MultiTaskStep: every must be 1 or more, got {every}.")
        names, method = task_names(tasks), method_of(weighting)
        if memory == "low" and method.needs.hypergradient is not None:
            check_low(type(method).__name__, method.needs)
        self.outer = numbers_of(outer, names)
        self.optimizers, self.group = Optimizers(optimizer), group
        sparse = any(group.get("sparse", False) for one in self.optimizers.every for group in one.param_groups)
        check_group(group, type(method).__name__, method.needs, memory, sparse)
        self.optimizer = self.optimizers.every[0]
        self.trained = Trained(parameters, self.optimizers)
        self.every, self.nonfinite, self.query_statistics = every, nonfinite, query_statistics
        self.model = parameters if model is None and isinstance(parameters, nn.Module) else model
        if self.model is not None:
            refuse_wrapped(self.model)
        self._declared = shared, private
        super().__init__(method, names, self._made(names), memory, group)
        taken = sorted(set(OWN) & set(self.state))
        if taken:
            raise ConfigError(
                f"MultiTaskStep: the state of {type(method).__name__} must not have the key {taken[0]!r}, under "
                "which the step stores its own: use another name."
            )
        self.skipped = 0
        self.keep_query_gradient = False
        if self.needs.hypergradient is not None:
            check_inner(self.optimizers, self.needs.hypergradient)
        self._waiting: Gathered | None = None
        self._guard = Guard(self.optimizers)
        self._lying = Lying.of(self.optimizers.parameters())

    @property
    def device(self) -> torch.device:
        """Device of the weights, that of the first parameter."""
        return self.engine.parameters[0].device

    @property
    def nbytes(self) -> int:
        """Bytes that the step holds beyond the optimiser: the support gradient rows."""
        return self.engine.rows.nbytes

    @property
    def learns_next(self) -> bool:
        """True when the outer problem is due in the next step, which then calls the query closures."""
        return self.needs.hypergradient is not None and (self.count + 1) % self.every == 0

    def __call__(
        self,
        support: Losses,
        query: Losses | None = None,
        *,
        epoch: int | None = None,
        scores: Callable[[], Tensor] | None = None,
        representation: Features | None = None,
        rows: Rows | None = None,
        query_rows: Rows | None = None,
    ) -> StepRecord:
        """Update the parameters once, and the task weights if the method learns them.

        epoch: its number, from 0, for methods that need it (:class:`Needs`).
        scores: the tasks' scores (T,) on the support batch, such as accuracies; called once, after the support losses
            were computed and before the update, and only for methods that need them.
        representation: the features (B_t, F) that the head of each task read in the support pass, the same tensor for
            tasks that share it; called once, right after that pass, and only for methods that need it.
        rows, query_rows: how many rows the support and the query losses of this process are means over, one number for
            all tasks or one for each, or what else a mean is divided by; read by the processes of a ``group`` alone.

        Raises ConfigError when the method needs query losses, the epoch or scores and there are none, when there are
        query losses that it does not take, and when the losses or scores do not match the number of tasks;
        DivergedError as ``nonfinite`` says; GroupError where another process is gone or has failed.
        """
        self._check_query(query)
        held_out = None if query is None else self._query(query)
        counts = self.query_counts(query_rows) if held_out is not None and self.learns_next else ()
        self.engine.scale(1.0)
        gathered = self._gathered(support, Inputs(epoch, scores, representation, rows), apply=True)
        self._lying = Lying.of(self.optimizers.parameters())
        return self._learned(gathered, held_out, counts)

    def backward(
        self,
        support: Losses,
        *,
        epoch: int | None = None,
        scores: Callable[[], Tensor] | None = None,
        representation: Features | None = None,
        scale: float = 1.0,
        rows: Rows | None = None,
    ) -> StepRecord:
        """The support side of a step alone: the weighted gradient is added to the parameters' ``grad``, for you to
        clip, unscale and apply with optimisers of your own. Where there is an outer problem, :meth:`learn` follows.

        scale: what losses are multiplied by before they are differentiated, for a scaler of your own. Losses that
            ``torch.amp.GradScaler`` has scaled are known for what they are, and told of unscaled. The gradient is left
            scaled either way, and a scaler skips a step that overflowed.

        Raises as a call does.
        """
        self.engine.scale(scale)
        gathered = self._gathered(support, Inputs(epoch, scores, representation, rows))
        self._waiting = gathered
        return self._record(gathered)

    def accumulate(self, support: Losses, *, rows: Rows | None = None) -> None:
        """Add a micro-batch to the next :meth:`backward`: losses and gradients of the step are their means over the
        micro-batches that a task was in, those of ``backward`` among them.

        The processes of a group weigh by the rows of all micro-batches, of which they must have the same number.
        Holds the gradient of every task, whatever the method. Takes closures, no :class:`TaskGroup` with table rows. An
        error in one drops all micro-batches of the step.
        """
        if self.memory == "low":
            raise ConfigError(
                "MultiTaskStep: micro-batches are held as rows, which memory='low' does not: take 'rows'."
            )
        losses = ordered(support, self.tasks, "support")
        self._follow()
        self.micro.whole = False
        try:
            if self.group is None:
                self.add_micro(losses)
            else:
                self.add_shared(self.group, losses, Inputs(None, None, None, rows))
        except BaseException:
            # gradients of some of its tasks have been added to the others by now
            self.micro.clear()
            raise

    def learn(self, query: Losses, *, query_rows: Rows | None = None) -> StepRecord:
        """The query side of the step that :meth:`backward` began, after the optimisers' step: D is that of an update by
        the learning rate times the weighted gradient, as it was before you clipped or changed it.

        Raises ConfigError when no ``backward`` precedes, and as a call does.
        """
        gathered, self._waiting = self._waiting, None
        if gathered is None:
            raise ConfigError("MultiTaskStep: learn(query) ends a step that backward(support) began: call that first.")
        if self.needs.hypergradient is None:
            raise ConfigError(f"MultiTaskStep: {type(self.weighting).__name__} takes no query losses: leave learn out.")
        self._lying = Lying.of(self.optimizers.parameters())
        return self._learned(gathered, self._query(query), self.query_counts(query_rows))

    def _query(self, query: Losses) -> Ordered:
        return ordered(query, [self.tasks[task] for task in self.outer], "query")

    def _check_query(self, query: Losses | None) -> None:
        if (self.needs.hypergradient is None) != (query is None):
            need = "needs query losses: pass query=..." if query is None else "takes no query losses: leave query out"
            if query is not None or self.learns_next:
                raise ConfigError(f"MultiTaskStep: {type(self.weighting).__name__} {need}.")

    def _made(self, tasks: tuple[str, ...]) -> Engine:
        parameters, told = self.trained.now()
        return Engine.of(parameters, told, tasks, self.optimizers, self.model, *self._declared, self.group)

    def _follow(self) -> None:
        """Take up what was frozen, thawed, added or replaced since the last step."""
        if self.engine.fits(*self.trained.now()):
            return
        if self.micro.any:
            raise ConfigError(
                "MultiTaskStep: parameters changed between micro-batches of one step: end the step first."
            )
        scale = self.engine.passes.scale
        self.engine = self._made(self.tasks)
        self.engine.scale(scale)

    def _gathered(self, support: Losses, inputs: Inputs, apply: bool = False) -> Gathered:
        """The support side of a step; apply: with the update, by gradients of unscaled losses."""
        needs = self.needs
        for name, given, wanted in (
            ("epoch", inputs.epoch, needs.epoch),
            ("scores", inputs.scores, needs.scores),
            ("representation", inputs.representation, needs.representation is not None),
        ):
            if wanted and given is None:
                raise ConfigError(f"MultiTaskStep: {type(self.weighting).__name__} needs {name}: pass {name}=...")
        losses = ordered(support, self.tasks, "support")
        self._follow()
        self.compare()
        update = self.route(self.learns_next)
        self.count += 1
        self._forget()
        held, before = set_aside(self.parameters), self.state
        statistics = Statistics(self.engine.statistics)
        judge = self._judge(losses)
        try:
            with wrapped_refused(look=self.count == 1):
                gathered = update(losses, inputs, judge)
            self.share_statistics()
            add_held(self.parameters, held, self.engine.passes.scale if apply else 1.0)
            size = judge.gradient(gathered.present, unscaled=apply)
            if apply and gathered.skipped is None:
                self._apply(judge, size, gathered.present)
        except SkippedStep as skipped:
            unknown = torch.full((len(self.tasks),), float("nan"), device=self.device)
            gathered = Gathered(unknown, self.task_weights, (), str(skipped))
            self.skipped += 1
        except BaseException:
            self.count -= 1
            statistics.restore()
            self._put_back(held, before)
            raise
        finally:
            self.micro.clear()
        self.engine.passes.first = False
        if gathered.skipped is not None and gathered.skipped != OVERFLOW:
            statistics.restore()
            self._put_back(held, before)
        return gathered

    def _apply(self, judge: Judge, size: float, present: Sequence[int]) -> None:
        """The update by gradients of this magnitude, which the policy refuses where it would leave anything not
        finite."""
        if not judge.reads(self.parameters[0]):
            self.optimizers.step()
            return
        broken = self._guard.step(max(size, judge.held()), self.engine.names_by_id)
        if broken is not None:
            judge.update(broken, present)

    def _forget(self) -> None:
        """Drop the gradients that lie about, those of parameters that have been frozen since among them."""
        every = self.optimizers.parameters()
        for parameter, gradient in zip(every, self._lying.others(every), strict=True):
            parameter.grad = gradient
        self._lying = Lying()

    def _put_back(self, held: Sequence[Tensor | None], state: State) -> None:
        self.state = state
        for parameter, gradient in zip(self.parameters, held, strict=True):
            parameter.grad = gradient

    def _learned(self, gathered: Gathered, query: Ordered | None, counts: Sequence[float]) -> StepRecord:
        """The query side: D[t, j] = -(1/T) <factor * grad L_t^q(theta^k), grad L_j^s(theta^{k-1})> (Eq. 10)."""
        spec = self.needs.hypergradient
        if spec is None or query is None or gathered.skipped is not None or self.count % self.every:
            return self._record(gathered)
        engine, judge = self.engine, self._judge(query)
        passes = engine.passes_over(self.tasks, self.outer)
        statistics = Statistics(() if self.query_statistics else engine.statistics)
        values, D, gradients = self._hypergradient(query, spec, gathered, passes, counts)
        statistics.restore()
        if self.query_statistics:
            self.share_statistics()
        there, why = judge.query_present(self.outer, values, D)
        if why is not None and why != OVERFLOW:
            self._not_learned(why)
            there = ()
        losses = engine.parameters[0].new_full((len(self.tasks),), float("nan"))
        for place, value in zip(self.outer, values, strict=True):
            if value is not None:
                losses[place] = value
        kept = None
        if gradients is not None:
            kept = gradients(there)
        told = replace(self._record(gathered), query_losses=losses, query_gradient=kept, skipped=why)
        told = replace(told, query_present=self.mask(there))
        if not there:
            return told
        learn = learn_on_host if judge.reads_device else learn_present
        state, outer = learn(self.weighting, self.state, D, self.mask(there), self.mask(gathered.present))
        why = judge.learned(state, D, there)
        if why is not None:
            self._not_learned(why)
            return replace(told, skipped=why)
        self.state = state
        return replace(
            told, next_weights=self.task_weights, hypergradient=D[columns(self.outer, D.device)], **vars(outer)
        )

    def _not_learned(self, why: str) -> None:
        """Raise DivergedError, or count the step as skipped, as the policy says."""
        if self.nonfinite == "raise":
            raise DivergedError(
                f"Step {self.count}: {why}. The parameters were updated by finite gradients, the task weights were "
                "not. Lower the learning rate or alpha, or look for bad query inputs of that task."
            )
        self.skipped += 1

    def _hypergradient(
        self, query: Ordered, spec: HypergradientSpec, gathered: Gathered, passes: Passes, counts: Sequence[float]
    ) -> tuple[list[Value], Tensor, Mean | None]:
        """Query losses, D (T, T), and the mean over tasks of the query gradients where it is to be kept."""
        engine = self.engine
        divisor = 1 if spec.scale == "unit" else len(gathered.present)
        if self.group is not None:
            values, products, mean = self.shared_hypergradient(
                self.group, query, counts, spec, passes, self.keep_query_gradient
            )
            return values, products / -divisor, mean
        factors = inner_factors(self.optimizers, self.parameters, spec)
        if gathered.replay is not None:
            replayed = (gathered.replay, query, passes, factors, spec, gathered.present, engine.fresh_rows())
            values, products = replayed_hypergradient(*replayed)
            return values, products / -divisor, None
        D = self.parameters[0].new_zeros(len(self.tasks), len(self.tasks))
        rows = engine.dense_rows

        def add_rows(gradients: TaskGradients) -> None:
            inner = rows.inner(gradients, factors, shared=spec.parameters == "shared")
            # a scaler may have moved its scale since the support pass
            scaled = inner if passes.scale == rows.scale else inner * (rows.scale / passes.scale)
            D[gradients.tasks.start : gradients.tasks.stop] -= scaled / divisor
            if self.keep_query_gradient:
                engine.query_sum.add(gradients)

        values = passes.gradients(query, add_rows)
        mean = (lambda there: engine.query_sum.take_mean(max(len(there), 1))) if self.keep_query_gradient else None
        return values, D, mean

    def _judge(self, losses: Ordered) -> Judge:
        random = random_state(self.parameters)
        return Judge(self.nonfinite, self.count, self.tasks, self.engine, self.optimizers, losses, random, self.group)

    def _record(self, gathered: Gathered) -> StepRecord:
        mask = self.mask(gathered.present)
        decided = (gathered.losses, gathered.weights, self.task_weights)
        return StepRecord(self.count, self.tasks, *decided, present=mask, skipped=gathered.skipped)

    def state_dict(self) -> State:
        """Everything the step remembers, as tensors (the optimiser has its own state); with the names of the tasks, the
        method and its options."""
        return saved_state(self.weighting, self.tasks, self.state, self.count)

    def load_state_dict(self, state: State) -> None:
        """Continue from :meth:`state_dict`; tasks are found by their names, in whatever order.

        Raises ConfigError for a state of other tasks, another method or other options.
        """
        self.count, self.state = load_state(self.weighting, self.tasks, state, self.state)

    def __getstate__(self) -> dict[str, Any]:
        """A step is copied and pickled without what it can make again."""
        return {**self.__dict__, "engine": None, "_waiting": None, "_lying": Lying()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.engine = self._made(self.tasks)
