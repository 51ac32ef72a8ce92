"""Submitit launcher: a Slurm job for each run, requeued with its checkpoint when it is preempted or out of time."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lossrag.errors import ConfigError
from lossrag.experiments.studies.launchers.base import Standing, Task
from lossrag.experiments.studies.launchers.local import STOP_SECONDS
from lossrag.experiments.studies.launchers.options import LauncherOptions
from lossrag.experiments.studies.launchers.remote import POLL_SECONDS, RemoteWorker, read_standing, standing_path
from lossrag.extras import load_extra

MOST_REQUEUES = 1000
SAFE_PATH = "PYTHONSAFEPATH"
"""Tells Python to leave the current folder, where a user may have a lossrag.py, off its path."""


class SlurmWorker(RemoteWorker):
    """A task as a job of submitit."""

    def checkpoint(self, *_: Any) -> Any:
        """What submitit asks before it requeues the job, in the middle of whatever the job does."""
        if self._process is not None:
            self._process.terminate()
            _await_end(self._process.pid)
        submitit = load_extra("submitit", "submitit", "launcher=submitit")
        return submitit.helpers.DelayedSubmission(SlurmWorker(self.task, self.cwd))


def _await_end(pid: int) -> None:
    """Wait for a child without taking its exit code from whoever polls it."""
    deadline = time.monotonic() + STOP_SECONDS
    with suppress(ChildProcessError):
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


class SubmititLauncher:
    """Jobs of submitit's executor for Slurm, or of the one that starts processes here. folder: of its files, shared by
    the machines.

    Raises ConfigError without submitit, and without Slurm unless nothing is to be submitted.
    """

    requeues = True

    def __init__(self, options: LauncherOptions, slots: int | None, folder: Path) -> None:
        self.slots, self._local = slots, options.cluster == "local"
        submitit = load_extra("submitit", "submitit", "launcher=submitit")
        folder.mkdir(parents=True, exist_ok=True)
        kind = submitit.LocalExecutor if self._local else submitit.SlurmExecutor
        if options.dry_run and not self._local:
            # the script is written without Slurm as well
            kind = type("SlurmExecutor", (kind,), {"affinity": classmethod(lambda _: 1)})
        try:
            self._executor = kind(folder.absolute(), max_num_timeout=MOST_REQUEUES)
        except RuntimeError:
            raise ConfigError(
                "launcher=submitit starts jobs of Slurm, but there is no srun here: go to a login node, or look at the "
                "script with launcher.dry_run=true, or try it on this machine with launcher.cluster=local."
            ) from None
        self._executor.update_parameters(**self._parameters(options))
        self._here: list[Any] = []

    def _parameters(self, options: LauncherOptions) -> dict[str, Any]:
        if self._local:
            return {"timeout_min": options.minutes, "gpus_per_node": options.gpus, "setup": options.setup}
        given: dict[str, Any] = {
            "time": options.minutes,
            "cpus_per_task": options.cores,
            "setup": [f"export {SAFE_PATH}=1", *options.setup],
            "stderr_to_stdout": True,
        }
        if options.gpus:
            given["gpus_per_node"] = options.gpus
        if options.memory is not None:
            given["mem"] = f"{options.memory * 1024:.0f}MB"
        if options.sbatch:
            given["additional_parameters"] = dict(options.sbatch)
        return given

    def submit(self, task: Task) -> tuple[Task, Any]:
        """Submit its job."""
        standing_path(task).unlink(missing_ok=True)
        self._name(task)
        before = os.environ.get(SAFE_PATH)
        os.environ[SAFE_PATH] = "1"
        try:
            job = self._executor.submit(SlurmWorker(task, str(Path.cwd())))
        except OSError as error:
            raise ConfigError(f"launcher=submitit cannot submit {task.name}: {error}") from None
        finally:
            if before is None:
                del os.environ[SAFE_PATH]
            else:
                os.environ[SAFE_PATH] = before
        if self._local:
            self._here.append(job._process)
        return task, job

    def _name(self, task: Task) -> None:
        if not self._local:
            self._executor.update_parameters(job_name=f"lossrag-{task.name}")

    def poll(self, handle: tuple[Task, Any]) -> Standing:
        """By the file of its worker, and by Slurm where that is silent."""
        task, job = handle
        done = job.done()
        told = read_standing(task)
        if told is not None and told.phase == "ended":
            return told
        if done:
            return Standing("lost", told.where if told else "", why=f"job {job.job_id}: {job.state}")
        return told or Standing("waiting")

    def cancel(self, handles: Sequence[tuple[Task, Any]]) -> None:
        """Cancel the jobs, which ends their runs by SIGTERM."""
        for _, job in handles:
            job.cancel(check=False)
        deadline = time.monotonic() + STOP_SECONDS
        while any(not job.done() for _, job in handles) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def script(self, task: Task) -> str:
        """The script for sbatch; here, the command line of its process."""
        self._name(task)
        command = self._executor._submitit_command_str
        text = self._executor._make_submission_file_text(command, task.name)
        return str(text or command)

    def close(self) -> None:
        """Wait for the processes here, which have told their ends before."""
        for process in self._here:
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
