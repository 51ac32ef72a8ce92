"""Repair of a run: what the rest of it determines is made anew, and what was damaged is kept in DIR/damaged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from lossrag.errors import LossRAGError, RunDirectoryError
from lossrag.experiments.check.findings import (
    CHECKPOINT,
    ITSELF,
    POINTS,
    UNPROVEN,
    Checked,
    Finding,
    check_run,
    source_of,
)
from lossrag.experiments.config.identity import run_id
from lossrag.experiments.plotting import rendered
from lossrag.experiments.record import board_tags
from lossrag.experiments.record.description import read_description
from lossrag.experiments.record.directory import EVENT_FILES, sums_of
from lossrag.experiments.record.finished import read_summary
from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.record.opened_board import open_board
from lossrag.experiments.record.series import D_TAG
from lossrag.experiments.record.settings import read_settings
from lossrag.experiments.record.summary import summary_markdown
from lossrag.experiments.record.tensorboard import matrix_figure
from lossrag.experiments.train import train_run
from lossrag.proof import read_sums, write_sums

KEPT = "damaged"


def repair_run(checked: Checked) -> tuple[Checked, list[str]]:
    """Rebuild what can be rebuilt of a run; how it is then, and a line for what could not be and why."""
    directory, told = checked.path, []
    by_source: dict[str, list[Finding]] = {}
    for finding in checked.findings:
        by_source.setdefault(finding.source, []).append(finding)
    steps = ((CHECKPOINT, _from_checkpoint), (POINTS, _from_points))
    if by_source.get(ITSELF):
        _set_aside(directory, [finding.name for finding in by_source[ITSELF] if finding.state != UNPROVEN])
    for source, rebuild in steps:
        findings = [finding for finding in by_source.get(source, ()) if finding.state != UNPROVEN]
        if findings:
            try:
                rebuild(directory, findings)
            except (LossRAGError, OSError) as error:
                told.append(f"{', '.join(finding.name for finding in findings)}: {error}")
    if (directory / "summary.json").exists():
        _prove(directory, {finding.name for finding in check_run(directory).damage})
    return check_run(directory), told


def _prove(directory: Path, damaged: set[str]) -> None:
    """Sums of all that is not damaged, as it is now; what is keeps the sum that it does not match, but for events of
    TensorBoard in whose place there are others."""
    before, now = read_sums(directory) or {}, sums_of(directory)
    new = {name: sums for name, sums in now.items() if name not in damaged}
    kept = {name: own for name, own in before.items() if name in damaged and (name in now or source_of(name) != POINTS)}
    if (whole := {**new, **kept}) != before:
        write_sums(directory, whole)


def _from_checkpoint(directory: Path, findings: Sequence[Finding]) -> None:
    """Let the run end again from its last checkpoint: nothing is trained, all that comes after training is made."""
    settings = read_settings(directory)
    if not (directory / "checkpoints" / "last.safetensors").exists():
        raise RunDirectoryError("there is no last checkpoint to make it from.")
    moved = _set_aside(directory, [*(finding.name for finding in findings), "summary.json"])
    try:
        again = {**settings, "run": {**settings.get("run", {}), "dir": str(directory), "again": False}}
        if run_id(again) != run_id(settings):
            raise RunDirectoryError("its settings are of another run.")
        train_run(again, Console(quiet=True))
    except BaseException:
        for name, place in moved.items():
            if not (directory / name).exists():
                os.replace(place, directory / name)
        raise


def _from_points(directory: Path, findings: Sequence[Finding]) -> None:
    """TensorBoard's scalars and pictures of D, in new files, from metrics.jsonl; hyperparameters, texts and what it
    ended with from the rest of the run."""
    points, settings = read_points(directory / "metrics.jsonl"), read_settings(directory)
    tasks = read_description(directory)[0].tasks
    _set_aside(directory, [path.relative_to(directory).as_posix() for path in directory.glob(EVENT_FILES)])
    composed = any(tag.startswith("composition/") for point in points for tag in point)
    board = open_board(directory, settings, tasks, composed, [])
    best = float("-inf")
    for point in points:
        board.write(point["step"], {tag: value for tag, value in point.items() if "/" in tag and tag != D_TAG})
        if D_TAG in point:
            matrix = torch.tensor(point[D_TAG], dtype=torch.float64)
            board.picture(board_tags.D, rendered(matrix_figure(matrix, [task.name for task in tasks])), point["step"])
        if "validation/score_mean" in point:
            best = max(best, point["validation/score_mean"])
            board.end_epoch(point["step"], best)
    if points and (summary := read_summary(directory)) is not None:
        board.result(points[-1]["step"], directory, summary_markdown(summary))
    board.close()


def _set_aside(directory: Path, names: Sequence[str]) -> dict[str, Path]:
    """Move files of a run to its folder ``damaged``, where none replaces another; where they went, by name."""
    moved = {}
    for name in dict.fromkeys(names):
        if (directory / name).exists():
            folder = directory / KEPT
            folder.mkdir(exist_ok=True)
            flat = name.replace("/", "-")
            free = (folder / f"{flat}{end}" for end in ("", *(f".{number}" for number in range(2, 10_000))))
            moved[name] = next(place for place in free if not place.exists())
            os.replace(directory / name, moved[name])
    return moved
