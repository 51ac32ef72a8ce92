"""Opening of a launcher: the engine of a study, for as long as it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lossrag.experiments.studies.launchers.base import Launcher
from lossrag.experiments.studies.launchers.local import LocalLauncher
from lossrag.experiments.studies.launchers.options import LauncherOptions
from lossrag.experiments.studies.launchers.ray_cluster import RayLauncher
from lossrag.experiments.studies.launchers.slurm import SubmititLauncher

LOCAL_PROCESSES = 2


@contextmanager
def opened(options: LauncherOptions, processes: int | None, logs: Path) -> Iterator[Launcher]:
    """The launcher of these options. processes: runs at a time, None for two here, and for all that a cluster takes."""
    launcher: Launcher
    if options.name == "submitit":
        slots = processes or (LOCAL_PROCESSES if options.cluster == "local" else None)
        launcher = SubmititLauncher(options, slots, logs / "submitit")
    elif options.name == "ray" and not options.dry_run:
        launcher = RayLauncher(options, processes)
    else:
        launcher = LocalLauncher(processes or LOCAL_PROCESSES)
    try:
        yield launcher
    finally:
        launcher.close()
