"""Findings of a check: a file, what is the matter with it, and what it can be rebuilt from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossrag.errors import BankError, LossRAGError
from lossrag.experiments.check.records import check_records
from lossrag.experiments.record.composition_log import EVENTS, read_events
from lossrag.experiments.record.contexts import FILE as CONTEXTS
from lossrag.experiments.record.directory import proven_files
from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.record.predictions import TEST_PREDICTIONS
from lossrag.experiments.record.settings import read_settings
from lossrag.files import check_file
from lossrag.lossbank.experience.files import FORMAT, load_experience
from lossrag.proof import SUMS, DamagedFile, Sums, read_sums
from lossrag.tasks.files.fetch import sha256_of
from lossrag.tensors import load_tensors

DAMAGED, MISSING, UNPROVEN = "damaged", "missing", "unproven"
CHECKPOINT, POINTS, ITSELF, NOTHING, COMMAND = (
    "the last checkpoint",
    "metrics.jsonl",
    "the files that it is about",
    "a copy alone",
    "the command that wrote it",
)
"""What a file can be rebuilt from."""


@dataclass(frozen=True)
class Finding:
    """A file that is not as it was written, or of which that cannot be told: ``name`` in its folder, ``state``, why,
    and the ``source`` that it can be rebuilt from."""

    name: str
    state: str
    reason: str
    source: str

    def __str__(self) -> str:
        source = "" if self.state == UNPROVEN else f"; to be had from {self.source}"
        return f"{self.state:8}  {self.name}: {self.reason}{source}"


@dataclass(frozen=True)
class Checked:
    """A run directory, a folder of tables, or a file: ``files`` that were looked at, and what was found."""

    path: Path
    files: int
    findings: tuple[Finding, ...]
    run: bool = False

    @property
    def damage(self) -> list[Finding]:
        """The findings that are more than the absence of a proof."""
        return [finding for finding in self.findings if finding.state != UNPROVEN]


def check_run(directory: Path) -> Checked:
    """Every file of a run directory, as far as it proves itself or is proven by SHA256SUMS."""
    found: list[Finding] = []
    sums = _sums(directory, found)
    finished = (directory / "summary.json").exists() or "summary.json" in (sums or {})
    names = {path.relative_to(directory).as_posix() for path in proven_files(directory)} | (sums or {}).keys()
    for name in sorted(names):
        finding = _proven(directory, name, sums, finished)
        found += [finding] if finding else []
    if finished and not (directory / SUMS).exists():
        found.append(Finding(SUMS, UNPROVEN, "there is none, as an earlier version wrote this run", ITSELF))
    own = [*directory.glob(CONTEXTS), *directory.glob(TEST_PREDICTIONS)]
    tensors = sorted([*directory.glob("checkpoints/*.safetensors"), *own])
    for path in tensors:
        reason = _reason(lambda path=path: load_tensors(path))  # type: ignore[misc]
        if reason:
            source = CHECKPOINT if path in own or path.stem == "refit" else NOTHING
            found.append(Finding(path.relative_to(directory).as_posix(), DAMAGED, reason, source))
    return Checked(directory, len(names) + len(tensors) + (sums is not None), tuple(found), run=True)


def check_tables(folder: Path) -> Checked:
    """The files of a folder that its SHA256SUMS names: the tables of a study or of a collection."""
    found: list[Finding] = []
    sums = _sums(folder, found) or {}
    for name in sorted(sums):
        if reason := _unlike(folder / name, sums[name]):
            found.append(Finding(name, DAMAGED if (folder / name).exists() else MISSING, reason, COMMAND))
    return Checked(folder, len(sums) + 1, tuple(found))


def check_tensor_file(path: Path) -> Checked:
    """A bank, a shard of a collection, or a cached suite."""

    def read() -> None:
        meta: dict[str, Any] = load_tensors(path)[1]
        if meta.get("format") == FORMAT:
            load_experience(path)

    reason = _reason(read)
    cached = path.parent.name == "encoded"
    source = "the next run that needs it" if cached else "the runs, or the shards, that it was made of"
    return Checked(path, 1, (Finding(path.name, DAMAGED, reason, source),) if reason else ())


def _sums(folder: Path, found: list[Finding]) -> Sums | None:
    try:
        return read_sums(folder)
    except DamagedFile as reason:
        found.append(Finding(SUMS, DAMAGED, str(reason), ITSELF))
        return None


def _proven(directory: Path, name: str, sums: Sums | None, finished: bool) -> Finding | None:
    path = directory / name
    source = source_of(name)
    if not path.exists():
        return Finding(name, MISSING, "it is not there", source)
    reason = _reason(_readers(directory, name, finished))
    known = (sums or {}).get(name)
    if reason is None and known is not None:
        reason = _unlike(path, known)
    if reason:
        return Finding(name, DAMAGED, reason, source)
    if known is None and finished and sums is not None:
        return Finding(name, UNPROVEN, f"{SUMS} does not name it", source)
    return None


def _readers(directory: Path, name: str, finished: bool) -> Callable[[], object]:
    """What names the place of damage, where it can."""
    path = directory / name
    if name == "config.yaml":
        return lambda: read_settings(directory)
    if name == "metrics.jsonl":
        return lambda: read_points(path)
    if name == EVENTS:
        return lambda: read_events(directory)
    if "tfevents" in name:
        return lambda: check_records(path)
    return lambda: None


def source_of(name: str) -> str:
    """What a file of a run can be rebuilt from."""
    if "tfevents" in name:
        return POINTS
    return NOTHING if name in ("config.yaml", "metrics.jsonl", EVENTS, "theory.json") else CHECKPOINT


def _unlike(path: Path, known: set[str]) -> str | None:
    try:
        check_file(path, 1 << 40)
        return None if sha256_of(path) in known else f"it does not match its checksum in {SUMS}"
    except OSError as error:
        return str(error)


def _reason(read: Callable[[], object]) -> str | None:
    try:
        read()
    except (DamagedFile, BankError, LossRAGError, OSError) as reason:
        return str(reason)
    return None
