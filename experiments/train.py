"""`lossrag train`: one run from its configuration to its summary, resumable at any step.

Everything random is a function of (seed, epoch, step), so a resumed run needs nothing but the tensors of its last
checkpoint to continue bit for bit.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from experiments.build import build_problem, build_step, build_suite
from experiments.checkpoint import (
    load_checkpoint,
    pack,
    pack_optimizer,
    save_checkpoint,
    unpack,
    unpack_optimizer,
)
from experiments.config import Config, build_config
from experiments.figures import plot_trajectories
from experiments.log import JsonLines, RunProgress, TensorBoard, matrix_figure
from experiments.machine import apply_machine
from experiments.problem import Problem
from experiments.refit import refit
from experiments.rundir import RunDirectory, open_run
from experiments.series import Values, split_values, step_values
from experiments.summary import print_summary, write_summary
from lossrag import CheckpointError
from tasks import Suite, epoch_plan, query_index
from weighting import MultiTaskStep, StepRecord


class Terminated(BaseException):
    """SIGTERM arrived; the checkpoint of this moment has been written."""


@dataclass
class Best:
    """The epoch that validation chose so far (1-based), its score, its model and its task weights."""

    epoch: int = 0
    score: float = float("-inf")
    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Progress:
    """Where a run stands: ``done`` steps of epoch ``epoch`` (0-based) are behind it.

    ``trajectory`` holds the mean task weights of each finished epoch, ``sums`` what the current one adds up.
    """

    epoch: int = 0
    done: int = 0
    seconds: float = 0.0
    best: Best = field(default_factory=Best)
    trajectory: list[list[float]] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)


def train(settings: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Run (or resume, or show) the run of these plain settings; its summary.

    Raises LossRAGError for what a user can mend, Terminated after SIGTERM.
    """
    config = build_config(settings)
    directory = open_run(settings, config.run)
    try:
        summary = directory.finished()
        if summary is not None:
            console.print(
                f"This run is finished; its results are shown. Add run.again=true to repeat it.\n{directory.path}"
            )
        else:
            summary = Training(config, settings, directory, console).run()
        print_summary(summary, console)
        return summary
    finally:
        directory.release()


class Training:
    """The objects of one run and the loop over them."""

    def __init__(self, config: Config, settings: Mapping[str, Any], directory: RunDirectory, console: Console) -> None:
        self.config, self.settings, self.directory, self.console = config, settings, directory, console
        self.device, machine = apply_machine(config.machine)
        self.suite: Suite = build_suite(config)
        self.problem: Problem = build_problem(config, self.suite, self.device)
        self.step: MultiTaskStep = build_step(config, self.problem)
        self.progress = Progress()
        self.offset = 0
        console.print(f"{self.suite.name}: {self.suite.edition}", highlight=False, soft_wrap=True)
        console.print(f"run {directory.path} on {machine}", highlight=False, soft_wrap=True)
        self._restore()
        self.started = time.monotonic() - self.progress.seconds
        self.saved = time.monotonic()
        self.terminating = False
        self.pending: list[tuple[int, StepRecord, Tensor, Tensor | None]] = []
        self.latest: Values = {}

    def run(self) -> dict[str, Any]:
        """Train all epochs, then evaluate the best one on the test split, once."""
        previous = signal.signal(signal.SIGTERM, self._on_sigterm)
        self.lines = JsonLines(self.directory.metrics, self.offset)
        resumed = self.step.count
        self.board = TensorBoard(self.directory.tensorboard, resumed) if self.config.log.tensorboard else None
        if self.board is not None and not resumed:
            self.board.describe(self.settings, self.suite.tasks)
        try:
            self._epochs()
            return self._finish()
        finally:
            signal.signal(signal.SIGTERM, previous)
            self.lines.close()
            if self.board is not None:
                self.board.close()

    def _epochs(self) -> None:
        epochs, seed = self.config.train.epochs, self.config.seed
        size = self.config.train.batch_size
        plan = epoch_plan(self.suite, "support", size, seed, self.progress.epoch)
        steps = len(plan)
        done = self.progress.epoch * steps + self.progress.done
        with RunProgress(self.console, self.suite.tasks, epochs, steps, done) as bar:
            while self.progress.epoch < epochs:
                plan = epoch_plan(self.suite, "support", size, seed, self.progress.epoch)
                for index in plan[self.progress.done :]:
                    self._one_step(index)
                    self.progress.done += 1
                    logged = self.step.count % self.config.log.every_steps == 0
                    if logged:
                        self._flush()
                    bar.step(self.progress.epoch + 1, self.step.count, self.latest if logged else None)
                    self._maybe_checkpoint()
                self._end_epoch(bar)

    def _one_step(self, index: tuple[Tensor, ...]) -> None:
        # a function of (seed, step) alone: dropout needs no generator state in a checkpoint, on any device
        torch.manual_seed((self.config.seed << 32) + self.step.count)
        outer = self.config.weighting.options.hypergradient is not None
        support, support_meter = self.problem.batch_losses("support", index, by_task=outer)
        if not outer:
            record, query_scores = self.step(support), None
        else:
            size = self.config.outer.batch_size or self.config.train.batch_size
            rows = query_index(self.suite, size, self.config.seed, self.step.count)
            query, query_meter = self.problem.batch_losses("query", rows, by_task=True)
            record = self.step(support, query)
            query_scores = query_meter.stacked()
        self._add("weights", record.weights)
        self._add("support", record.support_losses)
        if record.hypergradient is not None:
            self._add("hypergradient", record.hypergradient)
        self.pending.append((self.progress.epoch + 1, record, support_meter.stacked(), query_scores))

    def _add(self, name: str, value: Tensor) -> None:
        sums = self.progress.sums
        sums[name] = value.double() + sums[name] if name in sums else value.double()

    def _flush(self) -> None:
        """Check every pending record, log the last one: the only place where a step's values are read."""
        for epoch, record, support, query in self.pending:
            record.check()
            if record.step % self.config.log.every_steps == 0:
                self.latest = step_values(record, self.suite.tasks, support, query)
                self._write(record.step, self.latest, epoch)
        self.pending.clear()

    def _write(self, step: int, values: Values, epoch: int, **extra: Any) -> None:
        self.lines.write(step, {"epoch": epoch, **values, **extra})
        if self.board is not None:
            self.board.write(step, values)

    def _end_epoch(self, bar: RunProgress) -> None:
        self._flush()
        progress, steps = self.progress, self.progress.done
        means = {name: (total / steps).cpu() for name, total in progress.sums.items()}
        progress.sums.clear()
        progress.trajectory.append(means["weights"].tolist())
        progress.epoch, progress.done = progress.epoch + 1, 0
        evaluation = self.problem.evaluate("validation")
        values = split_values("validation", evaluation, self.suite.tasks)
        if self.config.weighting.options.hypergradient is None and self.config.train.query_for_baselines == "support":
            values |= split_values("query", self.problem.evaluate("query"), self.suite.tasks)
        extra = {"hypergradient/D": means["hypergradient"].tolist()} if "hypergradient" in means else {}
        self._write(self.step.count, values, progress.epoch, **extra)
        if self.board is not None and extra and progress.epoch % self.config.log.figures_every == 0:
            figure = matrix_figure(means["hypergradient"], self.suite.task_names)
            self.board.picture("hypergradient/D", figure, self.step.count)
        better = values["validation/score_mean"] > progress.best.score
        if better:
            tensors = pack("model", self.problem.model.state_dict()) | {"task_weights": means["weights"]}
            copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
            progress.best = Best(progress.epoch, values["validation/score_mean"], copies)
        loss, weights = float(means["support"].mean()), means["weights"].tolist()
        bar.epoch(progress.epoch, loss, values["validation/score_mean"], weights, better)
        self._maybe_checkpoint(force=progress.epoch == self.config.train.epochs)

    def _finish(self) -> dict[str, Any]:
        best = self.progress.best
        self.problem.model.load_state_dict(unpack("model", best.tensors))
        problem = self.problem
        if self.config.train.refit:
            problem = refit(self.config, self.suite, torch.tensor(self.progress.trajectory[: best.epoch]), self.device)
        test = problem.evaluate("test")
        values = split_values("test", test, self.suite.tasks)
        self._write(self.step.count, values, self.progress.epoch)
        self.lines.sync()
        if self.board is not None:
            self.board.sync()
        plot_trajectories(self.directory.metrics, self.suite.tasks, self.directory.figure)
        return write_summary(
            self.directory,
            self.config,
            self.settings,
            self.suite,
            test,
            best.epoch,
            best.score,
            best.tensors["task_weights"],
            time.monotonic() - self.started,
        )

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self.terminating = True

    def _maybe_checkpoint(self, force: bool = False) -> None:
        due = time.monotonic() - self.saved >= self.config.run.checkpoint_seconds
        if not (due or force or self.terminating):
            return
        self._flush()
        self._save()
        self.saved = time.monotonic()
        if self.terminating:
            raise Terminated(f"Stopped by SIGTERM after step {self.step.count}; the same command resumes it.")

    def _save(self) -> None:
        progress = self.progress
        offset = self.lines.sync()
        if self.board is not None:
            self.board.sync()
        if progress.best.tensors:
            save_checkpoint(self.directory.best, progress.best.tensors, {"epoch": progress.best.epoch})
        optimizer, groups = pack_optimizer(self.step.optimizer)
        tensors = (
            pack("model", self.problem.model.state_dict())
            | pack("optimizer", optimizer)
            | pack("step", self.step.state_dict())
            | pack("sums", progress.sums)
        )
        meta = {
            "run_id": self.directory.run_id,
            "edition": self.suite.edition,
            "epoch": progress.epoch,
            "done": progress.done,
            "seconds": time.monotonic() - self.started,
            "offset": offset,
            "groups": groups,
            "trajectory": progress.trajectory,
            "best": {"epoch": progress.best.epoch, "score": progress.best.score},
        }
        save_checkpoint(self.directory.last, tensors, meta)

    def _restore(self) -> None:
        path: Path = self.directory.last
        if not path.exists():
            return
        tensors, meta = load_checkpoint(path)
        if meta["edition"] != self.suite.edition:
            raise CheckpointError(
                f"{path} was trained on other data, so this run cannot go on from it:\n  then: {meta['edition']}\n"
                f"  now:  {self.suite.edition}\nRestore the data, or start anew with run.again=true."
            )
        self.problem.model.load_state_dict(unpack("model", tensors))
        unpack_optimizer(self.step.optimizer, unpack("optimizer", tensors), meta["groups"])
        self.step.load_state_dict(unpack("step", tensors))
        best = Best(**meta["best"])
        if best.epoch:
            best.tensors, stored = load_checkpoint(self.directory.best)
            best = best if stored["epoch"] == best.epoch else Best()
        sums = {name: tensor.to(self.device) for name, tensor in unpack("sums", tensors).items()}
        self.progress = Progress(meta["epoch"], meta["done"], meta["seconds"], best, meta["trajectory"], sums)
        self.offset = meta["offset"]
        self.console.print(f"resuming after step {self.step.count}", highlight=False, soft_wrap=True)
