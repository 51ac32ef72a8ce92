"""Description of a finished run's model: model.json, everything beside weights and preprocessing that using it needs.

It is plain data: reading it runs nothing. It carries a sha256 of itself and of preprocessing.json; the weights carry
their own (:mod:`lossrag.tensors`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lossrag import __version__
from lossrag.errors import CheckpointError, LossRAGError, RunDirectoryError
from lossrag.experiments.record.checkpoint import unpack
from lossrag.experiments.record.directory import RunDirectory
from lossrag.experiments.record.finished import read_summary
from lossrag.files import read_file, write_atomic
from lossrag.proof import DamagedFile
from lossrag.schema import COUNT, FINITE, POSITIVE, OneOf, Unfit, check_schema
from lossrag.tasks import Task
from lossrag.tensors import load_tensors

FORMAT = 1
WEIGHTS = ("checkpoints/best.safetensors", "checkpoints/refit.safetensors")
"""Files of a run directory that a description may name, and no other: it comes from outside."""


@dataclass(frozen=True)
class ModelDescription:
    """The model that a run was tested with: its ``tasks``, the loss and class counts that each is evaluated with, and
    what its architecture follows from.

    model: the section of the settings. input_shape: of one dense input. vectors: shape of the word vectors, or ().
    weights: the file that holds them, one of WEIGHTS. library: by path the sha256 of the files of a user's own that
        were run before.
    """

    run_id: str
    epoch: int
    tasks: tuple[Task, ...]
    losses: tuple[str, ...]
    class_counts: tuple[tuple[int, ...] | None, ...]
    shared_input: bool
    model: Mapping[str, Any]
    precision: str
    input_shape: tuple[int, ...]
    vectors: tuple[int, ...]
    weights: str
    library: Mapping[str, str] = field(default_factory=dict)


def write_preprocessing(directory: RunDirectory, plain: Mapping[str, Any]) -> None:
    """Write preprocessing.json; raises OSError."""
    write_atomic(directory.preprocessing, json.dumps(plain).encode())


def write_description(directory: RunDirectory, description: ModelDescription) -> None:
    """Write model.json, after everything that it refers to; raises OSError."""
    found = directory.preprocessing
    content = {
        "format": FORMAT,
        "lossrag": __version__,
        **asdict(description),
        "preprocessing": hashlib.sha256(read_file(found)).hexdigest() if found.exists() else None,
    }
    write_atomic(directory.model, json.dumps({"sha256": _digest(content), **content}, indent=2).encode() + b"\n")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_description(path: Path) -> tuple[ModelDescription, dict[str, Any] | None, dict[str, Any]]:
    """The description in a run directory, its preprocessing as JSON has it, where there is one, and its summary.

    Raises RunDirectoryError for a folder that is no run, has not finished, or is of another version of LossRAG, and
    CheckpointError for damage.
    """
    if not (path / "config.yaml").is_file():
        raise RunDirectoryError(f"{path} is no run directory: it has no config.yaml. Give that of a finished run.")
    summary = read_summary(path)
    if summary is None:
        raise RunDirectoryError(f"The run in {path} is not finished: resume it with the command that started it.")
    name = path / "model.json"
    if not name.is_file():
        raise RunDirectoryError(
            f"{path} has no model.json: its run ended under a version of LossRAG that kept none. Repeat it with "
            "run.again=true."
        )
    plain = _json(name, _content(name))
    told = plain.pop("sha256", None)
    if plain.get("format") != FORMAT:
        raise RunDirectoryError(
            f"{name} is of format {plain.get('format')!r}, written by LossRAG {plain.get('lossrag')}; this is LossRAG "
            f"{__version__}, which reads format {FORMAT}: use that version, or repeat the run with this one."
        )
    if told != _digest(plain):
        raise CheckpointError(f"{name} is damaged: its content does not match its checksum. {_RESTORE}")
    try:
        check_schema(plain, SCHEMA)
        _check_keys(plain, SCHEMA, "it")
        for number, own in enumerate(plain["tasks"]):
            _check_keys(own, TASK, f"tasks.{number}")
        sum_of_preprocessing = plain.pop("preprocessing")
        for key in ("format", "lossrag"):
            plain.pop(key)
        tasks = tuple(Task(**{key: _tuple(value) for key, value in own.items()}) for own in plain.pop("tasks"))
        counts = tuple(_tuple(own) for own in plain.pop("class_counts"))
        rest = {key: _tuple(value) for key, value in plain.items()}
        description = ModelDescription(tasks=tasks, class_counts=counts, **rest)
        if not len(description.losses) == len(counts) == len(tasks) > 0:
            raise Unfit("it has another number of losses or class counts than of tasks")
        if len({task.name for task in tasks}) < len(tasks):
            raise Unfit("two of its tasks have the same name")
        for task, count in zip(tasks, counts, strict=True):
            _check_task(task, count)
    except (LossRAGError, Unfit) as error:
        raise CheckpointError(f"{name} describes no model: {error}. {_RESTORE}") from None
    if description.weights not in WEIGHTS:
        raise CheckpointError(f"{name} names {description.weights!r:.60} as its weights: they are in {WEIGHTS[0]}.")
    return description, _preprocessing(path / "preprocessing.json", sum_of_preprocessing), summary


TASK = {
    "name": str,
    "kind": OneOf(("classification", "regression")),
    "outputs": POSITIVE,
    "labels?": [str],
    "score?": str,
    "mean?": [FINITE],
    "scale?": [FINITE],
}
SCHEMA = {
    "format": int,
    "lossrag": str,
    **dict.fromkeys(("run_id", "precision", "weights"), str),
    "epoch": COUNT,
    "tasks": [TASK],
    "losses": [str],
    "class_counts": [([COUNT], None)],
    "shared_input": bool,
    "model": {"name": str},
    "input_shape": [POSITIVE],
    "vectors": [COUNT],
    "library?": {str: str},
    "preprocessing": (str, None),
}
"""What a model.json holds: those of earlier versions lack ``library``. Nothing else stands in it, nor in a task."""
_RESTORE = "Restore it from a copy, or repeat the run with run.again=true."


def _check_keys(plain: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> None:
    """Raise Unfit for a key that a schema does not name."""
    if unknown := sorted(plain.keys() - {key.removesuffix("?") for key in schema}):
        raise Unfit(f"{where} has {unknown[0]!r:.60}, which nothing is known of")


def _check_task(task: Task, counts: tuple[int, ...] | None) -> None:
    """Raise Unfit for a task that no suite has, or for counts of other classes."""
    sizes = {"labels": task.labels, "mean": task.mean, "scale": task.scale, "class_counts": counts or ()}
    for key, values in sizes.items():
        if len(values) not in (0, task.outputs):
            raise Unfit(f"{key} of the task {task.name!r:.60} must be {task.outputs}, not {len(values)}")
    if len(task.mean) != len(task.scale) or 0 in task.scale:
        raise Unfit(f"the task {task.name!r:.60} has a mean without a scale, or a scale of 0")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _preprocessing(path: Path, told: str | None) -> dict[str, Any] | None:
    if told is None:
        return None
    content = _content(path) if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != told:
        reason = "its content does not match its checksum" if content else "it is absent or empty"
        raise CheckpointError(f"{path} is damaged: {reason}. {_RESTORE}")
    return _json(path, content)


def _content(path: Path) -> bytes:
    try:
        return read_file(path, within=path.parent)
    except OSError as error:
        raise RunDirectoryError(f"Cannot read {path}: {error}.") from None


def _json(path: Path, content: bytes) -> dict[str, Any]:
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is no JSON ({error}). {_RESTORE}") from None
    if not isinstance(plain, dict):
        raise CheckpointError(f"{path} is damaged: it holds no JSON object. {_RESTORE}")
    return plain


def read_weights(path: Path, description: ModelDescription) -> dict[str, Tensor]:
    """The parameters of the described model; raises CheckpointError for a file that is absent, damaged or another's."""
    name = path / description.weights
    try:
        tensors, meta = load_tensors(name)
    except DamagedFile as reason:
        raise CheckpointError(f"{name} is damaged: {reason}. {_RESTORE}") from None
    told = meta.get("kind"), meta.get("run_id"), meta.get("epoch")
    if told != (name.stem, description.run_id, description.epoch):
        raise CheckpointError(
            f"{name} is not that of epoch {description.epoch} of run {description.run_id}, which model.json is about. "
            f"{_RESTORE}"
        )
    return unpack("model", tensors)
