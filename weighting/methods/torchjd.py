"""torchjd's weightings that map a Gramian to weights, as methods of this package, with their options and sources.

torchjd (Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024) updates by sum_t v_t g_t, the step
of this package by (1/T) sum_t w_t g_t: hence w = T v. The package is imported when a step is built, and not before.
Methods that draw random orders (pcgrad, gradvac) use torch's global generator.

Copies of one gradient weigh the same in upgrad, dualproj and imtl_g. They need not in krum, which takes the first of
equals, in pcd, whose first task is special, after the random orders, in mgda, whose steps end early, and, where other
gradients are dependent, in cagrad, fairgrad and aligned_mtl, whose updates are the same for many weights.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from lossrag.checks import check_choice, check_least, check_positive, check_share, require
from lossrag.errors import ConfigError
from lossrag.extras import load_extra
from lossrag.weighting.base import WEIGHTINGS, Needs, Signals, State, Weighting
from lossrag.weighting.min_norm.rounding import definite


@dataclass(frozen=True)
class TorchJD(Weighting):
    """Base of the adapters: the fields of a subclass are the options of torchjd's class ``peer``.

    Raises ConfigError for options out of range, and from :meth:`init` when torchjd or a solver it needs is missing.
    """

    needs = Needs(gramian="shared", applies_to="shared")
    peer: ClassVar[str]
    name: ClassVar[str]
    reads_rank: ClassVar[bool] = False
    """Whether torchjd's class tells the rank of the Gramian by the precision of its dtype, and so has to be given that
    dtype; the others get it in float64, definite (weighting/min_norm/rounding.py)."""

    def __post_init__(self) -> None:
        check_least(self, 0, *(field.name for field in dataclasses.fields(self)))

    def make(self, module: Any) -> Any:
        """torchjd's object with these options, from its module ``torchjd.aggregation``."""
        return getattr(module, self.peer)(**dataclasses.asdict(self))

    def remembered(self, state: State, gramian: Tensor) -> Mapping[str, object]:
        """The attributes that hold the memory of torchjd's object, with what the state says."""
        return {}

    def kept(self, peer: Any, state: State) -> State:
        """The memory of torchjd's object, as entries of the state."""
        return {}

    def init(self, tasks: int, device: torch.device) -> State:
        """Every weight 1."""
        _instance(self)
        return super().init(tasks, device)

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """T v (T,); NaN when the Gramian is not finite, which the check of the step's record reports."""
        assert signals.gramian is not None
        B = signals.gramian
        if not self.reads_rank:
            B = definite(B)
        elif B.dtype in (torch.bfloat16, torch.float16):
            B = B.float()
        peer = _instance(self)
        if not torch.isfinite(B).all():
            weights = torch.full_like(state["weights"], torch.nan)
            return weights, {**state, "weights": weights}
        for attribute, value in self.remembered(state, B).items():
            setattr(peer, attribute, value)
        try:
            v = peer(B)
        except ValueError as error:
            raise ConfigError(f"torchjd/{self.name} cannot weigh these {len(B)} tasks: {error}") from None
        weights = len(B) * v.detach().to(state["weights"])
        return weights, {"weights": weights, **self.kept(peer, state)}


Adapter = TypeVar("Adapter", bound=TorchJD)


def _adapter(name: str, peer: str) -> Callable[[type[Adapter]], type[Adapter]]:
    """Decorator of the adapter ``torchjd/name`` of torchjd's class ``peer``."""

    def register(adapter: type[Adapter]) -> type[Adapter]:
        adapter.name, adapter.peer = name, peer
        return WEIGHTINGS.register(f"torchjd/{name}")(adapter)

    return register


@lru_cache(maxsize=32)
def _instance(method: TorchJD) -> Any:
    """torchjd's object; equal methods share it, as its memory is set before every use."""
    try:
        return method.make(load_extra("torchjd.aggregation", "baselines", f"torchjd/{method.name}"))
    except ImportError as error:  # a solver that torchjd names itself
        raise ConfigError(f"torchjd/{method.name}: {error}") from None


@dataclass(frozen=True)
class _Projecting(TorchJD):
    """Projection on the dual cone; norm_eps, reg_eps: torchjd's guards against zero and singular Gramians, >= 0.

    A Gramian of trace below norm_eps counts as 0: the gradients are then averaged, whatever their directions.
    """

    norm_eps: float = 1e-4
    reg_eps: float = 1e-4

    def make(self, module: Any) -> Any:
        """With a quadprog projector of these options."""
        projectors = importlib.import_module("torchjd.linalg")
        projector = projectors.QuadprogProjector(norm_eps=self.norm_eps, reg_eps=self.reg_eps)
        return getattr(module, self.peer)(projector=projector)


@_adapter("upgrad", "UPGradWeighting")
@dataclass(frozen=True)
class UPGrad(_Projecting):
    """UPGrad: the mean of the gradients, each projected on the dual cone of all (Quinton and Rey, 2024)."""


@_adapter("dualproj", "DualProjWeighting")
@dataclass(frozen=True)
class DualProj(_Projecting):
    """The projection of the mean gradient on the dual cone (Lopez-Paz and Ranzato, NeurIPS 2017, Eq. 11)."""


@_adapter("mgda", "MGDAWeighting")
@dataclass(frozen=True)
class TorchJDMGDA(TorchJD):
    """torchjd's MGDA: at most ``max_iters`` Frank-Wolfe steps, ended by one shorter than ``epsilon``."""

    epsilon: float = 1e-3
    max_iters: int = 100

    def __post_init__(self) -> None:
        check_positive(self, "epsilon")
        check_least(self, 1, "max_iters")


@_adapter("pcgrad", "PCGradWeighting")
@dataclass(frozen=True)
class PCGrad(TorchJD):
    """PCGrad: each gradient loses its conflicting parts in a random order (Yu et al., NeurIPS 2020, Algorithm 1)."""


@_adapter("imtl_g", "IMTLGWeighting")
@dataclass(frozen=True)
class IMTLG(TorchJD):
    """IMTL-G: equal projections of the update on all unit gradients (Liu et al., ICLR 2021)."""

    reads_rank: ClassVar = True


@_adapter("cagrad", "CAGradWeighting")
@dataclass(frozen=True)
class CAGrad(TorchJD):
    """CAGrad (Liu et al., NeurIPS 2021); ``c`` >= 0: radius around the mean gradient, relative to its length."""

    c: float = 0.5
    norm_eps: float = 1e-4


@_adapter("aligned_mtl", "AlignedMTLWeighting")
@dataclass(frozen=True)
class AlignedMTL(TorchJD):
    """Aligned-MTL (Senushkin et al., CVPR 2023); scale_mode: singular value to align to, min, median or rmse."""

    reads_rank: ClassVar = True

    scale_mode: str = "min"

    def __post_init__(self) -> None:
        check_choice(self, "scale_mode", ("min", "median", "rmse"))


@_adapter("fairgrad", "FairGradWeighting")
@dataclass(frozen=True)
class FairGrad(TorchJD):
    """FairGrad (Ban and Ji, ICML 2024); ``alpha`` >= 0: kind of fairness; max_iters: of scipy's solver, None for its
    own limit."""

    alpha: float = 1.0
    max_iters: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "max_iters")


@_adapter("krum", "KrumWeighting")
@dataclass(frozen=True)
class Krum(TorchJD):
    """Multi-Krum (Blanchard et al., NeurIPS 2017): the mean of the ``n_selected`` gradients nearest to the others when
    ``n_byzantine`` of them may lie; needs n_byzantine + 3 tasks.

    In a step in which fewer are present there is nothing to choose from: they weigh the same. Of gradients that are as
    near as each other, such as two that are each other's nearest, the first is taken.
    """

    n_byzantine: int = 1
    n_selected: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "n_selected")

    def init(self, tasks: int, device: torch.device) -> State:
        """Every weight 1; raises ConfigError where there are too few tasks."""
        least = self.least
        values = f"{{n_byzantine}}={self.n_byzantine} {{n_selected}}={self.n_selected}"
        floor = f"at least {least} tasks (n_byzantine + 3 and n_selected)"
        require(tasks >= least, self, f"{values} need {floor}, got {tasks}: lower them, or choose another weighting.")
        return super().init(tasks, device)

    @property
    def least(self) -> int:
        """The tasks that a choice takes."""
        return max(self.n_byzantine + 3, self.n_selected)

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """T / n_selected for the selected, 0 for the others; 1 for all where they are too few."""
        if len(state["weights"]) >= self.least:
            return super().weigh(state, signals)
        weights = torch.ones_like(state["weights"])
        return weights, {"weights": weights}


@_adapter("gradvac", "GradVacWeighting")
@dataclass(frozen=True)
class GradVac(TorchJD):
    """Gradient Vaccine (Wang et al., ICLR 2021); ``beta`` in [0, 1]: decay of the mean cosines it remembers (T, T)."""

    beta: float = 0.5
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 0, "beta", most=1)

    def init(self, tasks: int, device: torch.device) -> State:
        """Every weight 1, and no ``cosines`` (T, T) yet."""
        return {**super().init(tasks, device), "cosines": torch.zeros(tasks, tasks, dtype=torch.float64)}

    def remembered(self, state: State, gramian: Tensor) -> Mapping[str, object]:
        """The cosines, and torchjd's mark of what they are for, without which it would reset them."""
        cosines = state["cosines"].to(gramian.dtype, copy=True)
        return {"_phi_t": cosines, "_state_key": (len(cosines), gramian.dtype)}

    def kept(self, peer: Any, state: State) -> State:
        """The cosines."""
        return {"cosines": peer._phi_t.to(state["cosines"])}


@_adapter("pcd", "PCDWeighting")
@dataclass(frozen=True)
class PCD(TorchJD):
    """Priority-constrained descent (arXiv:2606.29521): the FIRST task is the primary one, the others keep a share
    ``tau`` of their progress; ``beta``: decay of the mean squared gradient lengths it remembers.

    Where the primary task is absent the first of those that are present takes its place.
    """

    reads_rank: ClassVar = True

    tau: float = 0.02
    beta: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 0, "tau", most=1)
        check_share(self, "beta")

    def init(self, tasks: int, device: torch.device) -> State:
        """Every weight 1, and no mean ``squares`` (T,) after ``steps`` (T,) yet; on the CPU, where torchjd computes."""
        memory = {"squares": torch.zeros(tasks, dtype=torch.float64), "steps": torch.zeros(tasks, dtype=torch.int64)}
        return {**super().init(tasks, device), **memory}

    def remembered(self, state: State, gramian: Tensor) -> Mapping[str, object]:
        """The moving averages as torchjd has them, short by the factor 1 - beta^steps, of one number of steps for all;
        a task that has been absent until now starts at its present square."""
        steps = state["steps"].max()
        squares = torch.where(state["steps"] > 0, state["squares"], gramian.diagonal().to(state["squares"]))
        short = 1 - self.beta ** int(steps)
        return {"_sq_norm_ema": squares * short, "_n_steps": steps.clone(), "_state_key": len(squares)}

    def kept(self, peer: Any, state: State) -> State:
        """The averages at their full length: those of a task that is absent do not shrink."""
        short = 1 - self.beta ** int(peer._n_steps)
        return {"squares": peer._sq_norm_ema / short, "steps": state["steps"] + 1}
