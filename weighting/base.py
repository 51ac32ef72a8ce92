"""The contract of every weighting method: a pure map from the signals of a step to T task weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lossrag.checks import check_choice
from lossrag.errors import ConfigError
from lossrag.registry import Registry

State = dict[str, Tensor]
"""What a method remembers between steps; always holds "weights" (T,), the weights of the next step."""


@dataclass(frozen=True)
class HypergradientSpec:
    """Which hypergradient D a method asks the step for (options of Eq. 10 that the paper leaves open).

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
class Signals:
    """What a step tells a method before the update: support ``losses`` (T,), detached, and, if it asked for it, the
    ``gramian`` (T, T) of the gradients with respect to the parameters that several tasks touch, and the ``scores``
    (T,) of the support batch, 1 being perfect; ``epoch`` from 0, ``step`` from 1; ``representation`` (T, T), the
    Gramian of the gradients with respect to the features that the heads read."""

    losses: Tensor
    gramian: Tensor | None = None
    scores: Tensor | None = None
    epoch: int = 0
    step: int = 1
    representation: Tensor | None = None


@dataclass(frozen=True)
class Outer:
    """What the outer problem found in one step: ``lam`` (T,), common descent direction ``direction`` (T,),
    the solver's relative duality ``gap`` () and its ``iterations`` ()."""

    lam: Tensor
    direction: Tensor
    gap: Tensor
    iterations: Tensor


@dataclass(frozen=True)
class Weighting:
    """Base of all methods. Subclasses are frozen dataclasses whose fields are their options.

    A method is stateless itself: what it remembers is a dictionary of tensors that the step carries and
    a checkpoint stores.
    """

    shares_parameters: ClassVar[bool] = True
    """False for single-task learning, which is only itself when no parameter is shared."""

    needs_gramian: ClassVar[bool] = False
    """Whether :meth:`weigh` reads the Gramian."""

    weighs: ClassVar[str] = "shared"
    """What the weights of a method apply to that reads the Gramian or the representation: with ``shared``, each task's
    own parameters get the gradient of its own loss unweighted, with ``all`` they are weighed too, as by other methods.
    """

    needs_scores: ClassVar[bool] = False
    """Whether :meth:`weigh` reads the scores of the support batch: the loop must pass ``scores`` to the step."""

    needs_epoch: ClassVar[bool] = False
    """Whether :meth:`weigh` reads the number of the epoch: the loop must pass ``epoch`` to the step."""

    @property
    def hypergradient(self) -> HypergradientSpec | None:
        """The hypergradient that :meth:`learn` needs, or None when the method has no outer problem."""
        return None

    @property
    def gramian_of(self) -> str:
        """Which parameters the Gramian is about: ``shared``, those that several tasks touch, or ``all``."""
        return "shared"

    @property
    def representation(self) -> str | None:
        """How the representation gradients are to be compared (weighting/gradients/features.py), or None for methods
        that
        do not read them; else the loop must pass ``representation`` to the step."""
        return None

    def init(self, tasks: int, device: torch.device) -> State:
        """The state before the first step: every weight 1, as in Algorithm 1."""
        return {"weights": torch.ones(tasks, dtype=state_dtype(device), device=device)}

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """Task weights (T,) of this step, and the state after it."""
        return state["weights"], state

    def learn(self, state: State, hypergradient: Tensor) -> tuple[State, Outer]:
        """The state after the outer step, from D (T, T); D[t, j] = d L_t^query / d w_j."""
        raise ConfigError(f"{type(self).__name__} has no outer problem: it takes no query losses.")


def state_dtype(device: torch.device) -> torch.dtype:
    """Weights move by 1e-4 a step at the paper's scale, which float32 would round; MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


WEIGHTINGS: Registry[type[Weighting]] = Registry("weighting")
"""All methods by name; add your own with ``@WEIGHTINGS.register("mine")``."""
