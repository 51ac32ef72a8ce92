"""API for Python: a run from keyword arguments, the one that `lossrag train` makes of the same settings."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from lossrag.errors import ConfigError
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.values import overrides_of
from lossrag.experiments.exits import TERMINATED, Stopped
from lossrag.experiments.run.isolation import isolated
from lossrag.experiments.run.machine import choose_device
from lossrag.experiments.run.ranks import started_together
from lossrag.experiments.train import train_run
from lossrag.tasks import FrameSuite

_training = threading.Lock()


@dataclass(frozen=True)
class TrainedRun(os.PathLike[str]):
    """A finished run. It stands for its directory where a path is wanted: ``lossrag.load_run(run)``.

    path: its directory. scores: on the test split, by task, each in its metric; score_mean: what they are worth on
    average. weights: mean weights of the tasks in the epoch that validation chose. summary: all of its summary.json.
    """

    path: Path
    run_id: str
    scores: Mapping[str, float]
    score_mean: float
    weights: Mapping[str, float]
    summary: Mapping[str, Any] = field(repr=False)

    def __fspath__(self) -> str:
        return str(self.path)


def train(*, quiet: bool = False, **settings: Any) -> TrainedRun:
    """Train, resume or show the run of these settings: `lossrag train` in Python, with the same run directory and the
    same bits.

    settings: keys of the configuration, as on the command line; a section is a mapping, ``train={"epochs": 2}``, and a
        group of options takes a name, ``weighting="uniform"``, or one with options, ``weighting={"name": "uniform"}``.
        ``tasks`` takes what :func:`lossrag.suite_from` returns as well, and ``experiment`` is ``table`` then unless
        something else is said.
    quiet: print nothing.

    Raises LossRAGError for what a user can mend. KeyboardInterrupt after an interrupt or SIGTERM, the latter after the
    caller's own handler was called; the same call then resumes. Torch's state is the caller's afterwards.

    One training at a time in a process, in any of its threads: all draw from torch's one generator.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = train(experiment="digits", weighting="uniform", train={"epochs": 1}, run={"root": folder}, quiet=True)
    >>> sorted(run.weights.items())
    [('centre', 1.0), ('digit', 1.0), ('loops', 1.0), ('parity', 1.0)]
    """
    if started_together():
        raise ConfigError("torchrun starts the command, torchrun ... $(which lossrag) train ...: this is one process.")
    if not _training.acquire(blocking=False):
        raise ConfigError(
            "A training is under way in another thread of this process, and torch's random numbers are one sequence "
            "for all of them: wait for it to end, or train side by side in processes (lossrag sweep, lossrag compare)."
        )
    try:
        return _train(Console(quiet=quiet), settings)
    except Stopped as stopped:
        if stopped.code == TERMINATED:
            signal.raise_signal(signal.SIGTERM)  # the checkpoint is written: now to whom it was for
        raise KeyboardInterrupt(str(stopped)) from None
    finally:
        _training.release()


def _train(console: Console, settings: Mapping[str, Any]) -> TrainedRun:
    tables = {}
    suite = settings.get("tasks")
    if isinstance(suite, FrameSuite):
        tables = dict(suite.tables)
        settings = {"experiment": "table", **settings, "tasks": {"name": "table", **suite.options}}
    config, full = load_config(overrides_of(settings))
    with isolated(choose_device(config.machine.device)):
        summary = train_run(full, console, tables=tables)
    return TrainedRun(
        Path(summary["directory"]),
        summary["run_id"],
        {**summary["test_accuracy"], **summary["test_r2"]},
        summary["test_score_mean"],
        summary["task_weights"],
        summary,
    )
