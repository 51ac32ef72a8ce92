"""Log of compositions: series of shares and contributions, decisions with reasons, pictures, the projector."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lossrag.errors import CheckpointError, RunDirectoryError
from lossrag.experiments.config.schema import LogConfig
from lossrag.experiments.plotting import rendered, write_png
from lossrag.experiments.record import board_tags
from lossrag.experiments.record.bank_map import asked_tasks, bank_figure
from lossrag.experiments.record.composition_plot import compositions_figure, loss_looks
from lossrag.experiments.record.directory import RunDirectory
from lossrag.experiments.record.jsonl import JsonLines, iter_points
from lossrag.experiments.record.loss_map import loss_map_figure
from lossrag.experiments.record.projector import write_projector
from lossrag.experiments.record.series import COMPOSITION, Values
from lossrag.experiments.record.share_series import ShareSeries
from lossrag.experiments.record.state import Progress
from lossrag.experiments.record.steadiness import steadiness
from lossrag.experiments.record.summary import composition_summary
from lossrag.experiments.record.tensorboard import TensorBoard
from lossrag.files import check_target, write_atomic
from lossrag.lossbank import Event, LearnedLosses, LossBank
from lossrag.proof import Chain, DamagedFile, read_lines
from lossrag.schema import COUNT, FINITE, SHARE, Unfit, check_schema

BEGIN = 8
"""Losses of a task whose series may begin at one logged moment: the largest shares."""
LEAST = 0.01
"""Share from which on a series begins. It goes on to the end, so that its curve falls to 0 and does not stop."""
EVENTS = "events.jsonl"
RANKED = "ranked"
"""Kind of an event that tells the order of a retrieval."""
ANSWERS = ("silent", "kept", "composed")
"""Kinds of events that a question to a bank ends in, those last that explain most."""
NEAREST = 5
"""Cases that a text names."""


class CompositionLog:
    """Logs the composer of a run; without one every method does nothing.

    Which steps and series are logged is a function of the points before, so a resumed run logs as an undisturbed one.
    """

    def __init__(
        self,
        directory: RunDirectory,
        learned: LearnedLosses | None,
        lines: JsonLines,
        board: TensorBoard | None,
        config: LogConfig,
    ) -> None:
        self.directory, self.learned, self.lines, self.board = directory, learned, lines, board
        self.every_steps, self.figures_every = config.every_steps, config.figures_every
        self.changes: dict[str, list[int]] = {}
        self._held: dict[int, tuple[Tensor, Tensor]] = {}
        self._begun: set[str] = set()
        self._series = ShareSeries()
        self._drawn = 0
        self._chain = Chain()

    @property
    def link(self) -> str:
        """The proof of the last line of events.jsonl, which a checkpoint remembers."""
        return self._chain.link

    def resume(self, step: int, progress: Progress) -> None:
        """Go on from the checkpoint of ``step``, 0 for a new run: what was logged after it is dropped."""
        if self.learned is None:
            return
        kept, self._chain = _cut(self.directory.path / EVENTS, step, progress.events)
        if not step:
            return
        self._told(kept)
        for point in iter_points(self.directory.metrics):
            self._series.add(point)
            self._begun.update(tag for tag in point if tag.startswith(COMPOSITION))
        # TensorBoard drops the points of that very step
        self._tell([event for event in kept if event.step == step])
        if not progress.done:
            self.end_epoch(step, progress.epoch)

    def observe(self, step: int) -> None:
        """After ``step``: hold what is to be logged, without reading the device, and tell the events."""
        if self.learned is None:
            return
        composer = self.learned.composer
        window = range(step - self.every_steps + 1, step + 1)
        if step % self.every_steps == 0 and any(self.learned.due(past) for past in window if past > 0):
            self._held[step] = (composer.state.shares, composer.contributions.clone())
        if composer.events:
            events = list(composer.events)
            composer.events.clear()
            self._told(events)
            path = self.directory.path / EVENTS
            check_target(path)
            with open(path, "ab") as file:
                file.write(b"".join(self._chain.line(asdict(event)) for event in events))
                file.flush()
                os.fsync(file.fileno())
            self._tell(events)

    def values(self, step: int) -> Values:
        """The series of a logged step; none when it was not held."""
        held = self._held.pop(step, None)
        if held is None or self.learned is None:
            return {}
        values: Values = {}
        composer = self.learned.composer
        names = composer.names
        for task, shares, contributions in zip(composer.tasks, held[0].tolist(), held[1].tolist(), strict=True):
            order = sorted(range(len(shares)), key=lambda i: (-shares[i], names[i]))
            new = {i for i in order[:BEGIN] if shares[i] >= LEAST}
            values[f"composition_active/{task.name}"] = float(sum(share > 0 for share in shares))
            for i, share in enumerate(shares):
                tag = f"{COMPOSITION}{task.name}/{names[i]}"
                if i in new or tag in self._begun:
                    self._begun.add(tag)
                    values[tag] = share
                    if contributions[i] != 0:  # 0 is what a loss has that was not measured, or showed no gradient
                        values[f"contribution/{task.name}/{names[i]}"] = contributions[i]
        self._series.add({"step": step, **values})
        return values

    def end_epoch(self, step: int, epochs: int) -> None:
        """After so many epochs: the pictures in TensorBoard, when they are due and would show anything new."""
        if self.board is None or not self.composed or epochs % self.figures_every:
            return
        before = step // epochs * (epochs - self.figures_every)
        if self._moves or any(changed > before for steps in self.changes.values() for changed in steps):
            self._series.add({"step": step})
            figure = compositions_figure(self._series, self.changes)
            if figure is not None:
                self._show(rendered(figure), step)

    @property
    def composed(self) -> bool:
        """Whether a task was ever made of more than its reference, or may be: without that there is nothing to draw."""
        if self.learned is None:
            return False
        return self._moves or bool(self.changes) or self.learned.composer.composes

    @property
    def _moves(self) -> bool:
        """Whether evidence moves shares, at other moments than events tell."""
        return self.learned is not None and self.learned.evidence is not None

    def finish(self, step: int) -> dict[str, Any]:
        """Draw the pictures of the run directory; what summary.json says of the losses at the end of training."""
        if self.learned is None:
            return {}
        self._series.add({"step": step})
        if self.composed:
            pixels = draw_compositions(self.directory.path, self._series)
            draw_bank(self.directory.path, self.learned, self._series)
            if self.board is not None and pixels is not None:
                self._show(pixels, step)
        events = read_events(self.directory.path)
        answers = [event for event in events if event.what in ANSWERS]
        summary = composition_summary(self.learned.composer, _explaining(answers), _sources(events))
        if answers:
            self.lines.sync()
            points = iter_points(self.directory.metrics)
            summary["steadiness"] = steadiness(answers, points, summary["compositions"], self.learned.total_steps)
        return summary

    def _told(self, events: Sequence[Event]) -> None:
        for task, steps in _changes(events).items():
            self.changes.setdefault(task, []).extend(steps)

    def _show(self, pixels: NDArray[np.uint8], step: int) -> None:
        if self.board is None or self.learned is None or step == self._drawn:
            return
        self._drawn = step
        self.board.picture(board_tags.COMPOSITION, pixels, step)
        kinds = {task.target_kind for task in self.learned.composer.tasks}
        write_projector(self.board.overall, kinds, self._series.last())

    def _tell(self, events: list[Event]) -> None:
        """One text per task, step and kind of event."""
        if self.board is None:
            return
        texts: dict[tuple[str, str, int], list[str]] = {}
        for event in events:
            ranks = event.what == RANKED
            tag = board_tags.RETRIEVAL if ranks else board_tags.EVENTS
            line = event.reason if ranks else f"- **{event.what}** `{event.loss}`: {event.reason}"
            nearest = [] if ranks else event.neighbours[:NEAREST]
            texts.setdefault((event.task, tag, event.step), []).extend([line, *map(_in_line, nearest)])
        for (task, tag, step), lines in texts.items():
            self.board.text(task, tag, "\n".join(lines), step)


def draw_compositions(folder: Path, series: ShareSeries) -> NDArray[np.uint8] | None:
    """Write compositions.png and losses.png of the run in ``folder`` from its logged shares, neither without any; the
    pixels (H, W, 4) of the first.

    ``draw_compositions(folder, ShareSeries.of(iter_points(folder / "metrics.jsonl")))`` redraws a finished run.
    """
    figure = compositions_figure(series, _changes(read_events(folder)))
    losses = loss_map_figure(series.last())
    if losses is not None:
        write_png(losses, folder / "losses.png")
    return None if figure is None else write_png(figure, folder / "compositions.png")


def draw_bank(folder: Path, learned: LearnedLosses, series: ShareSeries) -> None:
    """Write bank.png of the run in ``folder``: the bank that its losses asked, and its tasks on it, as the learned
    losses remember them, in the colours of compositions.png; nothing where none was asked.

    `lossrag bank picture run=FOLDER` draws that of a finished run again.
    """
    composer = learned.composer
    asked = learned.contexts[[learned.looks.index(step) for step in learned.questions]]
    tasks = asked_tasks([task.name for task in composer.tasks], composer.encoder, asked)
    if isinstance(composer.bank, LossBank) and tasks:
        figure = bank_figure(composer.bank, tasks, loss_looks(series))
        if figure is not None:
            write_png(figure, folder / "bank.png")


def read_events(folder: Path) -> list[Event]:
    """The decisions of the run in ``folder`` so far, without a line that a kill tore; none where none were told.

    Raises RunDirectoryError, with the line, for a file that is damaged.
    """
    return _read(folder / EVENTS)[0]


EVENT = {
    "step": COUNT,
    **dict.fromkeys(("task", "loss", "what", "reason"), str),
    "neighbours?": [{"distance": FINITE, **dict.fromkeys(("source", "task", "trouble", "encoder"), str)}],
    "shares?": {str: SHARE},
}


def _read(path: Path) -> tuple[list[Event], Chain]:
    if not path.exists():
        return [], Chain()
    try:
        lines, chain = read_lines(path)
        for number, line in enumerate(lines, start=1):
            check_schema(line, EVENT, f"line {number}")
        return [Event(**line) for line in lines], chain
    except (OSError, DamagedFile, Unfit, TypeError) as reason:
        raise RunDirectoryError(f"{path} is damaged, {reason}: restore it, or repeat the run.") from None


def _changes(events: Sequence[Event]) -> dict[str, list[int]]:
    """By task the steps after which what it is made of changed."""
    changes: dict[str, list[int]] = {}
    for event in events:
        if event.what == "composed":
            changes.setdefault(event.task, []).append(event.step)
    return changes


def _explaining(answers: Sequence[Event]) -> dict[str, Event]:
    """By task the answer that explains what it is made of: the one that composed it, or else the last that kept it."""
    return {event.task: event for event in sorted(answers, key=lambda event: ANSWERS.index(event.what))}


def _sources(events: Sequence[Event]) -> list[str]:
    """The sources of all cases that answered."""
    return sorted({str(case["source"]) for event in events for case in event.neighbours})


def _in_line(case: Mapping[str, Any]) -> str:
    return f"    - {case['distance']:.2f} {case['source']}, {case['task']}: {case['trouble']}, {case['encoder']}"


def _cut(path: Path, step: int, link: str) -> tuple[list[Event], Chain]:
    """Drop the events after ``step``, all of them at 0, and a line that a kill tore; those that stay, and their chain,
    which ends in the ``link`` that the checkpoint remembers."""
    chain = Chain()
    kept = [event for event in _read(path)[0] if event.step <= step] if step else []
    content = b"".join(chain.line(asdict(event)) for event in kept)
    if step and link not in ("", chain.link):
        raise CheckpointError(
            f"{path} is not as the last checkpoint left it, lines are missing: restore it, or delete "
            f"{path.parent / 'checkpoints'} to start the run over."
        )
    if path.exists():
        write_atomic(path, content)
    return kept, chain
