"""`lossrag train`: one run from its configuration to its summary, resumable at any step.

Everything random is a function of (seed, epoch, step), so a resumed run needs nothing but the tensors of its last
checkpoint to continue bit for bit.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from lossrag.errors import ConfigError, DivergedError, GroupError, LossRAGError, RunDirectoryError
from lossrag.experiments.config.compose import build_config
from lossrag.experiments.config.identity import Settings, section
from lossrag.experiments.config.schema import Choice, Config
from lossrag.experiments.plotting import rendered
from lossrag.experiments.record import board_tags
from lossrag.experiments.record.checkpoint import pack, unpack
from lossrag.experiments.record.composition_log import CompositionLog
from lossrag.experiments.record.contexts import save_contexts
from lossrag.experiments.record.descent import descent_checks, descent_shares, descent_summary
from lossrag.experiments.record.description import write_description, write_preprocessing
from lossrag.experiments.record.directory import RunDirectory
from lossrag.experiments.record.finished import read_summary
from lossrag.experiments.record.finite import check_finite
from lossrag.experiments.record.jsonl import JsonLines, Unwritten, iter_points
from lossrag.experiments.record.opened_board import open_board
from lossrag.experiments.record.predictions import write_predictions
from lossrag.experiments.record.progress import RunProgress, say
from lossrag.experiments.record.series import D_TAG, Evaluation, StepOutcome, Values, split_values, step_values
from lossrag.experiments.record.state import Best, load_state, save_state
from lossrag.experiments.record.summary import print_summary, summary_markdown, summary_of, write_summary
from lossrag.experiments.record.tensorboard import TensorBoard, matrix_figure
from lossrag.experiments.record.trajectory_plot import plot_trajectories
from lossrag.experiments.run.build import build_problem, build_suite
from lossrag.experiments.run.contexts import ContextRecorder
from lossrag.experiments.run.describe import description_of
from lossrag.experiments.run.machine import apply_machine
from lossrag.experiments.run.paper import paper_notes
from lossrag.experiments.run.problem import Problem
from lossrag.experiments.run.ranks import ALONE, Ranks, open_together
from lossrag.experiments.run.refit import refit
from lossrag.experiments.run.step import BatchStep
from lossrag.experiments.run.stopping import StopAsked, StopSignals, stopped
from lossrag.experiments.run.warm_start import Parent, warm_start
from lossrag.models import MultiTaskModel
from lossrag.tasks import Suite
from lossrag.tasks.table.cells import Table
from lossrag.tasks.table.in_memory import with_tables
from lossrag.tasks.table.settings import TableConfig
from lossrag.tensors import save_tensors

TOO_LARGE = (
    "can't allocate memory",
    "out of memory",
    "Overflow when",
    "Storage size calculation overflowed",
    "too large",
)
"""Words of torch's errors about numbers that no memory holds; each is an error of its own kind."""


def train_run(
    settings: Settings, console: Console, ranks: Ranks = ALONE, tables: Mapping[str, Table] | None = None
) -> dict[str, Any]:
    """Train (or resume, or show) the run of these plain settings; its summary, which of several ``ranks`` the first one
    has. tables: those in memory, by the names that the settings have for them.

    Raises LossRAGError for what a user can mend, Stopped after SIGTERM or an interrupt.
    """
    with StopSignals() as stop:
        return _train_run(settings, console, ranks, stop, tables or {})


def _train_run(
    settings: Settings, console: Console, ranks: Ranks, stop: StopSignals, tables: Mapping[str, Table]
) -> dict[str, Any]:
    config = build_config(settings)
    resume, directory, training = "the same command", None, None
    try:
        device, machine = apply_machine(config.machine)
        directory = open_together(settings, config.run, ranks)
        resume += f" with run.dir={directory.path} instead of run.again" if config.run.again else ""
        summary = ranks.of_first(partial(read_summary, directory.path))
        if summary is not None:
            say(console, "This run is finished; its results are shown. Add run.again=true to repeat it.")
            say(console, str(directory.path))
        else:
            given = (_with_tables(config, tables), settings, directory, console, device, machine, stop, ranks)
            training = _begun(partial(Training, *given), directory, ranks)
            summary = training.run()
        if ranks.leads:
            print_summary(summary, console)
        return summary
    except GroupError as error:
        there = directory is not None and directory.last.exists()
        goes_on = f"The last good checkpoint was kept: {resume} resumes." if there else f"{resume} starts the run over."
        raise GroupError(f"{error} {goes_on[0].upper()}{goes_on[1:]}") from None
    except OSError as error:
        if directory is None:
            raise
        raise RunDirectoryError(
            f"A file cannot be read or written: {error}. Mend that; {resume} resumes the run in {directory.path}."
        ) from error
    except StopAsked as asked:
        done, kept = (0, None) if training is None else (training.step.count, training.kept)
        raise stopped(asked.number, None if directory is None else directory.last, done, kept, resume) from None
    finally:
        if directory is not None:
            directory.release()


def _begun(build: Callable[[], Training], directory: RunDirectory, ranks: Ranks) -> Training:
    """The run, built; where that cannot be, nothing is left of a fresh directory."""
    try:
        return build()
    except (Exception, StopAsked) as error:
        if ranks.leads:
            directory.discard()
        if not isinstance(error, (LossRAGError, OSError)) and any(word in str(error) for word in TOO_LARGE):
            reason = str(error).splitlines()[0].rpartition("Allocator: ")[2]
            raise ConfigError(f"This run is too large for the machine: {reason}") from None
        raise


def _with_tables(config: Config, tables: Mapping[str, Table]) -> Config:
    if not tables:
        return config
    options = config.tasks.options
    assert isinstance(options, TableConfig)
    return replace(config, tasks=Choice(config.tasks.name, with_tables(options, tables)))


_KNOWN = "/known"


class Training:
    """The objects of one run and the loop over them."""

    def __init__(
        self,
        config: Config,
        settings: Settings,
        directory: RunDirectory,
        console: Console,
        device: torch.device,
        machine: str,
        stop: StopSignals,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config, self.settings, self.directory, self.console = config, settings, directory, console
        self.ranks, self.device, self.stop = ranks, device, stop
        self.suite, self.problem, self.batch_step, begun = ranks.together(self._build, "building the run")
        self.step, self.learned = self.batch_step.step, self.batch_step.learned
        say(console, f"{self.suite.name}: {self.suite.edition}")
        for note in (*paper_notes(settings), *self.suite.notes):
            say(console, f"  {note}")
        several = "" if ranks.group is None else f", {ranks.group.size} processes that share the rows of every batch"
        say(console, f"run {directory.path} on {machine}{several}")
        for note in begun:
            say(console, f"  {note}")
        self.contexts: ContextRecorder | None = None
        if config.log.contexts:
            steps = len(self.batch_step.plan(0)) * config.train.epochs
            self.contexts = ContextRecorder(config, self.problem, steps)
        parts = (self.problem.model, self.step, self.learned, self.contexts)
        load = partial(load_state, directory, self.edition, config.train.epochs, *parts)
        self.progress = ranks.together(load, "reading the checkpoint")
        self.kept = self.step.count if directory.last.exists() else None
        if self.suite.preprocessing is not None and ranks.leads:
            write_preprocessing(directory, self.suite.preprocessing.plain())
        if self.step.count:
            say(console, f"resuming after step {self.step.count}")
        self.started = time.monotonic() - self.progress.seconds
        self.saved = time.monotonic()
        self.pending: list[tuple[int, StepOutcome]] = []
        self.latest: Values = {}

    def _build(self) -> tuple[Suite, Problem, BatchStep, list[str]]:
        train = self.config.train
        self.parent = None if train.parent is None else Parent.read(train.parent)
        suite = build_suite(self.config)
        problem = build_problem(self.config, suite, self.device)
        begin = self._begin(suite)
        begun = begin(problem.model) if begin else []
        return suite, problem, BatchStep.of(self.config, problem, train.epochs, self.ranks.group), begun

    def _begin(self, suite: Suite) -> Callable[[MultiTaskModel], list[str]] | None:
        """What puts the parameters of the parent into a fresh model, where there is one."""
        if self.parent is None:
            return None
        return partial(warm_start, self.parent, suite=suite, settings=section(self.settings, "model"))

    @property
    def edition(self) -> str:
        """What a checkpoint was trained on: the data, and the run that it began with."""
        return f"{self.suite.edition}{f', from {self.parent}' if self.parent else ''}"

    def run(self) -> dict[str, Any]:
        """Train all epochs, then evaluate the best one on the test split, once."""
        leads = self.ranks.leads
        self.lines = JsonLines(self.directory.metrics, self.progress.offset) if leads else Unwritten()
        self.board: TensorBoard | None = None
        try:
            self.board = self._open_board() if leads and self.config.log.tensorboard else None
            learned = self.learned if leads else None
            self.compositions = CompositionLog(self.directory, learned, self.lines, self.board, self.config.log)
            self.compositions.resume(self.step.count, self.progress)
            self._epochs()
            return self._finish()
        finally:
            self.lines.close()
            if self.board is not None:
                self.board.close()

    def _open_board(self) -> TensorBoard:
        """TensorBoard's points from the last checkpoint's step on are dropped; those of that step are known here."""
        resumed, adversary = self.step.count, self.problem.adversary
        terms, composed = adversary.series() if adversary else [], self.learned is not None
        board = open_board(self.directory.path, self.settings, self.suite.tasks, composed, terms, resumed)
        for point in iter_points(self.directory.metrics) if resumed else ():
            if point["step"] < resumed:
                board.recall(point)
            else:
                board.write(resumed, {tag: value for tag, value in point.items() if "/" in tag and tag != D_TAG})
                if D_TAG in point:
                    self._picture(board, torch.tensor(point[D_TAG], dtype=torch.float64), point["epoch"])
                if "validation/score_mean" in point:
                    board.end_epoch(resumed, self.progress.best.score)
        return board

    def _picture(self, board: TensorBoard, D: Tensor, epoch: int) -> None:
        if epoch % self.config.log.figures_every == 0:
            board.picture(board_tags.D, rendered(matrix_figure(D, self.suite.task_names)), self.step.count)

    def _epochs(self) -> None:
        progress, epochs = self.progress, self.config.train.epochs
        steps = len(self.batch_step.plan(progress.epoch))
        done = progress.epoch * steps + progress.done
        with RunProgress(self.console, self.suite.tasks, epochs, steps, done) as bar, self.stop.between_steps():
            while not self._done():
                for index in self.batch_step.plan(progress.epoch)[progress.done :]:
                    self._one_step(index)
                    progress.done += 1
                    logged = self.step.count % self.config.log.every_steps == 0
                    if logged:
                        self._flush()
                    bar.step(progress.epoch + 1, self.step.count, self.latest if logged else None)
                    self._maybe_checkpoint()
                self._end_epoch(bar)

    def _one_step(self, index: tuple[Tensor, ...]) -> None:
        if self.contexts:
            self.contexts.observe(self.step.count)
        try:
            outcome = self.batch_step(index, self.progress.epoch)
        except DivergedError as error:
            self.compositions.observe(self.step.count)  # what was decided until then
            raise DivergedError(f"{error} {self._what_is_kept()}") from None
        record = outcome.record
        self.compositions.observe(record.step)
        self._add("weights", record.weights)
        self._add("support", record.support_losses)
        if record.hypergradient is not None:
            self._add("hypergradient", record.hypergradient)
        if record.hypergradient is not None and record.direction is not None:
            self._add("descent", descent_checks(record.hypergradient, record.direction))
        self.pending.append((self.progress.epoch + 1, outcome))

    def _add(self, name: str, value: Tensor) -> None:
        """Add to a sum of the epoch, and to how often each of its entries was known."""
        sums, known = self.progress.sums, value.isfinite()
        for key, part in ((name, value.double().where(known, 0.0)), (name + _KNOWN, known.double())):
            sums[key] = part + sums[key] if key in sums else part

    def _flush(self) -> None:
        """Log the last of the pending records."""
        for epoch, outcome in self.pending:
            record = outcome.record
            if record.step % self.config.log.every_steps == 0:
                self.latest = step_values(outcome, self.suite.tasks, self.step.optimizer)
                self.latest |= self.compositions.values(record.step)
                self._write(record.step, self.latest, epoch)
        self.pending.clear()

    def _write(self, step: int, values: Values, epoch: int, **extra: Any) -> None:
        self.lines.write(step, {"epoch": epoch, **values, **extra})
        if self.board is not None:
            self.board.write(step, values)

    def _end_epoch(self, bar: RunProgress) -> None:
        self._flush()
        progress, sums = self.progress, self.progress.sums
        evaluation, values = self._validated()
        means = {name: (sums[name] / sums[name + _KNOWN].clamp(min=1)).cpu() for name in sums if name + _KNOWN in sums}
        progress.sums.clear()
        progress.trajectory.append(means["weights"].tolist())
        progress.epoch, progress.done = progress.epoch + 1, 0
        values |= descent_shares(means["descent"]) if "descent" in means else {}
        extra = {D_TAG: means["hypergradient"].tolist()} if "hypergradient" in means else {}
        self._write(self.step.count, values, progress.epoch, **extra)
        if self.board is not None and extra:
            self._picture(self.board, means["hypergradient"], progress.epoch)
        self.compositions.end_epoch(self.step.count, progress.epoch)
        better = evaluation.score_mean > progress.best.score or not progress.best.tensors
        if better:
            tensors = pack("model", self.problem.model.state_dict()) | {"task_weights": means["weights"]}
            copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
            progress.best = Best(progress.epoch, evaluation.score_mean, copies)
        if self.board is not None:
            self.board.end_epoch(self.step.count, progress.best.score)
        loss, weights = float(means["support"].mean()), means["weights"].tolist()
        bar.epoch(progress.epoch, loss, evaluation.score_mean, weights, better)
        self._maybe_checkpoint(force=self._done())

    def _validated(self) -> tuple[Evaluation, Values]:
        """What an epoch ends with. It changes nothing, so a run that is stopped in it saves the last step."""
        if self.ranks.group is not None:  # all end after the same step, so all wait
            return self._validate()
        try:
            with self.stop.at_once():
                return self._validate()
        except StopAsked:
            self._checkpoint()
            raise

    def _validate(self) -> tuple[Evaluation, Values]:
        evaluation, values = self._evaluated("validation", self.problem)
        outer = self.config.weighting.options.needs.hypergradient
        if outer is None and self.config.train.query_for_baselines == "support":
            values |= self._evaluated("query", self.problem)[1]
        return evaluation, values

    def _done(self) -> bool:
        """True after the last epoch, or after so many without a better score that patience is at its end."""
        progress, train = self.progress, self.config.train
        waited = progress.epoch - progress.best.epoch
        return progress.epoch >= train.epochs or (train.patience is not None and waited >= train.patience)

    def _finish(self) -> dict[str, Any]:
        # the last checkpoint holds the trained model: nobody waits for what comes now
        self.stop_together()
        best, problem = self.progress.best, self.problem
        if self.progress.epoch < self.config.train.epochs:
            patience = self.config.train.patience
            say(self.console, f"ended after epoch {self.progress.epoch}: none of the last {patience} was better")
        problem.model.load_state_dict(unpack("model", best.tensors))
        refitted = self.config.train.refit
        if refitted:
            trajectory = torch.tensor(self.progress.trajectory[: best.epoch])
            problem = refit(self.config, self.suite, trajectory, problem.device, self._begin(self.suite))
        test, values = self._evaluated("test", problem)
        if not self.ranks.leads:
            return {}
        if refitted:
            meta = {"kind": "refit", "run_id": self.directory.run_id, "epoch": best.epoch}
            tensors = pack("model", problem.model.state_dict())
            check_finite(tensors, self.step.count)
            save_tensors(self.directory.refit, tensors, meta)
        described = description_of(self.config, self.settings, problem, self.directory.run_id, best.epoch)
        write_description(self.directory, described)
        write_predictions(self.directory, test, self.suite.tasks)
        self._write(self.step.count, values, self.progress.epoch)
        self.lines.sync()
        plot_trajectories(self.directory.metrics, self.suite.tasks, self.directory.figure, self.compositions.changes)
        further = self.compositions.finish(self.step.count) | descent_summary(iter_points(self.directory.metrics))
        further["epochs"] = self.progress.epoch
        if self.parent:
            further["parent"] = self.parent.summary
        if self.contexts:
            save_contexts(self.directory.path, self.contexts.recorded(self.directory.run_id))
        seconds = time.monotonic() - self.started
        summary = summary_of(self.directory, self.config, self.settings, self.suite, test, best, seconds, further)
        if self.board is not None:
            self.board.result(self.step.count, self.directory.path, summary_markdown(summary))
        write_summary(self.directory, summary)
        return summary

    def _evaluated(self, split: str, problem: Problem) -> tuple[Evaluation, Values]:
        evaluation = problem.evaluate(split)
        bad = (~torch.isfinite(evaluation.losses)).nonzero().flatten().tolist()
        if bad:
            named = ", ".join(self.suite.task_names[t] for t in bad)
            raise DivergedError(
                f"Step {self.step.count}: the {split} loss is not finite for {named}. Lower the learning rate or "
                f"alpha, or look for bad inputs of that task. {self._what_is_kept()}"
            )
        return evaluation, split_values(split, evaluation, self.suite.tasks)

    def _what_is_kept(self) -> str:
        return "There is no checkpoint yet." if self.kept is None else "The last good checkpoint was kept."

    def stop_together(self) -> None:
        """Raise StopAsked in all processes where one of them was asked to stop."""
        if self.ranks.any(self.stop.asked is not None):
            self.stop.stop(self.stop.asked or signal.SIGTERM)

    def _maybe_checkpoint(self, force: bool = False) -> None:
        # one process may hear of it before the others: all end after the same step
        asked = self.ranks.any(self.stop.asked is not None)
        due = self.ranks.leads and time.monotonic() - self.saved >= self.config.run.checkpoint_seconds
        if due or force or asked:
            self._flush()
            self._checkpoint()
            self.saved = time.monotonic()
        if asked:
            self.stop.stop(self.stop.asked or signal.SIGTERM)

    def _checkpoint(self) -> None:
        if self.ranks.leads:
            self.progress.offset, self.progress.events = self.lines.sync(), self.compositions.link
            self.progress.seconds = time.monotonic() - self.started
            model = self.problem.model
            state = (self.directory, self.edition, model, self.step, self.progress, self.learned, self.contexts)
            try:
                save_state(*state)
            except DivergedError as error:
                raise DivergedError(f"{error} {self._what_is_kept()}") from None
        self.kept = self.step.count
