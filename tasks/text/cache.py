"""The cache of encoded suites: one safetensors file each, checked when read, replaced when damaged."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lossrag.tasks.files.fetch import cache_folder
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger(__name__)

FORMAT = 1
"""Part of every key: raise it when the meaning of an encoded suite changes (tokeniser, splits, editions)."""

Encoded = tuple[dict[str, Tensor], str]
"""Tensors by name, and the suite's edition in words."""


def encoded_path(suite: str, settings: Mapping[str, object]) -> Path:
    """Where the suite with these ``settings``, everything that determines it, is cached."""
    text = json.dumps({"format": FORMAT, **settings}, sort_keys=True)
    return cache_folder() / "encoded" / f"{suite}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"


def read_encoded(path: Path) -> Encoded | None:
    """What :func:`write_encoded` wrote, or None when there is nothing or (with a warning) it is damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as content:
            metadata = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
        edition = metadata["edition"]
        if metadata["sha256"] == _checksum(tensors, edition):
            return tensors, edition
        reason = "wrong checksum"
    except (SafetensorError, OSError, KeyError) as error:
        reason = str(error)
    log.warning("The encoded suite %s is damaged (%s): built anew.", path, reason)
    return None


def write_encoded(path: Path, tensors: Mapping[str, Tensor], edition: str) -> None:
    """Write the file, complete or not at all. A cache that cannot be written costs time only: a warning."""
    metadata = {"edition": edition, "sha256": _checksum(tensors, edition)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="part-") as folder:
            part = Path(folder, path.name)
            save_file(dict(tensors), part, metadata=metadata)
            with part.open("rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(part, path)
    except (OSError, SafetensorError) as error:
        log.warning("Cannot cache the encoded suite in %s (%s): it is built anew every time.", path, error)


def _checksum(tensors: Mapping[str, Tensor], edition: str) -> str:
    total = hashlib.sha256(edition.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()
