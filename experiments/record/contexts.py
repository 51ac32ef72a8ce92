"""Contexts of a run's tasks on disk: contexts.safetensors, what experience is made of beside the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from lossrag.errors import RunDirectoryError
from lossrag.lossbank import CONTEXT_NAMES
from lossrag.lossbank.experience.snapshots import REFERENCES
from lossrag.proof import DamagedFile
from lossrag.schema import POSITIVE, OneOf, check_schema
from lossrag.tensors import load_tensors, save_tensors

FILE = "contexts.safetensors"
META = {
    "run_id": str,
    "encoder": str,
    "steps": POSITIVE,
    "tasks": [{"name": str, "kind": OneOf(tuple(REFERENCES)), "outputs": POSITIVE, "samples": POSITIVE}],
}


@dataclass(frozen=True)
class SeenTask:
    """A task of a run: its kind of target, classes or values, and support rows."""

    name: str
    kind: str
    outputs: int
    samples: int


@dataclass(frozen=True, eq=False)
class RunContexts:
    """Tasks with their contexts (T, C) by moment, a share of the ``steps``; encoder: its kind."""

    run_id: str
    encoder: str
    steps: int
    tasks: Sequence[SeenTask]
    moments: Mapping[float, Tensor]


def save_contexts(directory: Path, contexts: RunContexts) -> None:
    """Write contexts.safetensors into a run directory."""
    meta = {
        "kind": "contexts",
        "run_id": contexts.run_id,
        "encoder": contexts.encoder,
        "steps": contexts.steps,
        "tasks": [asdict(task) for task in contexts.tasks],
        "names": CONTEXT_NAMES,
    }
    save_tensors(directory / FILE, {str(moment): context for moment, context in contexts.moments.items()}, meta)


def load_contexts(directory: Path) -> RunContexts:
    """What :func:`save_contexts` wrote; raises RunDirectoryError where nothing was recorded, or it cannot be used."""
    path = directory / FILE
    if not path.exists():
        raise RunDirectoryError(
            f"{directory} recorded no contexts of its tasks: repeat the run with log.contexts=true run.again=true."
        )
    try:
        tensors, meta = load_tensors(path)
        if meta.get("kind") != "contexts" or meta.get("names") != list(CONTEXT_NAMES):
            raise DamagedFile("it holds other entries than this version knows")
        check_schema(meta, META)
        tasks = [SeenTask(**task) for task in meta["tasks"]]
        moments = {float(moment): contexts for moment, contexts in sorted(tensors.items())}
        if any(contexts.shape != (len(tasks), len(CONTEXT_NAMES)) for contexts in moments.values()):
            raise DamagedFile("its contexts are of another size")
        if not all(0 <= moment <= 1 for moment in moments):
            raise DamagedFile("its moments are not within [0, 1]")
        return RunContexts(str(meta["run_id"]), str(meta["encoder"]), int(meta["steps"]), tasks, moments)
    except (DamagedFile, KeyError, TypeError, ValueError) as reason:
        raise RunDirectoryError(f"{path} cannot be used: {reason}. Repeat the run with run.again=true.") from None
