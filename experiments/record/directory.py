"""Directory of one run: made from its configuration, locked while in use, never overwritten."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from lossrag.errors import LeaseHeldError, LossRAGError, RunDirectoryError
from lossrag.experiments.config.identity import Settings, differing_keys, run_id
from lossrag.experiments.config.schema import RunConfig
from lossrag.experiments.record.settings import read_settings
from lossrag.files import expanded, write_atomic
from lossrag.leases import Lease
from lossrag.proof import SUMS, sha256, write_sums
from lossrag.tasks.files.fetch import sha256_of

LEASE = ".lease"
"""Of a folder that one process at a time may write to."""


class RunDirectory:
    """Paths of a run; ``lease`` is held until :meth:`release`."""

    def __init__(self, path: Path, run_id: str, lease: Lease) -> None:
        self.path, self.run_id, self.lease = path, run_id, lease
        self.fresh = not (path / "config.yaml").exists()
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.preprocessing = path / "preprocessing.json"
        self.figure = path / "trajectories.png"
        self.last = path / "checkpoints" / "last.safetensors"
        self.best = path / "checkpoints" / "best.safetensors"
        self.refit = path / "checkpoints" / "refit.safetensors"
        self.model = path / "model.json"

    def release(self) -> None:
        """Let other processes use the directory."""
        self.lease.release()

    def discard(self) -> None:
        """Take a directory back that was made for a run that cannot begin; one that was there before stays."""
        if self.fresh:
            for path in (self.config, self.preprocessing, self.path / SUMS):
                path.unlink(missing_ok=True)
            self.release()
            for folder in (self.last.parent, self.path):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def finish(self, summary: bytes) -> None:
        """Write summary.json, which says that the run has finished, and before it the sums of all that it is about.

        Raises OSError.
        """
        write_sums(self.path, {**sums_of(self.path), self.summary.name: {sha256(summary)}})
        write_atomic(self.summary, summary)


EVENT_FILES = "tensorboard/**/events.*"
PROVEN = ("*.yaml", "*.json", "*.jsonl", "*.png", EVENT_FILES, "tensorboard/**/*.tsv", "tensorboard/**/*.pbtxt")
"""Files of a run directory whose sums are kept; tensor files prove themselves."""


def proven_files(directory: Path) -> list[Path]:
    """The files of a run directory that its SHA256SUMS names when the run has finished."""
    return sorted({path for pattern in PROVEN for path in directory.glob(pattern) if path.is_file()})


def sums_of(directory: Path) -> dict[str, set[str]]:
    """The sums of these files as they are now."""
    return {path.relative_to(directory).as_posix(): {sha256_of(path)} for path in proven_files(directory)}


def open_run(settings: Settings, run: RunConfig) -> RunDirectory:
    """The directory of this configuration: new, or the one of an earlier run to resume or to show.

    Raises RunDirectoryError when it is in use, cannot be written, or holds a run of another configuration.
    """
    name = run_id(settings)
    path = expanded(run.dir, "run.dir") if run.dir is not None else expanded(run.root, "run.root") / name
    if run.again:
        path = _unused(path)
    try:
        _refuse_foreign(path)
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        lease = Lease(path / LEASE)
        lease.acquire()
    except LeaseHeldError as held:
        raise RunDirectoryError(
            f"The run directory {path} is in use by another process, {held}: wait for it, or add run.again=true to "
            "start a second run beside it."
        ) from None
    except OSError as error:
        raise RunDirectoryError(
            f"The run directory {path} cannot be written ({error.strerror}): choose another with run.root=FOLDER, or "
            "run.dir=FOLDER."
        ) from None
    directory = RunDirectory(path, name, lease)
    try:
        _check_or_write_config(directory, settings)
    except BaseException:
        directory.release()
        raise
    return directory


def _check_or_write_config(directory: RunDirectory, settings: Settings) -> None:
    for rest in [*directory.path.glob(".*.tmp"), *directory.last.parent.glob(".*.tmp")]:
        # of a process that was killed while it wrote
        rest.unlink()
    content = OmegaConf.to_yaml(OmegaConf.create(dict(settings))).encode()
    if not directory.config.exists():
        write_sums(directory.path, {directory.config.name: {sha256(content)}})
        write_atomic(directory.config, content)
        return
    try:
        differing = differing_keys(read_settings(directory.path), settings)
        if not directory.summary.exists():  # what a run that did not end has proven of its end is written anew
            write_sums(directory.path, {directory.config.name: {sha256(directory.config.read_bytes())}})
    except LossRAGError as error:
        raise RunDirectoryError(
            f"{error} Nobody knows what this run is: choose another folder with run.dir=FOLDER, or run.again=true."
        ) from None
    if differing and directory.summary.exists():
        listed = "\n  ".join(differing)
        raise RunDirectoryError(
            f"{directory.path} holds a finished run of another configuration, and a finished run stays as it is. These "
            f"keys differ:\n  {listed}\nTo train on from its best parameters, start a new run, which names it as its "
            f"parent: the same command with train.from={directory.path}, without run.dir or with another one, and with "
            "train.epochs for the new run alone. For a run that begins anew choose another run.dir=FOLDER."
        )
    if differing:
        listed = "\n  ".join(differing)
        raise RunDirectoryError(
            f"{directory.path} holds a run of another configuration, so it cannot be resumed with this one. "
            f"These keys differ:\n  {listed}\nRestore them, or choose another folder with run.dir=FOLDER."
        )


def _refuse_foreign(path: Path) -> None:
    """A folder that holds anything but a run is not touched."""
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if "config.yaml" in names:
        return
    known = {"checkpoints", LEASE, ".hydra", SUMS}
    foreign = sorted(name for name in names if name not in known and not name.endswith(".tmp"))
    if foreign:
        raise RunDirectoryError(
            f"{path} is not empty and is not a run of LossRAG (it holds {', '.join(foreign[:5])}): "
            "choose another folder with run.dir=FOLDER."
        )


def _unused(path: Path) -> Path:
    candidates = (path.with_name(f"{path.name}-{number}") for number in range(2, 10_000))
    return path if not path.exists() else next(c for c in candidates if not c.exists())
