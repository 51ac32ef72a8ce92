"""`lossrag train`: one run from its configuration to its summary, resumable at any step.

Everything random is a function of (seed, epoch, step), so a resumed run needs nothing but the tensors of its last
checkpoint to continue bit for bit.
"""

from __future__ import annotations

import signal
import time
from functools import partial
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from lossrag.errors import DivergedError, GroupError, LossRAGError, RunDirectoryError
from lossrag.experiments.config.compose import build_config
from lossrag.experiments.config.identity import Settings
from lossrag.experiments.config.schema import Config
from lossrag.experiments.exits import INTERRUPTED, TERMINATED, Stopped
from lossrag.experiments.plotting import rendered
from lossrag.experiments.record.checkpoint import pack, unpack
from lossrag.experiments.record.composition_log import CompositionLog
from lossrag.experiments.record.contexts import save_contexts
from lossrag.experiments.record.descent import descent_checks, descent_shares, descent_summary
from lossrag.experiments.record.description import write_description, write_preprocessing
from lossrag.experiments.record.directory import RunDirectory
from lossrag.experiments.record.finished import read_summary
from lossrag.experiments.record.jsonl import JsonLines, Unwritten, read_points
from lossrag.experiments.record.progress import RunProgress, say
from lossrag.experiments.record.series import D_TAG, Evaluation, StepOutcome, Values, split_values, step_values
from lossrag.experiments.record.state import Best, is_finite, load_state, save_state
from lossrag.experiments.record.summary import print_summary, write_summary
from lossrag.experiments.record.tensorboard import TensorBoard, matrix_figure
from lossrag.experiments.record.trajectory_plot import plot_trajectories
from lossrag.experiments.run.build import build_problem, build_suite
from lossrag.experiments.run.contexts import ContextRecorder
from lossrag.experiments.run.describe import description_of
from lossrag.experiments.run.machine import apply_machine
from lossrag.experiments.run.problem import Problem
from lossrag.experiments.run.ranks import ALONE, Ranks, open_together
from lossrag.experiments.run.refit import refit
from lossrag.experiments.run.step import BatchStep
from lossrag.tasks import Suite
from lossrag.tensors import save_tensors


def train_run(settings: Settings, console: Console, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Train (or resume, or show) the run of these plain settings; its summary, which of several ``ranks`` the first one
    has.

    Raises LossRAGError for what a user can mend, Stopped after SIGTERM or an interrupt.
    """
    config = build_config(settings)
    device, machine = apply_machine(config.machine)
    directory = open_together(settings, config.run, ranks)
    resume = "the same command" + (f" with run.dir={directory.path} instead of run.again" if config.run.again else "")
    try:
        summary = ranks.of_first(partial(read_summary, directory.path))
        if summary is not None:
            say(console, "This run is finished; its results are shown. Add run.again=true to repeat it.")
            say(console, str(directory.path))
        else:
            try:
                training = Training(config, settings, directory, console, device, machine, ranks)
            except LossRAGError:
                if ranks.leads:
                    directory.discard()
                raise
            summary = training.run()
        if ranks.leads:
            print_summary(summary, console)
        return summary
    except GroupError as error:
        raise GroupError(f"{error} The last good checkpoint was kept: {resume} resumes.") from None
    except OSError as error:
        raise RunDirectoryError(
            f"A file cannot be read or written: {error}. Mend that; {resume} resumes the run in {directory.path}."
        ) from error
    except KeyboardInterrupt:
        raise Stopped(f"Interrupted; {resume} resumes from the last checkpoint.", INTERRUPTED) from None
    except _Terminated as stopped:
        raise Stopped(f"Stopped by SIGTERM after step {stopped}; {resume} resumes.", TERMINATED) from None
    finally:
        directory.release()


class _Terminated(BaseException):
    """SIGTERM arrived, and the checkpoint of this moment has been written; holds the step."""


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
        ranks: Ranks = ALONE,
    ) -> None:
        self.config, self.settings, self.directory, self.console = config, settings, directory, console
        self.ranks, self.device = ranks, device
        self.suite, self.problem, self.batch_step = ranks.together(self._build, "building the run")
        self.step, self.learned = self.batch_step.step, self.batch_step.learned
        say(console, f"{self.suite.name}: {self.suite.edition}")
        for note in self.suite.notes:
            say(console, f"  {note}")
        several = "" if ranks.group is None else f", {ranks.group.size} processes that share the rows of every batch"
        say(console, f"run {directory.path} on {machine}{several}")
        self.contexts: ContextRecorder | None = None
        if config.log.contexts:
            steps = len(self.batch_step.plan(0)) * config.train.epochs
            self.contexts = ContextRecorder(config, self.problem, steps)
        edition, model = self.suite.edition, self.problem.model
        state = (directory, edition, model, self.step, self.learned, self.contexts)
        self.progress = ranks.together(partial(load_state, *state), "reading the checkpoint")
        if self.suite.preprocessing is not None and ranks.leads:
            write_preprocessing(directory, self.suite.preprocessing.plain())
        if self.step.count:
            say(console, f"resuming after step {self.step.count}")
        self.started = time.monotonic() - self.progress.seconds
        self.saved = time.monotonic()
        self.terminating = self.finishing = False
        self.pending: list[tuple[int, StepOutcome]] = []
        self.latest: Values = {}

    def _build(self) -> tuple[Suite, Problem, BatchStep]:
        suite = build_suite(self.config)
        problem = build_problem(self.config, suite, self.device)
        return suite, problem, BatchStep.of(self.config, problem, self.config.train.epochs, self.ranks.group)

    def run(self) -> dict[str, Any]:
        """Train all epochs, then evaluate the best one on the test split, once."""
        previous = signal.signal(signal.SIGTERM, self._on_sigterm)
        leads = self.ranks.leads
        self.lines = JsonLines(self.directory.metrics, self.progress.offset) if leads else Unwritten()
        self.board = self._open_board() if leads and self.config.log.tensorboard else None
        learned = self.learned if leads else None
        self.compositions = CompositionLog(self.directory, learned, self.lines, self.board, self.config.log)
        self.compositions.resume(self.step.count, self.progress)
        try:
            self._epochs()
            return self._finish()
        finally:
            signal.signal(signal.SIGTERM, previous)
            self.lines.close()
            if self.board is not None:
                self.board.close()

    def _open_board(self) -> TensorBoard:
        """TensorBoard's points from the last checkpoint's step on are dropped; those of that step are known here."""
        resumed = self.step.count
        board = TensorBoard(self.directory.tensorboard, resumed)
        if not resumed:
            adversary = self.problem.adversary
            terms = adversary.series() if adversary else []
            board.describe(self.settings, self.suite.tasks, self.learned is not None, terms)
            return board
        for point in read_points(self.directory.metrics):
            if point["step"] == resumed:
                board.write(resumed, {tag: value for tag, value in point.items() if "/" in tag and tag != D_TAG})
                if D_TAG in point:
                    self._picture(board, torch.tensor(point[D_TAG], dtype=torch.float64), point["epoch"])
        return board

    def _picture(self, board: TensorBoard, D: Tensor, epoch: int) -> None:
        if epoch % self.config.log.figures_every == 0:
            board.picture(D_TAG, rendered(matrix_figure(D, self.suite.task_names)), self.step.count)

    def _epochs(self) -> None:
        progress, epochs = self.progress, self.config.train.epochs
        steps = len(self.batch_step.plan(progress.epoch))
        done = progress.epoch * steps + progress.done
        with RunProgress(self.console, self.suite.tasks, epochs, steps, done) as bar:
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
            raise DivergedError(f"{error} The last good checkpoint was kept.") from None
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
        means = {name: (sums[name] / sums[name + _KNOWN].clamp(min=1)).cpu() for name in sums if name + _KNOWN in sums}
        progress.sums.clear()
        progress.trajectory.append(means["weights"].tolist())
        progress.epoch, progress.done = progress.epoch + 1, 0
        evaluation, values = self._evaluated("validation", self.problem)
        outer = self.config.weighting.options.needs.hypergradient
        if outer is None and self.config.train.query_for_baselines == "support":
            values |= self._evaluated("query", self.problem)[1]
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
        loss, weights = float(means["support"].mean()), means["weights"].tolist()
        bar.epoch(progress.epoch, loss, evaluation.score_mean, weights, better)
        self._maybe_checkpoint(force=self._done())

    def _done(self) -> bool:
        """True after the last epoch, or after so many without a better score that patience is at its end."""
        progress, train = self.progress, self.config.train
        waited = progress.epoch - progress.best.epoch
        return progress.epoch >= train.epochs or (train.patience is not None and waited >= train.patience)

    def _finish(self) -> dict[str, Any]:
        self.finishing = True
        if self.ranks.any(self.terminating):
            raise _Terminated(self.step.count)
        best, problem = self.progress.best, self.problem
        if self.progress.epoch < self.config.train.epochs:
            patience = self.config.train.patience
            say(self.console, f"ended after epoch {self.progress.epoch}: none of the last {patience} was better")
        problem.model.load_state_dict(unpack("model", best.tensors))
        refitted = self.config.train.refit
        if refitted:
            trajectory = torch.tensor(self.progress.trajectory[: best.epoch])
            problem = refit(self.config, self.suite, trajectory, problem.device)
        test, values = self._evaluated("test", problem)
        if not self.ranks.leads:
            return {}
        if refitted:
            meta = {"kind": "refit", "run_id": self.directory.run_id, "epoch": best.epoch}
            save_tensors(self.directory.refit, pack("model", problem.model.state_dict()), meta)
        described = description_of(self.config, self.settings, problem, self.directory.run_id, best.epoch)
        write_description(self.directory, described)
        self._write(self.step.count, values, self.progress.epoch)
        self.lines.sync()
        if self.board is not None:
            self.board.sync()
        plot_trajectories(self.directory.metrics, self.suite.tasks, self.directory.figure, self.compositions.changes)
        further = self.compositions.finish(self.step.count) | descent_summary(read_points(self.directory.metrics))
        further["epochs"] = self.progress.epoch
        if self.contexts:
            save_contexts(self.directory.path, self.contexts.recorded(self.directory.run_id))
        seconds = time.monotonic() - self.started
        return write_summary(self.directory, self.config, self.settings, self.suite, test, best, seconds, further)

    def _evaluated(self, split: str, problem: Problem) -> tuple[Evaluation, Values]:
        evaluation = problem.evaluate(split)
        bad = (~torch.isfinite(evaluation.losses)).nonzero().flatten().tolist()
        if bad:
            named = ", ".join(self.suite.task_names[t] for t in bad)
            raise DivergedError(
                f"Step {self.step.count}: the {split} loss is not finite for {named}. Lower the learning rate or "
                "alpha, or look for bad inputs of that task; the last good checkpoint was kept."
            )
        return evaluation, split_values(split, evaluation, self.suite.tasks)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if self.finishing:
            # the last checkpoint holds the trained model: nothing to wait for
            raise _Terminated(self.step.count)
        self.terminating = True

    def _maybe_checkpoint(self, force: bool = False) -> None:
        # one process may hear of it before the others: all end after the same step
        self.terminating = self.ranks.any(self.terminating)
        due = self.ranks.leads and time.monotonic() - self.saved >= self.config.run.checkpoint_seconds
        if not (due or force or self.terminating):
            return
        self._flush()
        if is_finite(self.problem.model):
            self._checkpoint()
        elif force:
            raise DivergedError(
                f"Step {self.step.count}: a parameter of the model is not finite. Lower the learning rate or alpha; "
                "the last good checkpoint was kept."
            )
        # else the next step names the task whose loss is not finite, and the last good checkpoint stays
        self.saved = time.monotonic()
        if self.terminating:
            raise _Terminated(self.step.count)

    def _checkpoint(self) -> None:
        if self.ranks.leads:
            self.progress.offset = self.lines.sync()
            self.progress.seconds = time.monotonic() - self.started
            if self.board is not None:
                self.board.sync()
            edition, model = self.suite.edition, self.problem.model
            save_state(self.directory, edition, model, self.step, self.progress, self.learned, self.contexts)
