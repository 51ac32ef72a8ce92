"""A memory on disk: plain arrays and a manifest that proves them; a crash leaves the old or the new one.

A folder holds ``memory-<hash>.safetensors``, perhaps ``towers-<hash>.safetensors``, and ``manifest.json``. The manifest
names the files it belongs to and is replaced last, so it is the point at which a new bank takes effect.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError

from lossbank.manifest import DATA_FILE, FORMAT, MANIFEST, read_manifest, write_manifest
from lossbank.memory import Memory
from lossbank.records import Records
from lossrag import BankError, ConfigError
from lossrag.files import write_atomic

_COLUMNS = ("run", "task", "loss", "step", "context", "contribution", "weight", "uncertainty")
_NUMBERS = _COLUMNS[4:]
_HEADER = 65_536
"""Bytes that the header of a safetensors file may take beside the arrays."""

_MOST_TOWERS = 1 << 28

_OURS = re.compile(rf"{DATA_FILE}|\.({DATA_FILE}|manifest\.json)\.\d+\.tmp")
"""Files that a save may leave behind; anything else in the folder is not ours to remove."""

_PATIENCE = 60.0


def save_memory(memory: Memory, folder: Path, towers: bytes | None = None) -> None:
    """Write ``memory`` to ``folder``, made if absent, in place of the bank of the same embedding it may hold.

    ``towers``, the bytes of a safetensors file, take effect with it; without them those of the older bank go.

    Raises BankError, and changes nothing, when the folder holds another kind of bank, a damaged one, or cannot be
    written; and when another process writes to it for a minute.
    """
    records = memory.records
    content = safetensors.numpy.save({name: getattr(records, name) for name in _COLUMNS})
    contents = {_file_name("memory", content): content}
    if towers is not None:
        contents[_file_name("towers", towers)] = towers
    manifest = {
        "format": FORMAT,
        "embedding_version": memory.embedding_version,
        "context_size": memory.context_size,
        "capacity": memory.capacity,
        "records": len(records),
        "runs": list(records.runs),
        "tasks": list(records.tasks),
        "losses": list(records.losses),
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()
        },
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=_PATIENCE):
            if (folder / MANIFEST).exists():
                _check_version(folder, read_manifest(folder), memory.embedding_version)
            for name, data in contents.items():
                write_atomic(folder / name, data)
            write_manifest(folder, manifest)
            # Only now is an older file without use; temporary ones are left by a process that was killed.
            for stale in folder.iterdir():
                if _OURS.fullmatch(stale.name) and stale.name not in contents:
                    stale.unlink(missing_ok=True)
    except Timeout:
        raise BankError(f"Another process is writing the bank {folder}: let it end, or name another folder.") from None
    except OSError as error:
        raise BankError(f"The bank cannot be written to {folder} ({error}): name a folder you may write to.") from None


def load_memory(folder: Path, expected_embedding_version: str) -> Memory:
    """The memory that :func:`save_memory` wrote; nothing on disk is touched.

    Raises BankError when the folder is absent, holds no bank, one that is damaged or of another format, or one whose
    contexts another version of the embedding made: the message names both.

    >>> import tempfile
    >>> memory = Memory(1, "v1")
    >>> memory.add([[0.5]], ["mae"], [0.25], run="r", task="REC", step=7)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_memory(memory, Path(folder))
    ...     load_memory(Path(folder), "v1").fingerprint() == memory.fingerprint()
    True
    """
    return load_files(folder, expected_embedding_version)[0]


def load_files(folder: Path, expected_embedding_version: str) -> tuple[Memory, bytes | None]:
    """The memory of ``folder``, and the bytes of the towers saved with it, if any; as :func:`load_memory`."""
    manifest = read_manifest(folder)
    while True:
        _check_version(folder, manifest, expected_embedding_version)
        try:
            contents = _read_data(folder, manifest)
            break
        except FileNotFoundError as error:
            # A process that saved meanwhile has removed the older file; its manifest names the new one.
            newer = read_manifest(folder)
            if newer == manifest:
                raise _damaged(folder, f"{error.filename} is missing") from None
            manifest = newer
    try:
        return _rebuild(safetensors.numpy.load(contents["memory"]), manifest), contents.get("towers")
    except (SafetensorError, ConfigError, KeyError, ValueError, TypeError, IndexError) as error:
        raise _damaged(folder, str(error)) from error


def _file_name(kind: str, content: bytes) -> str:
    return f"{kind}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"


def _read_data(folder: Path, manifest: dict[str, Any]) -> dict[str, bytes]:
    """The contents of the files by their kind, "memory" and perhaps "towers"."""
    return {name.partition("-")[0]: _read_file(folder, manifest, name) for name in manifest["files"]}


def _read_file(folder: Path, manifest: dict[str, Any], name: str) -> bytes:
    claim = manifest["files"][name]
    widths = 4 * (manifest["context_size"] + 6) + 8
    most = _MOST_TOWERS if name.startswith("towers") else manifest["records"] * widths + _HEADER
    try:
        size = (folder / name).stat().st_size
        # Before anything is read: no memory is spent on a file of an absurd size.
        if size != claim["bytes"] or size > most:
            raise _damaged(folder, f"{name} has {size:,} bytes, expected {claim['bytes']:,} and {most:,} at most")
        content: bytes = (folder / name).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BankError(f"The bank {folder} cannot be read ({error}): see to its permissions.") from None
    if hashlib.sha256(content).hexdigest() != claim["sha256"]:
        raise _damaged(folder, f"{name} does not match its checksum")
    return content


def _rebuild(arrays: dict[str, NDArray[Any]], manifest: dict[str, Any]) -> Memory:
    count, size = manifest["records"], manifest["context_size"]
    if sorted(arrays) != sorted(_COLUMNS):
        raise ValueError(f"it holds {sorted(arrays)}, expected {sorted(_COLUMNS)}")
    for name, array in arrays.items():
        shape = (count, size) if name == "context" else (count,)
        kind = np.float32 if name in _NUMBERS else np.int64 if name == "step" else np.int32
        if array.dtype != kind or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {np.dtype(kind)} {shape}")
    for name, names in (("run", "runs"), ("task", "tasks"), ("loss", "losses")):
        if count and not 0 <= arrays[name].min() <= arrays[name].max() < len(manifest[names]):
            raise ValueError(f"{name} points past the {names}")
    finite = all(np.isfinite(arrays[name]).all() for name in ("context", "contribution"))
    if not finite or (arrays["step"] < 0).any() or np.isinf(arrays["weight"]).any():
        raise ValueError("it holds numbers that are not finite, or negative steps")
    if ((arrays["uncertainty"] < 0) | np.isinf(arrays["uncertainty"])).any():
        raise ValueError("it holds uncertainties that are negative or infinite")
    memory = Memory(size, manifest["embedding_version"], manifest["capacity"])
    runs, tasks, losses = (tuple(manifest[names]) for names in ("runs", "tasks", "losses"))
    memory.extend(Records(runs, tasks, losses, *(arrays[name] for name in _COLUMNS)))
    return memory


def _check_version(folder: Path, manifest: dict[str, Any], expected: str) -> None:
    found = manifest["embedding_version"]
    if found != expected:
        raise BankError(
            f"The bank {folder} was made with version {found!r} of the embedding, this program has {expected!r}: "
            "its contexts mean something else. Name another folder, or start with an empty bank."
        )


def _damaged(folder: Path, why: str) -> BankError:
    return BankError(f"The bank {folder} is damaged ({why}): restore it from a copy, or name another folder.")
