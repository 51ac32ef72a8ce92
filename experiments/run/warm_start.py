"""Warm start: a run that begins with the parameters of a finished one, its parent (``train.from``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossrag.errors import CheckpointError, ConfigError, DataError, RunDirectoryError
from lossrag.experiments.config.identity import flatten
from lossrag.experiments.record.description import ModelDescription, read_description, read_weights
from lossrag.models import MultiTaskModel, TextCNN
from lossrag.tasks import Suite, Task
from lossrag.tasks.table.preprocessing import TablePreprocessing

_OF_TASK = re.compile(r"(encoders|heads)\.(\d+)\.(.*)")
NAMED = 5
"""Names that a line lists."""


@dataclass(frozen=True)
class Parent:
    """A finished run: the parameters that its description is about, and what its inputs were made by."""

    path: Path
    description: ModelDescription
    preprocessing: TablePreprocessing | None
    weights: Mapping[str, Tensor]

    @staticmethod
    def read(given: str) -> Parent:
        """The run in a directory; raises RunDirectoryError and CheckpointError as :func:`lossrag.load_run` does."""
        path = Path(given).expanduser()
        try:
            description, plain, _ = read_description(path)
        except RunDirectoryError as error:
            raise RunDirectoryError(f"train.from={given}: {error}") from None
        try:
            own = None if plain is None else TablePreprocessing.of_plain(plain)
        except DataError as error:
            raise CheckpointError(f"{path / 'preprocessing.json'}: {error}") from None
        return Parent(path, description, own, read_weights(path, description))

    @property
    def summary(self) -> dict[str, Any]:
        """What the summary of a run that began with it says of it."""
        return {"run_id": self.description.run_id, "directory": str(self.path), "epoch": self.description.epoch}

    def __str__(self) -> str:
        return f"epoch {self.description.epoch} of {self.path} ({self.description.run_id})"


def warm_start(parent: Parent, model: MultiTaskModel, suite: Suite, settings: Mapping[str, Any]) -> list[str]:
    """Put the parameters of ``parent`` into a fresh ``model`` of this ``suite``; lines on what was and was not taken.

    Heads, and encoders of single tasks, go by the names of the tasks: those that the parent had not, or that have other
    classes now, stay fresh. Word vectors go by their words. Everything else has to fit. settings: the model's section.

    Raises ConfigError, naming what differs, where it does not.
    """
    own, theirs = suite.preprocessing, parent.preprocessing
    if isinstance(own, TablePreprocessing) and theirs is not None:
        _check_inputs(parent, theirs, own)
    places = _places(suite.tasks, parent.description.tasks)
    sharing = (str(parent.description.model.get("sharing")), model.sharing)
    fresh = model.state_dict()
    taken: dict[str, Tensor] = {}
    notes = [f"begins with the parameters of {parent}"]
    words = _words(own, theirs)
    same = [task.name for task in suite.tasks] == [task.name for task in parent.description.tasks]
    for name, tensor in fresh.items():
        source = _source(name, model.sharing, places, same and name in parent.weights)
        if source is None:
            continue
        found = parent.weights.get(source)
        if found is not None and words is not None and _is_table(model, name) and found.shape[1:] == tensor.shape[1:]:
            found = _by_word(tensor, found, *words)
        if found is None or found.shape != tensor.shape or sharing[0] != sharing[1]:
            raise ConfigError(
                f"train.from={parent.path}: {_difference(parent, suite, settings, source, found, tensor)}"
            )
        taken[name] = found
    if not taken:
        raise ConfigError(
            f"train.from={parent.path}: it has none of the tasks of this run, and nothing that they share."
        )
    model.load_state_dict(fresh | taken)
    if words is not None:
        known = len(set(words[0]) & set(words[1]))
        notes.append(f"{known:,} of {len(words[0]):,} words are among its {len(words[1]):,}")
    begun = [task.name for task, place in zip(suite.tasks, places, strict=True) if place is None]
    if begun:
        what = "models" if model.sharing == "none" else "heads"
        notes.append(f"fresh {what}, which it had not, or for other classes: {_listed(begun)}")
    return notes


def _places(tasks: Sequence[Task], others: Sequence[Task]) -> list[int | None]:
    """Where each task is among the ``others``; None for one that is not, or is of another kind or other classes."""
    known = {(task.name, task.kind, task.outputs, task.labels): place for place, task in enumerate(others)}
    return [known.get((task.name, task.kind, task.outputs, task.labels)) for task in tasks]


def _source(name: str, sharing: str, places: Sequence[int | None], discriminated: bool) -> str | None:
    """The name of a parameter in the parent; None for one that begins anew. discriminated: the parent had a
    discriminator of the same tasks."""
    if name.startswith("discriminator."):
        return name if discriminated else None
    found = _OF_TASK.fullmatch(name)
    assert found is not None, name
    part, number, rest = found[1], int(found[2]), found[3]
    before = 0 if part == "heads" or sharing == "none" else 1
    if number < before:  # an encoder of all tasks
        return name
    place = places[number - before]
    return None if place is None else f"{part}.{place + before}.{rest}"


def _check_inputs(parent: Parent, theirs: TablePreprocessing, own: TablePreprocessing) -> None:
    """Raise ConfigError where inputs of the same shape would mean something else."""

    def kinds(of: TablePreprocessing) -> dict[str, object]:
        return {c.name: getattr(c, "categories", getattr(c, "tells_missing", None)) for c in of.columns}

    before, now = kinds(theirs), kinds(own)
    differing = [name for name in {**now, **before} if name not in before or name not in now]
    differing = differing or [name for name in now if now[name] != before[name]]
    if differing:
        raise ConfigError(
            f"train.from={parent.path}: the input columns are not those of that run, or have other categories or holes "
            f"({_listed(differing)}). A model reads the inputs that it was trained on."
        )
    if list(before) != list(now):
        raise ConfigError(f"train.from={parent.path}: the input columns stand in another order than in that run.")
    if theirs.encoder_digest != own.encoder_digest:
        raise ConfigError(
            f"train.from={parent.path}: that run reads its texts with {theirs.encoder or 'no pre-trained encoder'} "
            f"(sha256 {theirs.encoder_digest[:12] or '-'}), this one with {own.encoder or 'none'} "
            f"({own.encoder_digest[:12] or '-'}): choose the same model.encoder."
        )


def _words(own: object, theirs: TablePreprocessing | None) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The words of this run and those of the parent, where both have some and they are not the same."""
    mine = own.words if isinstance(own, TablePreprocessing) else ()
    parents = theirs.words if theirs is not None else ()
    return (mine, parents) if mine and parents and mine != parents else None


def _is_table(model: MultiTaskModel, name: str) -> bool:
    owner = name.rpartition(".embedding.weight")[0]
    return bool(owner) and isinstance(model.get_submodule(owner), TextCNN)


def _by_word(fresh: Tensor, found: Tensor, own: Sequence[str], theirs: Sequence[str]) -> Tensor:
    """Word vectors (1 + V, E), row 0 for padding: the parent's where it knew the word."""
    known = {word: row for row, word in enumerate(theirs, start=1)}
    pairs = [(row, known[word]) for row, word in enumerate(own, start=1) if word in known]
    joined = fresh.cpu().clone()
    if pairs:
        to, source = torch.tensor(pairs).T
        joined[to] = found[source]
    return joined


def _difference(
    parent: Parent,
    suite: Suite,
    settings: Mapping[str, Any],
    name: str,
    found: Tensor | None,
    tensor: Tensor,
) -> str:
    """The sentences on an architecture that is not that of the parent."""
    before, now = flatten(parent.description.model), flatten(settings)
    differing = [
        f"model.{key}: {before.get(key, '(absent)')} -> {now.get(key, '(absent)')}"
        for key in sorted(before.keys() | now.keys())
        if _plain(before.get(key)) != _plain(now.get(key))
    ]
    if parent.description.input_shape != suite.input_shape:
        shapes = f"{list(parent.description.input_shape)} -> {list(suite.input_shape)}"
        differing.append(f"shape of an input: {shapes}")
    if not differing:
        there = "absent" if found is None else str(list(found.shape))
        differing = [f"{name}: {there} -> {list(tensor.shape)}"]
    listed = "\n  ".join(differing)
    return (
        f"its model is not that of this run: nothing can be taken from it. These differ:\n  {listed}\nSet them alike."
    )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
