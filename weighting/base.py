"""The contract of every weighting method: a pure map from the signals of a step to T task weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from lossrag.checks import check_choice, require
from lossrag.errors import ConfigError
from lossrag.registry import Registry

State = dict[str, Tensor]
"""Memory of a method between steps; always holds "weights" (T,), the weights of the next step. Entries (T, ...) belong
to the tasks, entries (T, T) to their pairs: those of absent tasks stay as they are (weighting/state/presence.py)."""

ALIGNMENTS = ("rows", "mean")
"""Comparisons of gradients at the features: row by row of the representation, or as their sums over the rows."""


@dataclass(frozen=True)
class HypergradientSpec:
    """Options of the hypergradient D that a method asks the step for, which the paper leaves open in Eq. 10.

    scale: ``paper`` keeps the factor eta/T, ``unit`` absorbs it in the method's own step size.
    inner: ``sgd`` differentiates a plain gradient step (Eq. 10 as written), ``adam`` goes through the
        optimiser's diagonal preconditioner, held constant.
    parameters: ``all`` as written, or ``shared``: only those that more than one task touches.
    """

    scale: str = "paper"
    inner: str = "sgd"
    parameters: str = "all"

    def __post_init__(self) -> None:
        check_choice(self, "scale", ("paper", "unit"))
        check_choice(self, "inner", ("sgd", "adam"))
        check_choice(self, "parameters", ("all", "shared"))


@dataclass(frozen=True)
class Needs:
    """All that a method asks of the step, and of the loop behind it; the step fills it whole, or is not made.

    losses: whether :meth:`Weighting.weigh` reads the support losses. ``MultiTaskStep(memory="low")`` has none by then.
    gramian: the Gramian of the support gradients, with respect to the parameters that several tasks touch (``shared``)
        or to ``all``; None for methods that read none.
    representation: the Gramian of the gradients with respect to the features that the heads read, compared by ``rows``
        or by their ``mean`` (weighting/gradients/features.py); the loop passes ``representation`` to the step.
    scores: of the support batch; the loop passes ``scores`` to the step.
    epoch: its number; the loop passes ``epoch`` to the step.
    hypergradient: the D that :meth:`Weighting.learn` reads; the loop passes query losses to the step. None for methods
        without an outer problem.
    applies_to: what the weights multiply: the gradients of ``all`` parameters, or those of ``shared`` ones alone, each
        task's own parameters getting the gradient of its own loss unweighted.
    shares_parameters: False for single-task learning, which is only itself when no parameter is shared.

    Raises OptionError for unknown names, and where shared parameters are compared though none are shared.
    """

    losses: bool = True
    gramian: str | None = None
    representation: str | None = None
    scores: bool = False
    epoch: bool = False
    hypergradient: HypergradientSpec | None = None
    applies_to: str = "all"
    shares_parameters: bool = True

    def __post_init__(self) -> None:
        if self.gramian is not None:
            check_choice(self, "gramian", ("all", "shared"))
        if self.representation is not None:
            check_choice(self, "representation", ALIGNMENTS)
        check_choice(self, "applies_to", ("all", "shared"))
        none_shared = "{shares_parameters}=False leaves no shared parameters to compare gradients on or to weigh: "
        everywhere = "{gramian} and parameters of the {hypergradient} must be 'all', {representation} None."
        compares = self.compares_shared or self.representation is not None or self.applies_to == "shared"
        require(self.shares_parameters or not compares, self, none_shared + everywhere)

    @property
    def compares_shared(self) -> bool:
        """True where gradients are compared on the parameters that several tasks touch, and on no others."""
        outer = self.hypergradient
        return self.gramian == "shared" or (outer is not None and outer.parameters == "shared")

    @property
    def rows(self) -> bool:
        """True where the step must hold the gradient of every task, as there is more to do than to add them up."""
        held_apart = self.applies_to == "shared" and self.representation is None
        return self.gramian is not None or self.hypergradient is not None or held_apart


@dataclass(frozen=True)
class Signals:
    """Signals of a step to a method, before the update: support ``losses`` (T,), detached, ``epoch`` from 0, ``step``
    from 1, and, as its :class:`Needs` ask, the ``gramian`` (T, T) of the gradients, the ``scores`` (T,) of the support
    batch, 1 being perfect, and ``representation`` (T, T), the Gramian at the features."""

    losses: Tensor
    gramian: Tensor | None = None
    scores: Tensor | None = None
    epoch: int = 0
    step: int = 1
    representation: Tensor | None = None


@dataclass(frozen=True)
class Outer:
    """Result of the outer problem in one step: ``lam`` (T,), common descent direction ``direction`` (T,),
    the solver's relative duality ``gap`` () and its ``iterations`` ()."""

    lam: Tensor
    direction: Tensor
    gap: Tensor
    iterations: Tensor


@dataclass(frozen=True)
class Weighting:
    """Base of all methods. Subclasses are frozen dataclasses whose fields are their options.

    A method is stateless itself: what it remembers is a dictionary of tensors that the step carries and
    a checkpoint stores. Where tasks are absent it is asked about those that are present alone, T being their number:
    a method that keeps counts keeps them for each task.
    """

    outer_state: ClassVar[frozenset[str]] = frozenset()
    """Entries of the state that belong to the tasks of the outer problem, the rows of D, and not to its columns."""

    @property
    def needs(self) -> Needs:
        """All that the method reads beside its state; subclasses override it, or set ``needs = Needs(...)``."""
        return Needs()

    def init(self, tasks: int, device: torch.device) -> State:
        """The state before the first step: every weight 1, as in Algorithm 1."""
        return {"weights": torch.ones(tasks, dtype=state_dtype(device), device=device)}

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """Task weights (T,) of this step, and the state after it."""
        return state["weights"], state

    def learn(self, state: State, hypergradient: Tensor) -> tuple[State, Outer]:
        """The state after the outer step, from D (T, T); D[t, j] = d L_t^query / d w_j. Where tasks are absent, D has a
        row for each that has query losses and a column for each that has support losses."""
        raise ConfigError(f"{type(self).__name__} has no outer problem: it takes no query losses.")

    def among(self, kept: Sequence[int], tasks: int) -> Weighting:
        """The same method for these of T ``tasks``, in this order: of an option that lists an entry for each task,
        those of the tasks that are kept. Override it where a list of T entries means something else.

        >>> Weighting().among([0, 2], 3)
        Weighting()
        """
        lists = {field.name: value for field in fields(self) if isinstance(value := getattr(self, field.name), list)}
        changed = {name: [value[t] for t in kept] for name, value in lists.items() if len(value) == tasks}
        return replace(self, **changed) if changed else self


def state_dtype(device: torch.device) -> torch.dtype:
    """Weights move by 1e-4 a step at the paper's scale, which float32 would round; MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def numbers(values: Sequence[float], like: Tensor) -> Tensor:
    """Numbers (n,) in the dtype and on the device of ``like``, sent there without waiting, as ``new_tensor`` would.

    >>> numbers([1, 2.5], torch.zeros(3))
    tensor([1.0000, 2.5000])
    """
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


WEIGHTINGS: Registry[type[Weighting]] = Registry("weighting")
"""All methods by name; add your own with ``@WEIGHTINGS.register("mine")``."""
