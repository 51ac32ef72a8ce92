"""Loaded run: the model of a finished run with its preprocessing, from the run directory and nothing else.

What is read are JSON and safetensors, all under checksums: nothing is executed. A pre-trained encoder (model=bert) is
the exception to "nothing else": its folder gives the tokenizer and the architecture, and must be the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossrag.errors import CheckpointError, ConfigError, DataError
from lossrag.experiments.config.compose import model_config
from lossrag.experiments.config.library import needed
from lossrag.experiments.record.checkpoint import check_tensors
from lossrag.experiments.record.description import ModelDescription, read_description, read_weights
from lossrag.experiments.record.series import Evaluation
from lossrag.experiments.run.build import assembled
from lossrag.experiments.run.encoded_suites import features_of
from lossrag.experiments.run.evaluation import evaluate_tasks, predict_tasks
from lossrag.experiments.run.machine import choose_device
from lossrag.experiments.trained.predictions import Predictions, TaskPrediction
from lossrag.files import expanded
from lossrag.labels import labelled
from lossrag.lossbank import LOSSES, Mixture
from lossrag.models import ENCODERS, BertOptions, MultiTaskModel
from lossrag.registry import Registry
from lossrag.schema import Unfit
from lossrag.tasks import METRICS, DenseInputs, EncoderFiles, Examples, Inputs, Task, TokenInputs, encoder_files
from lossrag.tasks.files.arrays import read_array
from lossrag.tasks.suite import select
from lossrag.tasks.table.new_rows import NewRows, read_rows
from lossrag.tasks.table.preprocessing import TablePreprocessing
from lossrag.tasks.text.pieces import encode_pieces


@dataclass(frozen=True)
class TaskScores:
    """Scores on other data: of the ``tasks`` that have a label there, ``rows`` each, and lines on what was found."""

    tasks: tuple[Task, ...]
    rows: tuple[int, ...]
    evaluation: Evaluation
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LoadedRun:
    """A finished run, ready for use: see :func:`load_run`."""

    path: Path
    description: ModelDescription
    summary: dict[str, Any]
    model: MultiTaskModel
    preprocessing: TablePreprocessing | None
    device: torch.device
    encoder: EncoderFiles | None = None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that it was trained on."""
        return self.description.tasks

    def predict(self, data: Any, delimiter: str | None = None, encoding: str | None = None) -> Predictions:
        """Predictions of every task for every row of ``data``.

        data: a pathlib.Path of a table (or .npy file of vectors), a pandas or Hugging Face frame, a list of rows
            ``{column: value}``, for a model of texts a list of texts, for one of vectors an array (N, F).
        delimiter, encoding: of a CSV file, where they are others than in training.

        Raises DataError for data that lack a column or hold a cell that cannot be read, ConfigError for data of
        another kind.
        """
        rows = self._rows(data, delimiter, encoding) if self._reads_rows else None
        inputs, notes = self._vectors(data) if rows is None else self._inputs(rows)
        whole = torch.ones(len(inputs), dtype=torch.bool)
        targets = self.preprocessing.targets if self.preprocessing else ()
        about = [torch.from_numpy(rows.about(own)) for own in targets] if rows else [whole for _ in self.tasks]
        logits = [torch.full((len(inputs), task.outputs), float("nan")) for task in self.tasks]
        waiting = [t for t, own in enumerate(about) if own.any()]
        while waiting:  # tasks that are about the same rows go through the model together
            heads = [t for t in waiting if torch.equal(about[t], about[waiting[0]])]
            chosen = about[heads[0]].nonzero().flatten()
            read = self._read(inputs if len(chosen) == len(inputs) else select(inputs, chosen))
            for t, own in zip(heads, predict_tasks(self.model, heads, read, self.device), strict=True):
                logits[t] = logits[t].to(own.dtype).index_copy_(0, chosen, own)
            waiting = [t for t in waiting if t not in heads]
        columns = {own.name: own.columns for own in targets}
        parts = [TaskPrediction.of(t, own, columns.get(t.name, ())) for t, own in zip(self.tasks, logits, strict=True)]
        return Predictions(tuple(parts), tuple(notes))

    def evaluate(
        self, data: Any, vectors: Any = None, delimiter: str | None = None, encoding: str | None = None
    ) -> TaskScores:
        """Loss and score of the tasks that have a label in ``data``, as on the test split: its rows give its numbers.

        data: as in :meth:`predict`, with the columns of the targets. vectors: the inputs of its rows, an array (N, F)
        or a .npy file, of a run that was trained on vectors.

        Raises DataError as there, and for data in which no task has a label.
        """
        if self.preprocessing is None:
            raise ConfigError(
                f"{self.path}: the suite says nothing of how other data become inputs and targets "
                "(Suite.preprocessing), so nothing but arrays can be predicted."
            )
        rows = self._rows(data, delimiter, encoding)
        inputs, notes = self._inputs(rows) if self._reads_rows else self._vectors(vectors)
        if len(inputs) != len(rows.table):
            raise DataError(f"There are {len(rows.table):,} rows and {len(inputs):,} vectors: give each row one.")
        read = self._read(inputs) if self.description.shared_input else None
        parts = []
        for t, target in enumerate(self.preprocessing.targets):
            targets = rows.targets(target)
            if targets is None or not labelled(targets).any():
                absent = [name for name in target.columns if name not in rows.table.columns]
                why = f"no column {absent[0]!r}" if absent else "no row has a label"
                notes.append(f"{target.name} is left out: {why}")
                continue
            # tasks on shared inputs are evaluated in batches of all rows, as on the test split, others on their own
            chosen = labelled(targets).nonzero().flatten()
            if read is not None:
                parts.append((t, Examples(read, targets)))
            else:
                parts.append((t, Examples(self._read(select(inputs, chosen)), targets[chosen])))
        if not parts:
            raise DataError(f"{', '.join(rows.table.files)}: {'; '.join(notes)}: there is nothing to evaluate.")
        return self._scores(parts, notes)

    def _scores(self, parts: Sequence[tuple[int, Examples]], notes: Sequence[str]) -> TaskScores:
        tasks = tuple(self.tasks[t] for t, _ in parts)
        _check_registered(LOSSES, [self.description.losses[t] for t, _ in parts], self.description, self.path)
        _check_registered(METRICS, [task.metric for task in tasks], self.description, self.path)
        counts = [self.description.class_counts[t] for t, _ in parts]
        losses = [
            Mixture((LOSSES[self.description.losses[t]],), None, _counts(own, self.device))
            for (t, _), own in zip(parts, counts, strict=True)
        ]
        examples = [own for _, own in parts]
        heads = [t for t, _ in parts]
        evaluation = evaluate_tasks(self.model, tasks, losses, examples, self.device, heads)
        rows = tuple(int(labelled(own.targets).sum()) for own in examples)
        return TaskScores(tasks, rows, evaluation, tuple(notes))

    @property
    def _reads_rows(self) -> bool:
        """True where inputs come from the columns of a table, not from a file of vectors."""
        own = self.preprocessing
        return own is not None and (bool(own.columns) or own.text is not None)

    def _rows(self, data: Any, delimiter: str | None, encoding: str | None) -> NewRows:
        assert self.preprocessing is not None
        return read_rows(data, self.preprocessing, delimiter, encoding)

    def _inputs(self, rows: NewRows) -> tuple[Inputs, list[str]]:
        own = rows.preprocessing
        if own.text is None:
            return rows.dense(), rows.notes
        if self.encoder is None:
            tokens, notes = rows.tokens()
            return tokens, [*rows.notes, *notes]
        return encode_pieces(self.encoder, rows.texts(), own.max_tokens), rows.notes

    def _read(self, inputs: Inputs) -> Inputs:
        """The inputs that the model takes: of word pieces for a frozen encoder, its features."""
        options = model_config(self.description.model).encoder
        if not (isinstance(inputs, TokenInputs) and self.encoder and isinstance(options, BertOptions)):
            return inputs
        return features_of(inputs, self.encoder.folder, options, self.device) if options.frozen else inputs

    def _vectors(self, data: Any) -> tuple[DenseInputs, list[str]]:
        """Vectors (N, ...) of a model that reads nothing else; raises DataError unless they have its shape."""
        shape = self.description.input_shape
        wanted = f"an array, or a .npy file, of (rows, {', '.join(map(str, shape))}) finite numbers"
        if isinstance(data, Path):
            try:
                data = read_array(data)
            except DataError as error:
                raise DataError(f"{error} The model reads {wanted}.") from None
        array = data.numpy() if isinstance(data, Tensor) else data
        if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.number):
            raise ConfigError(f"The model reads {wanted}, not {type(array).__name__}.")
        if array.shape[1:] != tuple(shape) or not len(array):
            raise DataError(f"The model reads {wanted}, not {array.shape}.")
        values = array.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if len(bad):
            raise DataError(f"Row {bad[0] + 1} of the array holds a value that is no finite number.")
        return DenseInputs(torch.from_numpy(values)), []


def _check_registered(registry: Registry[Any], names: Iterable[str], told: ModelDescription, path: Path) -> None:
    """Raise ConfigError unless the registry has what a run was trained with, of a file of the user's own."""
    for name in names:
        if name not in registry:
            raise ConfigError(f"{path}: Unknown {registry.kind} {name!r}: {needed(told.library)}, or import it before.")


def _feeds(own: TablePreprocessing, description: ModelDescription) -> bool:
    """Whether what becomes of a table has the size of the model's inputs, as far as it comes from rows."""
    if own.words:
        return description.vectors[:1] == (len(own.words) + 1,)  # before them padding
    return not own.columns or description.input_shape == (sum(column.width for column in own.columns),)


def _counts(counts: tuple[int, ...] | None, device: torch.device) -> Tensor | None:
    return None if counts is None else torch.tensor(counts, dtype=torch.float32, device=device)


def load_run(
    path: str | os.PathLike[str], *, device: str = "auto", encoder: str | None = None, root: str | None = None
) -> LoadedRun:
    """The model of the finished run in the directory ``path``, for use on other data. Nothing of it is executed.

    device: auto, cpu, cuda, cuda:N or mps. encoder: where a pre-trained encoder lies now, of a run with model=bert that
    named another place. root: the data folder, for the bundled one.

    Raises RunDirectoryError for a run that is unfinished or of another version of LossRAG, CheckpointError for a
    damaged file, ConfigError for a model that a file of one's own registered, which has to be imported before.
    """
    path = expanded(path, "run")
    description, plain, summary = read_description(path)
    _check_registered(ENCODERS, [str(description.model.get("name"))], description, path)
    try:
        own = None if plain is None else TablePreprocessing.of_plain(plain)
        config = model_config(description.model)
        targets = [] if own is None else [target.task for target in own.targets]
        if targets and [(t.name, t.outputs) for t in targets] != [(t.name, t.outputs) for t in description.tasks]:
            raise DataError("its targets are not those that model.json tells of.")
        if own is not None and not _feeds(own, description):
            raise DataError("its columns, or words, are not as many as the model of model.json takes.")
    except DataError as error:
        raise CheckpointError(f"{path / 'preprocessing.json'}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if own is None and not description.input_shape:
        raise ConfigError(
            f"{path}: its suite reads sequences and does not say how texts become them (Suite.preprocessing): it "
            "cannot be used on other data."
        )
    files = None
    if own is not None and own.encoder:
        files = encoder_files(encoder or own.encoder, root)
        if files.digest != own.encoder_digest:
            raise DataError(
                f"{files.folder} is not the encoder that {path} was trained with (sha256 {files.digest[:12]}, then "
                f"{own.encoder_digest[:12]}): say where that lies with encoder=FOLDER."
            )
    frozen = isinstance(config.encoder, BertOptions) and config.encoder.frozen
    try:
        vectors = torch.empty(description.vectors, device="meta") if description.vectors else None
    except (RuntimeError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path / 'model.json'} describes no model: {error}") from None
    folder = files.folder if files is not None and not frozen else None
    outputs = [task.outputs for task in description.tasks]
    weights = read_weights(path, description)
    where = choose_device(device)
    try:
        if folder is None:  # its size is known before any memory is asked for
            with torch.device("meta"):
                drawn = assembled(config, description.precision, outputs, vectors, description.input_shape, folder)
            check_tensors(weights, drawn.state_dict(), "model")
        vectors = None if vectors is None else torch.zeros(description.vectors)
        with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten: the caller's stream stays his
            model = assembled(config, description.precision, outputs, vectors, description.input_shape, folder)
        model.load_state_dict(weights)
    except (RuntimeError, Unfit, TypeError, ValueError, OverflowError, KeyError, IndexError) as error:
        reason = " ".join(str(error).split())
        name = path / description.weights
        raise CheckpointError(f"{name} does not fit the model of the run: {reason:.200}") from None
    return LoadedRun(path, description, summary, model.to(where), own, where, files)
