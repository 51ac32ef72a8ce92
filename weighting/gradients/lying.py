"""Gradients that lie about: left by a step for people to look at, they are no part of the next one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Lying:
    """The gradients of some parameters at a moment, without keeping them alive."""

    known: tuple[tuple[Callable[[], Tensor | None], int], ...] = ()

    @staticmethod
    def of(parameters: Iterable[Tensor]) -> Lying:
        """As they are now."""
        return Lying(tuple((weakref.ref(p.grad), p.grad._version) for p in parameters if p.grad is not None))

    def others(self, parameters: Iterable[Tensor]) -> list[Tensor | None]:
        """By parameter its gradient, if it is another one than then, or something was added to it since."""
        there = [(gradient(), version) for gradient, version in self.known]
        same = {id(gradient) for gradient, version in there if gradient is not None and gradient._version == version}
        return [None if p.grad is None or id(p.grad) in same else p.grad for p in parameters]
