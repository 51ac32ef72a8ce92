"""Policies: which losses a task is composed of, and whether evidence in the run moves their shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lossrag.checks import check_choice, check_least, check_positive, require
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
    those that the experience of a ``bank`` speaks for.
    evidence: whether contributions measured in the run move the shares: ``never``, ``may`` or ``must``.
    usual: the evidence of a run that does not say which: ``none`` or ``look_ahead``.
    """

    candidates: str
    evidence: str
    usual: str = "none"


POLICIES: dict[str, Policy] = {
    "fixed": Policy("reference", evidence="never"),
    "uniform": Policy("all", evidence="never"),
    "random": Policy("random", evidence="may", usual="look_ahead"),
    "gradient": Policy("all", evidence="must", usual="look_ahead"),
    "retrieval": Policy("bank", evidence="may"),
}
"""Ways to choose the losses that a task may be made of, by name (``loss.policy`` of the command)."""


@dataclass(frozen=True)
class ComposerConfig:
    """Options of a composer.

    policy: a name of POLICIES. candidates: names to choose from, None for the whole library.
    k: losses of a task at a time with a random choice; with a retrieved one so many besides its reference.
    risk: standard errors that an expected gain is lowered by before it counts.
    temperature: the gain, as a share of 1, that changes the odds of a retrieved loss by a factor e.
    questions: moments at which a bank is asked about the tasks that are made of their reference alone, as shares of the
        training; 0 is before the first step.
    confidence: standard errors that a contribution must lie below the mixture's for evidence to switch its loss off.
    retry: reviews it stays off.

    Raises OptionError for values out of range.
    """

    policy: str = "retrieval"
    candidates: tuple[str, ...] | None = None
    k: int = 8
    risk: float = 1.5
    temperature: float = 0.005
    questions: tuple[float, ...] = (0.0, 0.05)
    confidence: float = 2.0
    retry: int = 4

    def __post_init__(self) -> None:
        check_choice(self, "policy", tuple(POLICIES))
        check_least(self, 1, "k")
        check_least(self, 0, "risk", "confidence", "retry")
        check_positive(self, "temperature")
        named = self.candidates is None or len(self.candidates) > 0
        require(named, self, "{candidates} is empty: name at least one loss, or None (null) for the whole library.")
        asked = list(self.questions)
        ascending = asked == sorted(set(asked)) and all(0 <= share < 1 for share in asked) and len(asked) > 0
        text = f"{{questions}} must be ascending shares of the training in [0, 1), one at least, got {asked}."
        require(ascending, self, text)


def question_steps(config: ComposerConfig, total_steps: int) -> list[int]:
    """The steps after which a bank is asked, ascending, 0 for before the first one; none where the policy asks none.

    >>> question_steps(ComposerConfig(), 300)
    [0, 15]
    """
    if POLICIES[config.policy].candidates != "bank":
        return []
    return sorted({max(round(share * total_steps), 1) if share else 0 for share in config.questions})


def library(tasks: Sequence[TaskSpec], config: ComposerConfig, evidence: EvidenceOptions | None) -> list[str]:
    """The names on offer, in a stable order: those that fit a task, and every task's reference.

    Losses on pairs of samples, which cost a batch squared, are offered where they are named, and where a bank is asked
    that may know them.

    Raises ConfigError for a reference that is for other targets, a loss that the evidence cannot compare, or one that
    is named and needs what a task has not.
    """
    kinds = {task.target_kind for task in tasks}
    candidates = POLICIES[config.policy].candidates
    pairs = candidates == "bank" and evidence is None
    named = [name for name, loss in LOSSES.items() if pairs or not loss.relational]
    offered = [name for name in config.candidates or named if LOSSES[name].target_kind in kinds]
    for task in tasks:
        reference = LOSSES[task.reference]
        if reference.target_kind != task.target_kind:
            raise ConfigError(
                f"Task {task.name!r}: its loss {task.reference!r} is for {reference.target_kind}, not "
                f"{task.target_kind}."
            )
        if candidates != "reference":
            _check_needs(task, config)
    references = [task.reference for task in tasks]
    names = sorted({*(() if candidates == "reference" else offered), *references})
    for name in [*references, *(config.candidates or ())]:
        if evidence is not None and not evidence.judges(LOSSES[name], active=True):
            raise OptionError(
                type(evidence).__name__,
                f"The loss {name!r} works on pairs of samples, which a look ahead cannot compare others with: look one "
                "step ahead, or leave it out.",
            )
    return names


def _check_needs(task: TaskSpec, config: ComposerConfig) -> None:
    """Raise OptionError where a loss that is named needs class counts, and the task has none."""
    for name in config.candidates or ():
        lacks = "class_counts" in LOSSES[name].needs and task.class_counts is None
        text = (
            f"{{candidates}} names {name}, which needs class counts, and the task {task.name!r} has none: give its "
            f"TaskSpec class_counts (K,), its training samples per class, or leave {name} out."
        )
        require(not (lacks and LOSSES[name].target_kind == task.target_kind), config, text)


def suits(loss: Loss, task: TaskSpec, named: bool) -> bool:
    """True for a loss that is offered to a task: of its target kind, with all that it needs, and no correction of
    priors that are even anyway or that nobody asks for.

    Where classes are about as frequent, what a loss makes of their counts is chance, which the small query split shares
    and rewards; where rows count alike, frequent classes are to be preferred. ``named``: the losses were chosen by
    hand, and all of them are offered.

    >>> task = TaskSpec("TALK", "classification", "cross_entropy", torch.tensor([90.0, 100.0]))
    >>> suits(LOSSES["logit_adjusted_1"], task, named=False), suits(LOSSES["mae"], task, named=False)
    (False, True)
    """
    if loss.target_kind != task.target_kind:
        return False
    if "class_counts" not in loss.needs:
        return True
    if task.class_counts is None:
        return False
    if named:
        return True
    return task.by_class and bool(task.class_counts.max() >= BALANCED * task.class_counts.min())


def spread(first: int, fitting: Sequence[int], losses: Sequence[Loss], k: int) -> list[int]:
    """k losses that look at a task in different ways: the first, then always the one farthest from those chosen."""
    vectors = torch.stack([geometry(losses[i]) for i in fitting])
    chosen = [list(fitting).index(first)]
    distance = (vectors - vectors[chosen[0]]).norm(dim=1)
    while len(chosen) < min(k, len(fitting)):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (vectors - vectors[chosen[-1]]).norm(dim=1))
    return sorted(fitting[i] for i in chosen)
