"""State of a run in its checkpoints: everything that a resumed run cannot compute from (seed, epoch, step)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from lossrag import __version__
from lossrag.errors import CheckpointError, ConfigError
from lossrag.experiments.record.checkpoint import (
    check_tensors,
    load_checkpoint,
    pack,
    pack_optimizer,
    unpack,
    unpack_optimizer,
)
from lossrag.experiments.record.directory import RunDirectory
from lossrag.experiments.record.finite import check_finite
from lossrag.experiments.record.versions import refuse_newer
from lossrag.lossbank import LearnedLosses
from lossrag.models import MultiTaskModel
from lossrag.schema import COUNT, FINITE, Unfit, Within, check_schema
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
    ``offset`` is the size of metrics.jsonl, ``events`` the link of the last line of events.jsonl (:class:`Chain`).
    """

    epoch: int = 0
    done: int = 0
    seconds: float = 0.0
    offset: int = 0
    best: Best = field(default_factory=Best)
    trajectory: list[list[float]] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)
    events: str = ""


class Remembers(Protocol):
    """Part of a run with a state of tensors."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that it cannot compute again."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`."""


PLAIN = ("epoch", "done", "seconds", "offset", "trajectory", "events")
"""Fields of a :class:`Progress` that the metadata of a checkpoint hold as they are."""


def save_state(
    directory: RunDirectory,
    edition: str,
    model: MultiTaskModel,
    step: MultiTaskStep,
    progress: Progress,
    learned: LearnedLosses | None = None,
    contexts: Remembers | None = None,
) -> None:
    """Write the checkpoints of this moment, the best epoch's before the one that refers to it.

    Raises DivergedError, and writes nothing, where a number in them is none; LeaseLostError where the directory is
    another process's by now.
    """
    directory.lease.check()
    best = progress.best
    optimizer, groups = pack_optimizer(step.optimizer)
    tensors = (
        pack("model", model.state_dict())
        | pack("optimizer", optimizer)
        | pack("step", step.state_dict())
        | pack("sums", progress.sums)
        | pack("composition", learned.state_dict() if learned else {})
        | pack("contexts", contexts.state_dict() if contexts else {})
    )
    names = step.engine.names_by_id()
    called = [names.get(id(parameter), "a parameter") for parameter in step.optimizers.parameters()]
    check_finite(best.tensors | tensors, step.count, called)
    meta = {
        "kind": "last",
        "run_id": directory.run_id,
        "edition": edition,
        "version": __version__,
        "groups": groups,
        "best": {"epoch": best.epoch, "score": best.score},
        **{name: getattr(progress, name) for name in PLAIN},
    }
    if best.tensors:
        save_tensors(directory.best, best.tensors, {"kind": "best", "run_id": directory.run_id, "epoch": best.epoch})
    save_tensors(directory.last, tensors, meta)


def load_state(
    directory: RunDirectory,
    edition: str,
    epochs: int,
    model: MultiTaskModel,
    step: MultiTaskStep,
    learned: LearnedLosses | None = None,
    contexts: Remembers | None = None,
) -> Progress:
    """Put the last checkpoint into the objects of a run of so many epochs; a fresh Progress when there is none.

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
    try:
        check_schema(meta, META)
        if meta["edition"] != edition:
            raise CheckpointError(
                f"{directory.last} was trained on other data, so this run cannot go on from it:\n"
                f"  then: {meta['edition']}\n  now:  {edition}\nRestore the data, or start anew with run.again=true."
            )
        tasks = len(step.tasks)
        _check_progress(meta, tasks)
        ahead = range(meta["epoch"] + 1, epochs + 1)
        best = _load_best(directory, Best(**meta["best"]), ahead, model, tasks)
        _put(unpack("model", tensors), model)
        unpack_optimizer(step.optimizer, unpack("optimizer", tensors), meta["groups"])
        step.load_state_dict(unpack("step", tensors))
        for part, name in ((learned, "composition"), (contexts, "contexts")):
            if part:
                part.load_state_dict(unpack(name, tensors))
        sums = {name: tensor.to(step.device) for name, tensor in unpack("sums", tensors).items()}
        _check_sums(sums, tasks)
    except (Unfit, ConfigError) as reason:
        raise CheckpointError(
            f"The checkpoint {directory.last} does not fit this run: {reason}. Restore the right one, or delete it to "
            "start the run over."
        ) from None
    return Progress(best=best, sums=sums, **{name: meta[name] for name in PLAIN if name in meta})


META = {
    "edition": str,
    "groups": [{"params": [int]}],
    "best": {"epoch": COUNT, "score": float},
    **dict.fromkeys(("epoch", "done", "offset"), COUNT),
    "seconds": Within(0, 1e12),
    "trajectory": [[FINITE]],
    "events?": str,
}
"""What the metadata of a last checkpoint hold."""


def _check_progress(meta: Mapping[str, Any], tasks: int) -> None:
    """Raise Unfit for a standing that no run of so many tasks can have."""
    best = meta["best"]
    known = range(1, meta["epoch"] + 1) if meta["epoch"] else (0,)  # one is the best from the first on
    fits = best["epoch"] in known and (math.isfinite(best["score"]) or not best["epoch"])
    lines = [len(line) for line in meta["trajectory"]]
    if not fits or lines != [tasks] * meta["epoch"] or best.keys() != {"epoch", "score"}:
        raise Unfit("it tells of a standing that no run of these tasks can have")


def _check_sums(sums: Mapping[str, Tensor], tasks: int) -> None:
    """Raise Unfit for sums of an epoch that are not of so many tasks."""
    shapes: dict[str, set[tuple[int, ...]]] = {"weights": {(tasks,)}, "support": {(tasks,)}, "descent": {(2,)}}
    shapes["hypergradient"] = {(rows, tasks) for rows in range(1, tasks + 1)}
    for name, tensor in sums.items():
        if tuple(tensor.shape) not in shapes.get(name.partition("/")[0], ()) or tensor.dtype != torch.float64:
            raise Unfit(f"sums/{name:.60} is of another size")


def _put(tensors: dict[str, Tensor], model: MultiTaskModel) -> None:
    check_tensors(tensors, model.state_dict(), "model")
    model.load_state_dict(tensors)


def _load_best(directory: RunDirectory, best: Best, ahead: range, model: MultiTaskModel, tasks: int) -> Best:
    """With its tensors; raises CheckpointError unless its file is that of its epoch or of one ahead, Unfit for other
    tensors."""
    if not best.epoch:
        return best
    best.tensors, stored = load_checkpoint(directory.best)
    epoch = stored.get("epoch")
    named = (stored.get("kind"), stored.get("run_id")) == ("best", directory.run_id)
    if not named or not isinstance(epoch, int) or (epoch != best.epoch and epoch not in ahead):
        raise CheckpointError(
            f"The checkpoint {directory.best} is not that of epoch {best.epoch} of run {directory.run_id}: restore "
            f"it, or delete {directory.last} to start the run over."
        )
    like = pack("model", model.state_dict()) | {"task_weights": torch.zeros(tasks, dtype=torch.float64)}
    check_tensors(best.tensors, like, directory.best.name)
    # killed between the two files: that better epoch will be chosen again
    return best if epoch == best.epoch else Best()
