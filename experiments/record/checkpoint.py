"""Checkpoints: tensor files of a run, and the state of an optimiser as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossrag.errors import CheckpointError
from lossrag.tensors import DamagedFile, load_tensors


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and metadata of a checkpoint; raises CheckpointError when it is damaged or foreign."""
    try:
        return load_tensors(path)
    except DamagedFile as reason:
        raise CheckpointError(
            f"The checkpoint {path} is damaged: {reason}. Delete it to start this run over, or restore it from a copy."
        ) from None


def pack(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under ``prefix/``."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def unpack(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under ``prefix/``, without it."""
    start = f"{prefix}/"
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimiser's state as flat tensors ``index/key``, and its groups as plain values."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}/{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, entries in state["state"].items()
        for key, value in entries.items()
        if value is not None
    }
    return tensors, state["param_groups"]


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Load what :func:`pack_optimizer` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})
