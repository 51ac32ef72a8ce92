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
from omegaconf import OmegaConf
from torch import Tensor

from lossrag.errors import ConfigError, did_you_mean
from lossrag.experiments.config.compose import build_config
from lossrag.experiments.record.checkpoint import load_checkpoint, unpack
from lossrag.experiments.record.composition_log import read_events
from lossrag.experiments.run.contexts import encoder_kind
from lossrag.experiments.run.learned_losses import judged_by_class, open_bank
from lossrag.lossbank import CONTEXT_NAMES, Answer, Composer, ComposerConfig, Gain, LossBank, TaskSpec
from lossrag.lossbank.composing.retrieval import ranked, shares_of
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
    """What a bank answers about a task at a moment, and what a run would make of it: by loss the gains over the
    reference, and the shares of a task that is made of its reference alone so far."""

    title: str
    answer: Answer
    gains: Mapping[str, Gain]
    shares: Mapping[str, float]


def asked(bank: LossBank, config: ComposerConfig, task: TaskSpec, encoder: str, context: Tensor, title: str) -> Told:
    """The answer for a task in a context (C,)."""
    composer = Composer([task], config, bank=bank, encoder=encoder)
    progress = float(context[_AT["progress"]])
    answer = bank.ask(composer.question(0, context, progress))
    gains = composer.gains(0, answer)
    bounds = ranked(gains, task.reference, config, 1 if progress else len(answer.neighbours))
    return Told(title, answer, gains, shares_of(bounds, task.reference, config.temperature))


def of_run(directory: Path, task: str, bank: LossBank | None = None, step: int | None = None) -> Told:
    """What a run's bank, or another one, says of its task at the last step at which the run asked, or another one.

    Raises ConfigError when the folder holds no run that asked a bank, or it has no such task.
    """
    try:
        settings = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
        assert isinstance(settings, dict)
    except Exception:  # YAML and OmegaConf have many ways to stumble over what is no configuration
        raise ConfigError(f"run={directory} is no run directory (its config.yaml cannot be read): name one.") from None
    config = build_config({str(key): value for key, value in settings.items()})
    names = list(dict.fromkeys(event.task for event in read_events(directory)))
    steps = sorted({event.step for event in read_events(directory) if event.what in ("composed", "kept", "silent")})
    path = directory / "checkpoints" / "last.safetensors"
    state = unpack("composition", load_checkpoint(path)[0]) if path.exists() else {}
    if "contexts" not in state or not steps:
        raise ConfigError(f"The run {directory} has not asked a bank: only runs with loss.policy=retrieval do.")
    if task not in names:
        raise ConfigError(f"The run {directory} has no task {task!r}: {did_you_mean(task, names)}")
    chosen = steps[-1] if step is None else step
    if chosen not in steps:
        raise ConfigError(f"The run {directory} did not ask after step {chosen}: choose from {steps}.")
    context = state["contexts"][state["looks"].tolist().index(chosen), names.index(task)]
    known = bank or open_bank(config.loss.bank, config.loss.bank_exclude)
    if known is None:
        raise ConfigError(f"The run {directory} had no bank to ask: name one, bank=builtin.")
    kind = _kind(context)
    spec = _task(task, kind, getattr(config.loss, kind), context, judged_by_class(config))
    title = f"{task} after step {chosen} of {directory}"
    return asked(known, config.loss, spec, encoder_kind(config), context, title)


def of_description(bank: LossBank, description: Mapping[str, Any], config: ComposerConfig) -> Told:
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
    rarest = float(context[_AT["balance_rarest"]])
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
    """The k losses with the highest expected gains, and all that have a share."""
    order = sorted(told.gains, key=lambda name: (-told.gains[name].mean, name))
    return [name for place, name in enumerate(order) if place < k or name in told.shares]
