"""Ray launcher: a task of a Ray cluster for each run; what a lost node leaves is finished by another one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lossrag.errors import ConfigError
from lossrag.experiments.studies.launchers.base import Standing, Task
from lossrag.experiments.studies.launchers.local import STOP_SECONDS
from lossrag.experiments.studies.launchers.options import LauncherOptions
from lossrag.experiments.studies.launchers.remote import RemoteWorker, read_standing, standing_path
from lossrag.extras import load_extra

STORE_BYTES = 80 << 20
"""Of Ray's store of objects, which holds exit codes alone: little of a container's /dev/shm."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
"""No report of usage to anybody, and GPUs as the user has made them visible."""


def run_on_node(worker: RemoteWorker) -> int:
    """The exit code of a task, on a node of the cluster."""
    ray = load_extra("ray", "ray", "launcher=ray")
    return worker(f"node {ray.get_runtime_context().get_node_id()[:8]}")


class RayLauncher:
    """Tasks of a Ray cluster: the one of ``address``, or one that is started here and ends with this process.

    Raises ConfigError without Ray, for an address that does not answer, and for more than the cluster has.
    """

    requeues = True

    def __init__(self, options: LauncherOptions, processes: int | None) -> None:
        self.slots = processes
        os.environ.update(QUIET)
        self._ray = ray = load_extra("ray", "ray", "launcher=ray")
        quiet = {"log_to_driver": False, "logging_level": "error"}
        try:
            if options.address is not None:
                ray.init(address=options.address, **quiet)
            else:
                cores = None if processes is None else processes * options.cores
                ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=STORE_BYTES, **quiet)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise ConfigError(f"launcher=ray cannot reach a cluster: {' '.join(str(error).split())}") from None
        needs = {"CPU": options.cores, "GPU": options.gpus, "memory": (options.memory or 0) * 1e9}
        there = ray.cluster_resources()
        for name, amount in needs.items():
            if amount > there.get(name, 0):
                ray.shutdown()
                raise ConfigError(
                    f"launcher=ray: a run needs {amount:g} {name}, the cluster has {there.get(name, 0):g}."
                )
        memory = {} if options.memory is None else {"memory": needs["memory"]}
        resources = {"num_cpus": options.cores, "num_gpus": options.gpus, "max_retries": 0, **memory}
        self._run = ray.remote(**resources)(run_on_node)

    def submit(self, task: Task) -> tuple[Task, Any]:
        """Hand it to the cluster."""
        standing_path(task).unlink(missing_ok=True)
        return task, self._run.remote(RemoteWorker(task, str(Path.cwd())))

    def poll(self, handle: tuple[Task, Any]) -> Standing:
        """By the file of its worker, and by Ray whether it lives."""
        task, reference = handle
        ready, _ = self._ray.wait([reference], timeout=0)
        told = read_standing(task)
        if not ready:
            return told or Standing("waiting")
        where = told.where if told else ""
        try:
            return Standing("ended", where, int(self._ray.get(reference)))
        except self._ray.exceptions.RayError as error:
            return Standing("lost", where, why=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")

    def cancel(self, handles: Sequence[tuple[Task, Any]]) -> None:
        """Interrupt their workers, which tell the runs to stop."""
        references = [reference for _, reference in handles]
        for reference in references:
            self._ray.cancel(reference, force=False)
        if references:
            self._ray.wait(references, num_returns=len(references), timeout=STOP_SECONDS)

    def script(self, task: Task) -> str:
        """The command line that a node runs."""
        return shlex.join(["lossrag", *task.command])

    def close(self) -> None:
        """Leave the cluster, which ends when it was started here."""
        self._ray.shutdown()
