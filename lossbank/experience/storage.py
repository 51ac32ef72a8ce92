"""Storage of a memory: plain arrays and a manifest that proves them; a crash leaves the old or the new one.

A folder holds ``memory-<hash>.safetensors``, perhaps ``towers-<hash>.safetensors``, and ``manifest.json``. The manifest
names the files it belongs to and is replaced last, so it is the point at which a new bank takes effect.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError

from lossrag.errors import BankError, ConfigError
from lossrag.files import write_atomic
from lossrag.lossbank.experience.memory import MAX_CAPACITY, MAX_CONTEXT, Memory
from lossrag.lossbank.experience.records import MAX_NAME, Records, check_name

MANIFEST = "manifest.json"
FORMAT = "lossrag-memory-2"
MAX_BYTES = 1 << 28

DATA_FILE = r"(memory|towers)-[0-9a-f]{16}\.safetensors"
"""Names of the files that a manifest vouches for; there is one of the memory, and one of towers at most."""

_FIELDS = {
    "format": str,
    "embedding_version": str,
    "context_size": int,
    "capacity": int,
    "records": int,
    "runs": list,
    "tasks": list,
    "losses": list,
    "files": dict,
}


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Put ``manifest`` (the fields above) in force.

    Raises BankError when its names are more than may be read again, OSError when the folder cannot be written.
    """
    content = _encode(manifest)
    if len(content) > MAX_BYTES:
        raise BankError(f"The names of the bank {folder} take {len(content):,} bytes: give it a smaller capacity.")
    write_atomic(folder / MANIFEST, content)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of ``folder``, its fields checked.

    Raises BankError when the folder is absent, holds no bank, a damaged one, or one of another format.
    """
    path = folder / MANIFEST
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise BankError(f"{path} has {size:,} bytes, which no bank has: name the folder of a bank.")
        content = path.read_bytes()
    except FileNotFoundError:
        state = "holds no bank" if folder.is_dir() else "does not exist"
        raise BankError(f"The folder {folder} {state}: name one that a bank was saved to, or start empty.") from None
    except OSError as error:
        raise BankError(f"The bank {folder} cannot be read ({error}): see to its permissions.") from None
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError):
        raise _damaged_file(path, "it is not JSON") from None
    if not isinstance(manifest, dict) or not str(manifest.get("format", "")).startswith("lossrag-memory-"):
        raise BankError(f"{path} is damaged or not of a LossRAG bank: name the folder of a bank.")
    found = str(manifest.pop("sha256", ""))
    # Byte for byte, so that a change which JSON overlooks (a space) is noticed as well.
    if _checksum(manifest) != found or _encode(manifest) != content:
        raise _damaged_file(path, "it does not match its checksum")
    if manifest["format"] != FORMAT:
        raise BankError(
            f"{path} has the format {manifest['format']!r}, this program reads {FORMAT!r}: name another folder, start "
            "with an empty bank, or use the LossRAG that wrote it."
        )
    try:
        _check(manifest)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise _damaged_file(path, str(error)) from None
    return manifest


def _check(manifest: dict[str, Any]) -> None:
    for field, kind in _FIELDS.items():
        if type(manifest[field]) is not kind:
            raise ValueError(f"{field} is {manifest[field]!r:.40}")
    check_name("version of the embedding", manifest["embedding_version"])
    if not 1 <= manifest["context_size"] <= MAX_CONTEXT:
        raise ValueError(f"contexts of {manifest['context_size']} numbers")
    if not 0 <= manifest["records"] <= manifest["capacity"] <= MAX_CAPACITY:
        raise ValueError(f"{manifest['records']} records at a capacity of {manifest['capacity']}")
    for field in ("runs", "tasks", "losses"):
        for name in manifest[field]:
            check_name(field, name)
        if manifest[field] != sorted(set(manifest[field])):
            raise ValueError(f"{field} are not sorted and distinct")
    kinds = []
    for name, claim in manifest["files"].items():
        # A name with a folder in it could lead anywhere.
        found = re.fullmatch(DATA_FILE, name)
        if not found or sorted(claim) != ["bytes", "sha256"]:
            raise ValueError(f"the file {name!r:.{MAX_NAME}}")
        kinds.append(found[1])
    if sorted(kinds) not in (["memory"], ["memory", "towers"]):
        raise ValueError(f"files of the kinds {kinds}")


def _encode(manifest: dict[str, Any]) -> bytes:
    signed = {**manifest, "sha256": _checksum(manifest)}
    return (json.dumps(signed, indent=1, sort_keys=True) + "\n").encode()


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _damaged_file(path: Path, why: str) -> BankError:
    return BankError(f"{path} is damaged ({why}): restore it from a copy, or name another folder.")


_COLUMNS = ("run", "task", "loss", "step", "context", "contribution")
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


def load_files(folder: Path, expected_embedding_version: str) -> tuple[Memory, bytes | None]:
    """The memory that :func:`save_memory` wrote to ``folder``, and the bytes of the towers saved with it, if any.

    Nothing on disk is touched. Raises BankError when the folder is absent, holds no bank, one that is damaged or of
    another format, or one whose contexts another version of the embedding made: the message names both.

    >>> import tempfile
    >>> memory = Memory(1, "v1")
    >>> memory.add([[0.5]], ["mae"], [0.25], run="r", task="REC", step=7)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_memory(memory, Path(folder))
    ...     load_files(Path(folder), "v1")[0].fingerprint() == memory.fingerprint()
    True
    """
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
    widths = 4 * (manifest["context_size"] + 4) + 8
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
    if not finite or (arrays["step"] < 0).any():
        raise ValueError("it holds numbers that are not finite, or negative steps")
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
