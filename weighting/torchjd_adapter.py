"""torchjd's weightings that map a Gramian to weights, as methods of this package: ``weighting=torchjd/upgrad``.

torchjd (Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024) updates by sum_t v_t g_t, the step
of this package by (1/T) sum_t w_t g_t: hence w = T v. The package is imported when a step is built, and not before.
Methods that draw random orders (pcgrad, gradvac) use torch's global generator.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossrag import ConfigError
from weighting.base import Signals, State, Weighting

INSTALL = 'pip install "lossrag[baselines]"'
UNTIL = {"pcd.tau": 1, "pcd.beta": 1 - 1e-12, "gradvac.beta": 1}
LEAST = {"krum.n_selected": 1, "mgda.max_iters": 1, "fairgrad.max_iters": 1}
POSITIVE = ("mgda.epsilon",)


@dataclass(frozen=True)
class TorchJD(Weighting):
    """Base of the adapters: the fields of a subclass are the options of torchjd's class ``peer``.

    Raises ConfigError for options out of range, and from :meth:`init` when torchjd or a solver it needs is missing.
    """

    needs_gramian: ClassVar[bool] = True
    peer: ClassVar[str]
    name: ClassVar[str]
    memory: ClassVar[Mapping[str, str]] = {}
    """The tensors that torchjd's object remembers: key in the state -> its attribute."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) or value is None:
                continue
            key = f"{self.name}.{field.name}"
            low, high = LEAST.get(key, 0), UNTIL.get(key, math.inf)
            if not low <= value <= high or not math.isfinite(value) or (value == 0 and key in POSITIVE):
                expected = f"from {low} to {high:g}" if high < math.inf else f"{low} or more"
                expected = "positive" if key in POSITIVE else expected
                raise ConfigError(f"torchjd/{self.name}: {field.name} must be {expected}, got {value}.")

    def make(self, module: Any) -> Any:
        """torchjd's object with these options, from its module ``torchjd.aggregation``."""
        return getattr(module, self.peer)(**dataclasses.asdict(self))

    def fresh(self, tasks: int) -> State:
        """What torchjd's object remembers before the first step, by the keys of ``memory``."""
        return {}

    def state_key(self, tasks: int, dtype: torch.dtype) -> Any:
        """torchjd's mark of what its memory is for; without it the memory would be reset."""

    def init(self, tasks: int, device: torch.device) -> State:
        """Every weight 1, and torchjd's own memory at its start."""
        _instance(self)
        return {**super().init(tasks, device), **self.fresh(tasks)}

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """T v (T,); NaN when the Gramian is not finite, which the check of the step's record reports."""
        assert signals.gramian is not None
        B = signals.gramian
        B = B.float() if B.dtype in (torch.bfloat16, torch.float16) else B
        peer = _instance(self)
        for key, attribute in self.memory.items():
            setattr(peer, attribute, state[key].to(B.dtype if key == "cosines" else state[key].dtype, copy=True))
        if self.memory:
            peer._state_key = self.state_key(len(B), B.dtype)
        if not torch.isfinite(B).all():
            weights = torch.full_like(state["weights"], torch.nan)
            return weights, {**state, "weights": weights}
        try:
            found = peer(B)
        except ValueError as error:
            raise ConfigError(f"torchjd/{self.name} cannot weigh these {len(B)} tasks: {error}") from None
        weights = len(B) * found.detach().to(state["weights"])
        kept = {key: getattr(peer, attribute).to(state[key]) for key, attribute in self.memory.items()}
        return weights, {"weights": weights, **kept}


@lru_cache(maxsize=32)
def _instance(method: TorchJD) -> Any:
    """torchjd's object; equal methods share it, as its memory is set before every use."""
    try:
        module = importlib.import_module("torchjd.aggregation")
    except ImportError:
        raise ConfigError(f"weighting=torchjd/{method.name} needs torchjd, which is not installed: {INSTALL}") from None
    try:
        return method.make(module)
    except ImportError as error:
        raise ConfigError(f"weighting=torchjd/{method.name}: {error}") from None
