"""The cache of encoded suites: one tensor file each, checked when read, replaced when damaged."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from lossrag.proof import DamagedFile
from lossrag.schema import Unfit, check_schema
from lossrag.tasks.files.fetch import cache_folder
from lossrag.tensors import load_tensors, save_tensors

log = logging.getLogger(__name__)

FORMAT = 2
"""Part of every key: raise it when the meaning of an encoded suite changes (tokeniser, splits, editions)."""

Encoded = tuple[dict[str, Tensor], str]
"""Tensors by name, and the suite's edition in words; ``words``, where it is there, holds :func:`packed` ones."""


def encoded_path(suite: str, settings: Mapping[str, object]) -> Path:
    """The place in the cache of the suite with these ``settings``, everything that determines it."""
    text = json.dumps({"format": FORMAT, **settings}, sort_keys=True)
    return cache_folder() / "encoded" / f"{suite}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"


def read_encoded(path: Path, check: Callable[[Mapping[str, Tensor]], None] | None = None) -> Encoded | None:
    """The content that :func:`write_encoded` wrote, or None when there is nothing or (with a warning) it is damaged.

    check: raises Unfit for tensors that are not those of the suite.
    """
    if not path.is_file():
        return None
    try:
        tensors, meta = load_tensors(path)
        check_schema(meta, {"edition": str})
        if check is not None:
            check(tensors)
    except (DamagedFile, Unfit) as reason:
        log.warning("The encoded suite %s is damaged: %s. Built anew.", path, reason)
        return None
    return tensors, meta["edition"]


def write_encoded(path: Path, tensors: Mapping[str, Tensor], edition: str) -> None:
    """Write the file, complete or not at all. A cache that cannot be written costs time only: a warning."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, tensors, {"edition": edition})
    except OSError as error:
        log.warning("Cannot cache the encoded suite in %s (%s): it is built anew every time.", path, error)
