"""Query of a bank: what it says of a task of a run, as that run was told, or of a task that is described."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossrag.errors import ConfigError, did_you_mean
from lossrag.experiments.bank.asked import asked_of
from lossrag.experiments.config.schema import LossConfig
from lossrag.experiments.run.contexts import encoder_kind
from lossrag.experiments.run.learned_losses import judged_by_class
from lossrag.lossbank import CONTEXT_NAMES, Answer, Composer, Gain, LossBank, TaskSpec
from lossrag.lossbank.composing.retrieval import explained, ranked, shares_of
from lossrag.lossbank.experience.snapshots import REFERENCES
from lossrag.lossbank.library.contract import TARGET_KINDS

SIDES = ("support_", "query_")
BOTH = sorted({name.removeprefix(side) for name in CONTEXT_NAMES for side in SIDES if name.startswith(side)})
"""Entries that are described for both sides at once by leaving the side out."""
DESCRIBABLE = ("kind", "classes", "encoder", *BOTH, *(name for name in CONTEXT_NAMES if name not in TARGET_KINDS))
EARLY = 0.05
"""Progress of a task that is described, where nothing is said of it: the moment at which runs ask."""
_AT = {name: place for place, name in enumerate(CONTEXT_NAMES)}


@dataclass(frozen=True, eq=False)
class Told:
    """What a bank answers about a task at a moment, and what a run makes of it: by loss the gains over the reference,
    the shares of the task, largest first, and why."""

    title: str
    answer: Answer
    gains: Mapping[str, Gain]
    shares: Mapping[str, float]
    reason: str


def asked(
    bank: LossBank,
    config: LossConfig,
    task: TaskSpec,
    encoder: str,
    context: Tensor,
    title: str,
    shares: Mapping[str, float] | None = None,
) -> Told:
    """The answer for a task in a context (C,); shares: what it is made of, by default what a task that was made of its
    reference alone would be."""
    composer = Composer([task], config, config.evidence_options, bank, encoder)
    progress = float(context[_AT["progress"]])
    answer = bank.ask(composer.question(0, context, progress))
    gains = composer.gains(0, answer)
    if shares is None:
        bounds = ranked(gains, task.reference, config, 1 if progress else len(answer.neighbours))
        new = shares_of(bounds, task.reference, config.temperature)
        shares = dict(sorted(new.items(), key=lambda item: (-item[1], item[0])))
    return Told(title, answer, gains, shares, explained(answer, gains, shares, task.reference))


def of_run(directory: Path, task: str, bank: LossBank | None = None, step: int | None = None) -> Told:
    """What a run's bank says of its task at the last step at which the run asked about it, or another: the answer
    that the run had, as long as the bank has not changed. Another bank answers without the sources that the run
    excluded, and as if the task were made of its reference alone.

    Raises ConfigError when the folder holds no run that asked a bank, or it has no such task.
    """
    questions = asked_of(directory)
    names = questions.tasks
    if task not in names:
        raise ConfigError(f"The run {directory} has no task {task!r}: {did_you_mean(task, names)}")
    steps = [number for number in questions.steps if (task, number) in questions.answers]
    if not steps:
        raise ConfigError(f"The run {directory} has not asked about {task} up to its last checkpoint.")
    chosen = steps[-1] if step is None else step
    if chosen not in steps:
        raise ConfigError(f"The run {directory} did not ask about {task} after step {chosen}: choose from {steps}.")
    context = questions.contexts[questions.steps.index(chosen), names.index(task)]
    if not bool(context.isfinite().all()):
        raise ConfigError(f"The run {directory} did not ask after step {chosen}: its context of {task} is not finite.")
    config = questions.config
    kind = _kind(context)
    spec = _task(task, kind, getattr(config.loss, kind), context, judged_by_class(config))
    title = f"{task} after step {chosen} of {directory}"
    shares = None if bank else questions.answers[task, chosen].shares or None
    return asked(questions.bank(bank), config.loss, spec, encoder_kind(config), context, title, shares)


def of_description(bank: LossBank, description: Mapping[str, Any], config: LossConfig) -> Told:
    """What a bank says of a task of ``key=value`` entries.

    ``kind``, ``classes`` and ``encoder`` say what the task is; the other keys are names of CONTEXT_NAMES, or those
    without ``support_`` or ``query_`` for both. What is not said is as it was on average in the cases of the bank, at
    the moments of about that progress. Raises ConfigError for other keys and for values that are no numbers.
    """
    for key in description:
        if key not in DESCRIBABLE:
            raise ConfigError(f"A task is not described by {key!r}: {did_you_mean(key, DESCRIBABLE)}")
    kind = str(description.get("kind", "classification"))
    if kind not in TARGET_KINDS:
        raise ConfigError(f"kind={kind} is unknown: {did_you_mean(kind, TARGET_KINDS)}")
    numbers = {key: _number(key, value) for key, value in description.items() if key not in ("kind", "encoder")}
    progress = min(max(numbers.get("progress", EARLY), 0.0), 1.0)
    context = _average(bank, kind, progress)
    context[_AT["progress"]] = progress
    for key, number in numbers.items():
        if key == "classes":
            if number < 1:
                raise ConfigError(f"classes={number:g}: a task has 1 output or more.")
            context[_AT["outputs"]] = min(math.log2(number) / 10, 1.0)
        elif key != "progress":
            for name in (key,) if key in _AT else [side + key for side in SIDES]:
                if name in _AT:
                    context[_AT[name]] = number
    encoders = bank.experience.texts("encoder").tolist()
    encoder = str(description.get("encoder", max(sorted(set(encoders)), key=encoders.count, default="mlp")))
    look = torch.from_numpy(context)
    title = f"such a {kind} with the encoder {encoder} after {progress:.0%} of the steps"
    return asked(bank, config, _task("described", kind, REFERENCES[kind], look), encoder, look, title)


def _task(name: str, kind: str, reference: str, context: Tensor, by_class: bool = True) -> TaskSpec:
    """With class counts as uneven as the context says: that decides which losses are on offer."""
    rarest = max(float(context[_AT["balance_rarest"]]), 0.0)
    counts = torch.tensor([1.0, rarest]) if kind == "classification" else None
    return TaskSpec(name, kind, reference, counts, by_class)


def _kind(context: Tensor) -> str:
    return "classification" if context[_AT["classification"]] > 0.5 else "regression"


def _average(bank: LossBank, kind: str, progress: float) -> NDArray[np.float32]:
    """The mean context of a kind of target at the moments nearest to a progress."""
    experience = bank.experience
    alike = experience.contexts[:, _AT[kind]] > 0.5
    contexts, near = experience.contexts[alike], np.abs(experience.progress[alike] - progress)
    context = np.zeros(len(CONTEXT_NAMES))
    if len(contexts):
        context = contexts[near <= near.min() + 1e-6].mean(axis=0, dtype=np.float64)
    context[_AT[kind]] = 1.0
    return context.astype(np.float32)


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{key}={value} is no number: describe a task with numbers, e.g. {key}=0.4")
    return float(value)


def neighbour_lines(answer: Answer, most: int) -> list[str]:
    """The nearest cases that answered, a line each."""
    return [
        f"{near.distance:.2f}  {near.case.source}, {near.case.task}: {near.case.trouble}, {near.case.encoder}"
        for near in answer.neighbours[:most]
    ]


def losses_of(told: Told, k: int) -> Sequence[str]:
    """The k losses with the highest expected gains, and all that have a share: last those that nothing is known of."""
    order = sorted(told.gains, key=lambda name: (-told.gains[name].mean, name))
    known = [name for place, name in enumerate(order) if place < k or name in told.shares]
    return [*known, *(name for name in told.shares if name not in told.gains)]
