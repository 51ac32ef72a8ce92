"""Predictions of the test rows, test_predictions.safetensors: what confusion matrices and residuals are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lossrag.errors import CheckpointError
from lossrag.experiments.record.directory import RunDirectory
from lossrag.experiments.record.series import Evaluation
from lossrag.proof import DamagedFile
from lossrag.tasks import Task
from lossrag.tensors import load_tensors, save_tensors

TEST_PREDICTIONS = "test_predictions.safetensors"
Rows = dict[str, tuple[Tensor, Tensor]]
"""By task the targets and outputs of its labelled test rows: see :class:`Evaluation`."""


def write_predictions(directory: RunDirectory, test: Evaluation, tasks: Sequence[Task]) -> None:
    """Write the rows of a test evaluation to the run directory; raises OSError."""
    tensors: dict[str, Tensor] = {}
    for task, (targets, outputs) in zip(tasks, test.rows, strict=True):
        tensors |= {f"targets/{task.name}": targets, f"outputs/{task.name}": outputs}
    save_tensors(directory.path / TEST_PREDICTIONS, tensors, {"kind": "test", "run_id": directory.run_id})


def read_predictions(path: Path, run_id: str, tasks: Sequence[Task]) -> Rows | None:
    """The test rows of the tasks of run ``run_id`` in the directory ``path``; None where its version wrote none.

    Raises CheckpointError for a file that is damaged or another run's.
    """
    name = path / TEST_PREDICTIONS
    if not name.exists():
        return None
    try:
        tensors, meta = load_tensors(name)
    except DamagedFile as reason:
        raise CheckpointError(f"{name} is damaged: {reason}.") from None
    if (meta.get("kind"), meta.get("run_id")) != ("test", run_id):
        raise CheckpointError(f"{name} is not that of run {run_id}.")
    try:
        rows = {task.name: (tensors[f"targets/{task.name}"], tensors[f"outputs/{task.name}"]) for task in tasks}
    except KeyError as missing:
        raise CheckpointError(f"{name} lacks {missing}.") from None
    for task in tasks:
        targets, outputs = rows[task.name]
        classes = task.kind == "classification"
        shape = (len(targets),) if classes else (len(targets), task.outputs)
        alike = all(
            tuple(own.shape) == shape and own.dtype == (torch.int32 if classes else torch.float32)
            for own in (targets, outputs)
        )
        known = not classes or all(bool(((own >= 0) & (own < task.outputs)).all()) for own in (targets, outputs))
        if not alike or not known:
            raise CheckpointError(f"{name} does not fit the task {task.name}.")
    return rows
