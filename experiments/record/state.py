"""State of a run in its checkpoints: everything that a resumed run cannot compute from (seed, epoch, step)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lossrag import __version__
from lossrag.errors import CheckpointError
from lossrag.experiments.record.checkpoint import load_checkpoint, pack, pack_optimizer, unpack, unpack_optimizer
from lossrag.experiments.record.directory import RunDirectory
from lossrag.experiments.record.versions import refuse_newer
from lossrag.lossbank import LearnedLosses
from lossrag.models import MultiTaskModel
from lossrag.tensors import save_tensors
from lossrag.weighting import MultiTaskStep


@dataclass
class Best:
    """The epoch that validation chose so far (1-based), its score, its model and its task weights."""

    epoch: int = 0
    score: float = float("-inf")
    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Progress:
    """Standing of a run: ``done`` steps of epoch ``epoch`` (0-based) are behind it.

    ``trajectory`` holds the mean task weights of each finished epoch, ``sums`` what the current one adds up;
    ``offset`` is the size of metrics.jsonl.
    """

    epoch: int = 0
    done: int = 0
    seconds: float = 0.0
    offset: int = 0
    best: Best = field(default_factory=Best)
    trajectory: list[list[float]] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)


class Remembers(Protocol):
    """Part of a run with a state of tensors."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that it cannot compute again."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`."""


PLAIN = ("epoch", "done", "seconds", "offset", "trajectory")
"""Fields of a :class:`Progress` that the metadata of a checkpoint hold as they are."""


def is_finite(model: MultiTaskModel) -> bool:
    """True where every parameter is (reads the device)."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def save_state(
    directory: RunDirectory,
    edition: str,
    model: MultiTaskModel,
    step: MultiTaskStep,
    progress: Progress,
    learned: LearnedLosses | None = None,
    contexts: Remembers | None = None,
) -> None:
    """Write the checkpoints of this moment, the best epoch's before the one that refers to it."""
    directory.lease.check()
    best = progress.best
    if best.tensors:
        save_tensors(directory.best, best.tensors, {"kind": "best", "run_id": directory.run_id, "epoch": best.epoch})
    optimizer, groups = pack_optimizer(step.optimizer)
    tensors = (
        pack("model", model.state_dict())
        | pack("optimizer", optimizer)
        | pack("step", step.state_dict())
        | pack("sums", progress.sums)
        | pack("composition", learned.state_dict() if learned else {})
        | pack("contexts", contexts.state_dict() if contexts else {})
    )
    meta = {
        "kind": "last",
        "run_id": directory.run_id,
        "edition": edition,
        "version": __version__,
        "groups": groups,
        "best": {"epoch": best.epoch, "score": best.score},
        **{name: getattr(progress, name) for name in PLAIN},
    }
    save_tensors(directory.last, tensors, meta)


def load_state(
    directory: RunDirectory,
    edition: str,
    model: MultiTaskModel,
    step: MultiTaskStep,
    learned: LearnedLosses | None = None,
    contexts: Remembers | None = None,
) -> Progress:
    """Put the last checkpoint into the objects of the run; a fresh Progress when there is none.

    Raises CheckpointError when it is damaged, belongs to another run, or was trained on another edition of the data.
    """
    if not directory.last.exists():
        return Progress()
    tensors, meta = load_checkpoint(directory.last)
    refuse_newer(directory.last, meta.get("version"))
    if (meta.get("kind"), meta.get("run_id")) != ("last", directory.run_id):
        raise CheckpointError(
            f"The checkpoint {directory.last} is not the last one of run {directory.run_id}: delete it to start the "
            "run over, or restore the right one."
        )
    if meta["edition"] != edition:
        raise CheckpointError(
            f"{directory.last} was trained on other data, so this run cannot go on from it:\n"
            f"  then: {meta['edition']}\n  now:  {edition}\nRestore the data, or start anew with run.again=true."
        )
    best = Best(**meta["best"])
    if best.epoch:
        best.tensors, stored = load_checkpoint(directory.best)
        if (stored.get("kind"), stored.get("run_id")) != ("best", directory.run_id) or stored["epoch"] < best.epoch:
            raise CheckpointError(
                f"The checkpoint {directory.best} is not that of epoch {best.epoch} of run {directory.run_id}: restore "
                f"it, or delete {directory.last} to start the run over."
            )
        if stored["epoch"] > best.epoch:
            # killed between the two files: that better epoch is ahead, and will be chosen again
            best = Best()
    model.load_state_dict(unpack("model", tensors))
    unpack_optimizer(step.optimizer, unpack("optimizer", tensors), meta["groups"])
    step.load_state_dict(unpack("step", tensors))
    if learned:
        learned.load_state_dict(unpack("composition", tensors))
    if contexts:
        contexts.load_state_dict(unpack("contexts", tensors))
    sums = {name: tensor.to(step.device) for name, tensor in unpack("sums", tensors).items()}
    return Progress(best=best, sums=sums, **{name: meta[name] for name in PLAIN})
