"""Reading of run directories for a report: what is damaged or missing becomes a note, never the end of the report."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lossrag.errors import LossRAGError
from lossrag.experiments.record.composition_log import EVENTS, RANKED, read_events
from lossrag.experiments.record.description import read_description
from lossrag.experiments.record.finished import FinishedRun, load_runs
from lossrag.experiments.record.predictions import TEST_PREDICTIONS, Rows, read_predictions
from lossrag.lossbank import Event
from lossrag.tasks import Task

T = TypeVar("T")
Point = dict[str, Any]
UNREADABLE = (LossRAGError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What reading a file that somebody else may have written can raise."""


@dataclass(frozen=True)
class LeftOut:
    """A directory that the report cannot show, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class ReportedRun:
    """A finished run with all that its directory holds; ``notes`` say what is missing there.

    name: that of its row in a plan, "" without one. tasks: by name, those that model.json describes.
    """

    run: FinishedRun
    points: list[Point]
    events: list[Event]
    tasks: Mapping[str, Task]
    rows: Rows
    notes: tuple[str, ...]
    name: str = ""

    @property
    def id(self) -> str:
        return str(self.run.summary["run_id"])

    @property
    def metrics(self) -> dict[str, str]:
        """By task the name of its score."""
        return dict(self.run.summary["metric"])

    @property
    def overrides(self) -> list[str] | None:
        """The arguments of the `lossrag train` that made it; None where its version did not keep them."""
        said = self.run.settings.get("overrides")
        return [str(text) for text in said] if isinstance(said, list) else None

    @cached_property
    def validation(self) -> dict[str, float]:
        """By task the validation score of the epoch that was chosen, as far as it was logged."""
        epoch = self.run.summary["best_epoch"]
        found = {}
        for task, metric in self.metrics.items():
            values = series(self.points, f"validation/{metric}/{task}", epoch)
            if values:
                found[task] = values[-1][1]
        return found


def series(points: list[Point], tag: str, epoch: int | None = None) -> list[tuple[int, float]]:
    """Steps and finite values of one tag, of an epoch or all of them."""
    return [
        (point["step"], float(point[tag]))
        for point in points
        if is_number(point.get(tag)) and (epoch is None or point.get("epoch") == epoch)
    ]


def is_number(value: object) -> bool:
    """True of a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_run(path: Path) -> ReportedRun | LeftOut:
    """What a report shows of a run directory."""
    if not path.is_dir():
        return LeftOut(path, "it is a file, no run directory" if path.exists() else "there is no such folder")
    if not (path / "config.yaml").is_file():
        return LeftOut(path, _no_run(path))
    try:
        runs, unfinished = load_runs([path])
        if unfinished:
            return LeftOut(path, _unfinished(path))
        run = runs[0]
        _check(run)
    except UNREADABLE as error:
        return LeftOut(path, _reason(error))
    notes: list[str] = []
    points = _points(path, notes)
    events = _attempt(lambda: read_events(path), list[Event](), notes)
    told = _attempt(lambda: (path / EVENTS).read_bytes().count(b"\n") if (path / EVENTS).exists() else 0, 0, notes)
    if len(events) < told:
        notes.append(f"{EVENTS}: line {len(events) + 1} cannot be read: the events from there on are missing")
    tasks = _attempt(lambda: read_description(path)[0].tasks, tuple[Task, ...](), notes)
    tasks = tasks if {task.name for task in tasks} == set(run.summary["metric"]) else ()
    rows: Rows | None = {}
    if tasks:
        rows = _attempt(lambda: read_predictions(path, str(run.summary["run_id"]), tasks), rows, notes)
    if rows is None:
        notes.append(f"no {TEST_PREDICTIONS}, which runs of earlier versions lack: no confusion matrices and residuals")
    shown = [event for event in events if event.what != RANKED and event.task in run.summary["metric"]]
    return ReportedRun(run, points, shown, {task.name: task for task in tasks}, rows or {}, tuple(notes))


def unique(runs: list[ReportedRun]) -> tuple[list[ReportedRun], list[LeftOut]]:
    """One run of each configuration, and the directories of the same ones."""
    kept: dict[str, ReportedRun] = {}
    again = []
    for run in runs:
        if run.id in kept:
            again.append(LeftOut(run.run.path, f"it is of the same configuration as {kept[run.id].run.path}"))
        else:
            kept[run.id] = run
    return list(kept.values()), again


def named(run: ReportedRun, name: str) -> ReportedRun:
    """The run as a plan calls it."""
    return replace(run, name=name)


def _no_run(path: Path) -> str:
    if not any(path.iterdir()):
        return "it is empty"
    if any(path.rglob("config.yaml")):
        return f"it is no run directory, but there are some in it: say root={path}"
    return "it is no run directory: it has no config.yaml"


def _unfinished(path: Path) -> str:
    points = _points(path, [])
    if not points:
        return "its run broke off before it trained anything"
    return f"its run has not finished (step {points[-1]['step']}): the command that started it resumes it"


def _check(run: FinishedRun) -> None:
    """Raise ValueError, or whatever comes of a damaged summary or configuration, unless all is there that is shown."""
    summary = run.summary
    metric = _table(summary, "metric", str)
    if not metric:
        raise ValueError("its summary.json names no task")
    for key in ("test_loss", "task_weights"):
        values = _table(summary, key, float)
        if absent := [task for task in metric if task not in values]:
            raise ValueError(f"{key} in its summary.json lacks {absent[0]!r:.80}")
    for key in ("validation_score_mean", "test_score_mean", "seconds", "best_epoch"):
        if not is_number(summary.get(key)):
            raise ValueError(f"{key} in its summary.json is no number: {summary.get(key)!r:.80}")
    for task in metric:
        if not math.isfinite(run.score(task)):
            raise ValueError(f"the score of {task!r:.80} in its summary.json is no finite number")
    for task, shares in summary.get("compositions", {}).items():
        _table(summary["compositions"], task, float)
        len(summary["off"][task]), len(shares)
    for what in (run.seed, run.method, run.problem, run.deciding, summary["versions"]["lossrag"], summary["preset"]):
        str(what)


def _table(summary: Mapping[str, Any], key: str, kind: type) -> dict[str, Any]:
    values = summary.get(key)
    known = isinstance(values, dict) and all(
        is_number(v) if kind is float else isinstance(v, kind) for v in values.values()
    )
    if not known:
        raise ValueError(f"{key} in its summary.json is damaged")
    assert isinstance(values, dict)
    return values


def _points(path: Path, notes: list[str]) -> list[Point]:
    """The points of metrics.jsonl as far as they can be read."""
    points: list[Point] = []
    lines = _attempt(lambda: (path / "metrics.jsonl").read_bytes().splitlines(), list[bytes](), notes)
    for number, line in enumerate(lines, start=1):
        try:
            point = json.loads(line)
        except (ValueError, RecursionError):
            point = None
        if not isinstance(point, dict) or not isinstance(point.get("step"), int):
            notes.append(f"metrics.jsonl: line {number} cannot be read: curves end there")
            break
        points.append(point)
    return points


def _attempt(read: Callable[[], T], otherwise: T, notes: list[str]) -> T:
    try:
        return read()
    except UNREADABLE as error:
        notes.append(_reason(error))
        return otherwise


def _reason(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, (LossRAGError, ValueError)) and text:
        return text[:300]
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'} cannot be read ({error.strerror or text})"
    return f"its config.yaml or summary.json is damaged or another program's ({type(error).__name__}: {text[:200]})"
