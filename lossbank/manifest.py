"""The manifest of a stored memory: names, counts, checksums, and a checksum over itself."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from lossbank.memory import MAX_CAPACITY, MAX_CONTEXT
from lossbank.records import MAX_NAME, check_name
from lossrag import BankError, ConfigError
from lossrag.files import write_atomic

MANIFEST = "manifest.json"
FORMAT = "lossrag-memory-1"
MAX_BYTES = 1 << 28

DATA_FILE = r"(memory|towers)-[0-9a-f]{16}\.safetensors"
"""What the files that a manifest vouches for are called; there is one of the memory, and one of towers at most."""

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
        raise _damaged(path, "it is not JSON") from None
    if not isinstance(manifest, dict) or not str(manifest.get("format", "")).startswith("lossrag-memory-"):
        raise BankError(f"{path} is damaged or not of a LossRAG bank: name the folder of a bank.")
    found = str(manifest.pop("sha256", ""))
    # Byte for byte, so that a change which JSON overlooks (a space) is noticed as well.
    if _checksum(manifest) != found or _encode(manifest) != content:
        raise _damaged(path, "it does not match its checksum")
    if manifest["format"] != FORMAT:
        raise BankError(f"{path} has the format {manifest['format']!r}, expected {FORMAT!r}: use the LossRAG it is of.")
    try:
        _check(manifest)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, str(error)) from None
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


def _damaged(path: Path, why: str) -> BankError:
    return BankError(f"{path} is damaged ({why}): restore it from a copy, or name another folder.")
