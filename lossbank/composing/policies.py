"""Policies: which losses a task is composed of, and whether their shares are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lossrag.checks import check_choice, check_least, require
from lossrag.errors import ConfigError, OptionError
from lossrag.lossbank.composing.evidence import EvidenceOptions, TaskSpec
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.library.registration import LOSSES
from lossrag.lossbank.shape.geometry import geometry

BALANCED = 2.0
"""Samples of a task's most frequent class over those of its rarest, below which its priors are taken as even."""


@dataclass(frozen=True)
class Policy:
    """candidates: ``reference`` (the task's configured loss alone), ``all`` that fit the task, ``random`` k of them, or
    those retrieved by the memory's nearest contexts (``knn``) or by the two towers (``two_tower``).
    learned: whether the outer problem moves the shares."""

    candidates: str
    learned: bool

    @property
    def retrieves(self) -> bool:
        """True where candidates are chosen by what a bank remembers."""
        return self.candidates in ("knn", "two_tower")


POLICIES: dict[str, Policy] = {
    "fixed": Policy("reference", learned=False),
    "uniform": Policy("all", learned=False),
    "random": Policy("random", learned=True),
    "gradient": Policy("all", learned=True),
    "knn": Policy("knn", learned=True),
    "two_tower": Policy("two_tower", learned=True),
}


@dataclass(frozen=True)
class ComposerConfig:
    """Options of a composer.

    policy: a name of POLICIES. learn: False keeps the shares where retrieval (or chance) put them.
    candidates: names to choose from, None for the whole library.
    k: losses of a task at a time, with a random or retrieved choice. explore: how many of them are tried for being
        uncertain rather than promising.
    confidence: standard errors that a contribution must lie below the mixture's for its loss to be switched off.
    retry: reviews it stays off.
    relational: whether losses on pairs of samples, which cost a batch squared, are offered.

    Raises OptionError for values out of range.
    """

    policy: str = "two_tower"
    learn: bool = True
    candidates: tuple[str, ...] | None = None
    k: int = 8
    explore: int = 2
    confidence: float = 2.0
    retry: int = 4
    relational: bool = True

    def __post_init__(self) -> None:
        check_choice(self, "policy", tuple(POLICIES))
        check_least(self, 1, "k")
        check_least(self, 0, "explore", "confidence", "retry")
        require(
            self.explore < self.k,
            self,
            f"{{explore}}={self.explore} leaves none of {{k}}={self.k} to what is promising.",
        )
        named = self.candidates is None or len(self.candidates) > 0
        require(named, self, "{candidates} is empty: name at least one loss, or None (null) for the whole library.")


def library(tasks: Sequence[TaskSpec], config: ComposerConfig, evidence: EvidenceOptions) -> list[str]:
    """The names on offer, in a stable order: those that fit a task, and every task's reference.

    Raises ConfigError for a reference that is for other targets, or that the evidence cannot compare others with.
    """
    kinds = {task.target_kind for task in tasks}
    named = list(LOSSES) if config.candidates is None else list(config.candidates)
    offered = [name for name in named if LOSSES[name].target_kind in kinds]
    if not config.relational:
        offered = [name for name in offered if not LOSSES[name].relational]
    alone = POLICIES[config.policy].candidates == "reference"
    for task in tasks:
        reference = LOSSES[task.reference]
        if reference.target_kind != task.target_kind:
            raise ConfigError(
                f"Task {task.name!r}: its loss {task.reference!r} is for {reference.target_kind}, not "
                f"{task.target_kind}."
            )
        if not alone and not evidence.judges(reference, active=True):
            raise OptionError(
                type(evidence).__name__,
                f"The loss {task.reference!r} of task {task.name!r} works on pairs of samples, which a look ahead "
                "cannot compare others with: look one step ahead, {horizon}=1.",
            )
    return sorted({*(() if alone else offered), *(task.reference for task in tasks)})


def suits(loss: Loss, task: TaskSpec, named: bool) -> bool:
    """True for a loss that is offered to a task: of its target kind, and no correction of priors that are even anyway.

    Where classes are about as frequent, what a loss makes of their counts is chance, which the small query split shares
    and rewards. ``named``: the losses were chosen by hand, and all of them are offered.

    >>> task = TaskSpec("TALK", "classification", "cross_entropy", torch.tensor([90.0, 100.0]))
    >>> suits(LOSSES["logit_adjusted_1"], task, named=False), suits(LOSSES["mae"], task, named=False)
    (False, True)
    """
    if loss.target_kind != task.target_kind:
        return False
    if named or task.class_counts is None or "class_counts" not in loss.needs:
        return True
    return bool(task.class_counts.max() >= BALANCED * task.class_counts.min())


def spread(first: int, fitting: Sequence[int], losses: Sequence[Loss], k: int) -> list[int]:
    """k losses that look at a task in different ways: the first, then always the one farthest from those chosen."""
    vectors = torch.stack([geometry(losses[i]) for i in fitting])
    chosen = [list(fitting).index(first)]
    distance = (vectors - vectors[chosen[0]]).norm(dim=1)
    while len(chosen) < k:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (vectors - vectors[chosen[-1]]).norm(dim=1))
    return sorted(fitting[i] for i in chosen)
