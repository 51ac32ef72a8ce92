"""Options of a launcher: which engine, and what a run gets of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lossrag.errors import ConfigError, did_you_mean

LAUNCHERS = ("local", "submitit", "ray")


@dataclass
class LauncherOptions:
    """name: ``local``, ``submitit`` (Slurm) or ``ray``. cores, gpus, memory: of a run, the latter in GB.

    cluster: of submitit, ``slurm`` or ``local``. address: of a Ray cluster that is there; None starts one here.
    minutes: that Slurm gives a run at a time; one that needs more is requeued with its checkpoint. sbatch: further
    options of sbatch, such as partition=gpu. setup: shell lines before a run. dry_run: show what would be submitted.
    """

    name: str = "local"
    cores: int = 1
    gpus: int = 0
    memory: float | None = None
    cluster: str = "slurm"
    address: str | None = None
    minutes: int = 1440
    sbatch: dict[str, str] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.name not in LAUNCHERS:
            raise ConfigError(f"Unknown launcher {self.name!r}: {did_you_mean(self.name, LAUNCHERS)}")
        if self.cluster not in ("slurm", "local"):
            raise ConfigError(f"launcher.cluster is slurm or local, got {self.cluster!r}.")
        for name, least in (("cores", 1), ("gpus", 0), ("minutes", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"launcher.{name} must be at least {least}, got {getattr(self, name)}.")
        if self.memory is not None and self.memory <= 0:
            raise ConfigError(f"launcher.memory is a number of GB above 0, got {self.memory}.")


def with_launcher(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, with ``launcher=NAME`` beside other options of it.

    >>> with_launcher(["launcher=ray", "launcher.cores=2", "processes=4"])
    ['launcher.name=ray', 'launcher.cores=2', 'processes=4']
    """
    key = "launcher="
    return [f"launcher.name={text.removeprefix(key)}" if text.startswith(key) else text for text in arguments]
