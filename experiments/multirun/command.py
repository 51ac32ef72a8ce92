"""`lossrag train -m`: the jobs of a sweep by Hydra's sweeper and launcher, and one table of their results."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from lossrag.errors import ConfigError, LossRAGError
from lossrag.experiments.config.identity import Settings, section
from lossrag.experiments.exits import SIGNALS, Stopped
from lossrag.experiments.multirun.job import JobReport, TrainJob, read_reports
from lossrag.experiments.multirun.loader import PRIMARY, JobLoader, is_hydra, resolved, settings_of
from lossrag.experiments.multirun.logs import kept_logging
from lossrag.experiments.multirun.table import ended_jobs, jobs_csv, jobs_table
from lossrag.experiments.record.progress import say
from lossrag.experiments.studies.jobs import claimed
from lossrag.files import write_atomic

REFUSED = {
    "run.dir": "all runs would share it. Say run.root=FOLDER, or hydra.sweep.dir=FOLDER",
    "run.again": "the same command line could not find its runs again. Say run.root=FOLDER for runs anew",
    "hydra.run.dir": "it is the folder of a single run. Say hydra.sweep.dir=FOLDER",
    "hydra.sweep.subdir": "a run's folder is named by its settings, so that finished runs are found again",
}
"""What cannot be said with -m, and why."""


def multirun(overrides: Sequence[str], console: Console) -> int:
    """Run the jobs of ``lossrag train -m`` with these overrides; the exit code, 1 when one failed."""
    for text in overrides:
        key = text.lstrip("+~").partition("=")[0]
        if key in REFUSED:
            raise ConfigError(f"{text} cannot be said with -m: {REFUSED[key]}.")
    with kept_logging():
        return _multirun(overrides, console)


def _multirun(overrides: Sequence[str], console: Console) -> int:
    loader = JobLoader()
    hydra = Hydra(PRIMARY, loader)  # it brings the resolvers that Hydra's sections use
    given = [*(text for text in overrides if not text.startswith("hydra.mode=")), "hydra.mode=MULTIRUN"]
    config = hydra.compose_config(PRIMARY, given, RunMode.MULTIRUN, with_log_configuration=True)
    if not any(text.startswith("hydra.sweep.dir=") for text in given):
        config.hydra.sweep.dir = _folder(settings_of(config), overrides)
    folder = Path(resolved(config, "hydra.sweep.dir")).absolute()
    config.hydra.sweep.dir = str(folder)
    stopped: Exception | None = None
    with claimed(folder):
        reports = folder / "jobs"
        shutil.rmtree(reports, ignore_errors=True)
        try:
            with _stop_signals():
                _sweep(config, loader, TrainJob(reports))
        except Exception as error:  # the first of the jobs that failed, or what a plugin had to say
            stopped = error
        read = read_reports(reports)
        _check(stopped, read)
        return _end(folder, loader, read, stopped, console)


@contextmanager
def _stop_signals() -> Iterator[None]:
    """Within: Ctrl-C and SIGTERM raise Stopped, also while an engine of Hydra's waits for its jobs."""

    def arrived(number: int, frame: FrameType | None) -> None:
        what, code = SIGNALS[signal.Signals(number)]
        raise Stopped(f"{what}; the same command goes on from here.", code)

    previous = {number: signal.signal(number, arrived) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _sweep(config: DictConfig, loader: JobLoader, job: TrainJob) -> None:
    """What hydra.main does for --multirun."""
    callbacks = Callbacks(config)
    callbacks.on_multirun_start(config=config, config_name=PRIMARY)
    context = HydraContext(config_loader=loader, callbacks=callbacks)
    sweeper = Plugins.instance().instantiate_sweeper(config=config, hydra_context=context, task_function=job)
    overrides = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    sweeper.sweep(arguments=overrides)
    callbacks.on_multirun_end(config=config, config_name=PRIMARY)


def _folder(settings: Settings, overrides: Sequence[str]) -> str:
    """Of a multirun: the same command line comes back to it."""
    own = json.dumps([text for text in overrides if not is_hydra(text)])
    root = str(section(settings, "run")["root"])
    return os.path.join(root, "multirun", hashlib.sha256(own.encode()).hexdigest()[:8])


def _check(stopped: Exception | None, reports: dict[str, JobReport]) -> None:
    """Raise what ended the sweep, unless it is the error of a job, which its report tells."""
    if stopped is None or any(report.why is not None for report in reports.values()):
        return
    if isinstance(stopped, (HydraException, OmegaConfBaseException, OSError)):
        reason = " ".join(str(stopped.__cause__ or stopped).split())
        raise ConfigError(f"Hydra cannot run these jobs: {reason}") from stopped
    raise stopped


def _end(
    folder: Path, loader: JobLoader, reports: dict[str, JobReport], stopped: Exception | None, console: Console
) -> int:
    """The file and the table of the jobs; the exit code."""
    planned = {**loader.planned, **{name: report.overrides for name, report in reports.items()}}
    ends = ended_jobs(planned, reports)
    write_atomic(folder / "runs.csv", jobs_csv(ends).encode())
    console.print(jobs_table(ends))
    say(console, f"written to {folder}: runs.csv")
    failed = [end for end in ends if end.summary is None]
    for end in failed:
        say(console, f"failed: {end.name}: {end.why}")
    if stopped is not None and not isinstance(stopped, LossRAGError):
        say(console, f"the sweep ended early: {' '.join(str(stopped).split()) or type(stopped).__name__}")
    return 1 if failed or stopped is not None else 0
