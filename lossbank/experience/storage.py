"""Storage of a bank: one file of proven tensors in a folder; a crash leaves the old or the new one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossrag.errors import BankError, ConfigError
from lossrag.lossbank.experience.memory import Memory
from lossrag.lossbank.experience.records import Records, make_records
from lossrag.tensors import DamagedFile, load_tensors, save_tensors

BANK_FILE = "bank.safetensors"
FORMAT = "lossrag-bank-2"
_OLDER = "manifest.json"
"""In the folders of banks before this format."""

_COLUMNS = ("run", "task", "loss", "step", "context", "contribution")
_TOWERS = "towers/"
_ADVICE = "name another folder, or start with an empty bank"


def save_memory(memory: Memory, folder: Path, towers: Mapping[str, Tensor] | None = None) -> None:
    """Write ``memory`` and the state of ``towers`` to ``folder``, made if absent, in place of the bank it may hold.

    Raises BankError, and changes nothing, when the folder holds a bank of another embedding, a damaged one, or cannot
    be written.
    """
    if holds_bank(folder):
        _read(folder, memory.embedding_version)
    records = memory.records
    tensors = {name: torch.from_numpy(getattr(records, name)) for name in _COLUMNS}
    meta = {
        "format": FORMAT,
        "embedding_version": memory.embedding_version,
        "capacity": memory.capacity,
        **{names: list(getattr(records, names)) for names in ("runs", "tasks", "losses")},
    }
    state = {_TOWERS + name: tensor for name, tensor in (towers or {}).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / BANK_FILE, {**tensors, **state}, meta)
    except OSError as error:
        raise BankError(f"The bank cannot be written to {folder} ({error}): name a folder you may write to.") from None


def load_files(folder: Path, expected_embedding_version: str) -> tuple[Memory, dict[str, Tensor]]:
    """The memory that :func:`save_memory` wrote to ``folder``, and the state of the towers saved with it, if any.

    Nothing on disk is touched. Raises BankError when the folder is absent, holds no bank, one that is damaged or of
    another format, or one whose contexts another version of the embedding made: the message names both.

    >>> import tempfile
    >>> memory = Memory(1, "v1")
    >>> memory.add([[0.5]], ["mae"], [0.25], run="r", task="REC", step=7)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_memory(memory, Path(folder))
    ...     load_files(Path(folder), "v1")[0].records.contribution.tolist()
    [0.25]
    """
    if not holds_bank(folder):
        state = "holds no bank" if folder.is_dir() else "does not exist"
        raise BankError(f"The folder {folder} {state}: name one that a bank was saved to, or start empty.")
    tensors, meta = _read(folder, expected_embedding_version)
    try:
        records = _records({name: tensors.pop(name).numpy() for name in _COLUMNS}, meta)
        memory = Memory(records.context.shape[1], meta["embedding_version"], meta["capacity"])
        memory.extend(records)
    except (ConfigError, KeyError, ValueError, TypeError, IndexError) as error:
        raise _damaged(folder, error) from None
    return memory, {name.removeprefix(_TOWERS): tensor for name, tensor in tensors.items()}


def holds_bank(folder: Path) -> bool:
    """True for a folder with a bank, be it of this format or an older one."""
    return (folder / BANK_FILE).exists() or (folder / _OLDER).exists()


def _read(folder: Path, expected: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of the bank in ``folder``, of this format and the ``expected`` version of the embedding."""
    path = folder / BANK_FILE
    if not path.exists():
        raise BankError(f"The bank {folder} is of an older LossRAG, in a format that is not read any more: {_ADVICE}.")
    try:
        tensors, meta = load_tensors(path)
        layout, version = meta["format"], meta["embedding_version"]
    except (DamagedFile, KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from None
    if layout != FORMAT:
        raise BankError(f"{path} has the format {layout!r}, this program reads {FORMAT!r}: {_ADVICE}.")
    if version != expected:
        raise BankError(
            f"The bank {folder} was made with version {version!r} of the embedding, this program has {expected!r}: its "
            f"contexts mean something else, so {_ADVICE}."
        )
    return tensors, meta


def _damaged(folder: Path, why: Exception) -> BankError:
    return BankError(f"{folder / BANK_FILE} is damaged ({why}): restore it from a copy, or {_ADVICE}.")


def _records(columns: Mapping[str, NDArray[np.generic]], meta: Mapping[str, Any]) -> Records:
    run, task, loss = (
        np.array(meta[names], dtype=object)[columns[column]].tolist()
        for column, names in (("run", "runs"), ("task", "tasks"), ("loss", "losses"))
    )
    return make_records(columns["context"], loss, columns["contribution"], run=run, task=task, step=columns["step"])
