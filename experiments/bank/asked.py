"""Questions that a finished or running run has put to its bank, read from its directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lossrag.errors import CheckpointError, ConfigError
from lossrag.experiments.config.compose import build_config
from lossrag.experiments.config.schema import Config
from lossrag.experiments.record.checkpoint import load_checkpoint, unpack
from lossrag.experiments.record.composition_log import ANSWERS, read_events
from lossrag.experiments.record.settings import read_settings
from lossrag.experiments.run.learned_losses import open_bank
from lossrag.lossbank import CONTEXT_NAMES, Event, LossBank


@dataclass(frozen=True, eq=False)
class AskedRun:
    """A run whose T ``tasks`` were asked about after S ``steps``, in the contexts (S, T, C), no numbers for a task
    that was not asked about; answers: by task and step what came of it."""

    directory: Path
    config: Config
    tasks: Sequence[str]
    steps: Sequence[int]
    contexts: Tensor
    answers: Mapping[tuple[str, int], Event]

    def bank(self, other: LossBank | None = None) -> LossBank:
        """The bank that it asked, as it is now, or another one: without the sources that the run excluded.

        Raises ConfigError where it had none, and BankError when that is gone or damaged.
        """
        loss = self.config.loss
        if other is not None:
            return LossBank(other.experience, [source for source in loss.bank_exclude if source in other.sources])
        own = open_bank(loss.bank, loss.bank_exclude)
        if own is None:
            raise ConfigError(f"The run {self.directory} had no bank to ask: name one, bank=builtin.")
        return own


def asked_of(directory: Path) -> AskedRun:
    """What a run has asked its bank; raises ConfigError when the folder holds no run, or one that asked nothing."""
    config = build_config(read_settings(directory))
    answers = {(event.task, event.step): event for event in read_events(directory) if event.what in ANSWERS}
    path = directory / "checkpoints" / "last.safetensors"
    state = unpack("composition", load_checkpoint(path)[0]) if path.exists() else {}
    tasks = list(dict.fromkeys(task for task, _ in answers))
    looks = _looks(state, len(tasks), path)
    contexts = {step: state["contexts"][looks.index(step)] for step in sorted({step for _, step in answers} & {*looks})}
    # a run that goes on may have asked after its last checkpoint
    steps = [step for step, context in contexts.items() if not bool(context.isnan().all())]
    if not steps:
        raise ConfigError(f"The run {directory} has not asked a bank: only runs with loss.policy=retrieval do.")
    return AskedRun(directory, config, tasks, steps, torch.stack([contexts[step] for step in steps]), answers)


def _looks(state: Mapping[str, Tensor], tasks: int, path: Path) -> list[int]:
    """The steps after which contexts were taken; none where no task was asked about.

    Raises CheckpointError where they are of fewer tasks.
    """
    if "looks" not in state or not tasks:
        return []
    looks, contexts = state["looks"], state.get("contexts", torch.zeros(0))
    of_tasks = contexts.dim() == 3 and contexts.shape[1] >= tasks and contexts.shape[2] == len(CONTEXT_NAMES)
    if not of_tasks or looks.dim() != 1 or len(looks) != len(contexts):
        raise CheckpointError(f"The checkpoint {path} holds contexts of other tasks than events.jsonl tells of.")
    steps: list[int] = looks.tolist()
    return steps
