"""Shards of a collection: experience in files of a few cases, written whole or not at all."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch

from lossrag.errors import BankError
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.trials import Experience
from lossrag.tensors import DamagedFile, load_tensors, save_tensors

FORMAT = "lossrag-shard-1"


def shard_path(folder: Path, part: str, number: int) -> Path:
    """The file of a shard of a part."""
    return folder / "shards" / f"{part}-{number:04d}.safetensors"


def save_shard(path: Path, experience: Experience) -> None:
    """Write ``experience`` to ``path``."""
    arrays = {f"column.{name}": column for name, column in experience.columns.items()}
    arrays |= {name: getattr(experience, name) for name in _ARRAYS}
    meta = {"format": FORMAT, "names": experience.names, "context": CONTEXT_NAMES}
    save_tensors(path, {name: torch.from_numpy(array) for name, array in arrays.items()}, meta)


def load_shard(path: Path) -> Experience:
    """What :func:`save_shard` wrote; raises BankError for a file that is damaged, or of another version."""
    try:
        tensors, meta = load_tensors(path)
    except DamagedFile as reason:
        raise BankError(
            f"The shard {path} is damaged: {reason}. Delete it, and the collection makes it again."
        ) from None
    if (meta.get("format"), meta.get("context")) != (FORMAT, list(CONTEXT_NAMES)):
        raise BankError(f"{path} is no shard of this version: delete it, and the collection makes it again.")
    names = {name: tuple(texts) for name, texts in meta["names"].items()}
    columns = {name.partition(".")[2]: tensor.numpy() for name, tensor in tensors.items() if name.startswith("column.")}
    return Experience(names, columns, **{name: tensors[name].numpy() for name in _ARRAYS})


_ARRAYS = tuple(entry.name for entry in fields(Experience) if entry.name not in ("names", "columns"))
