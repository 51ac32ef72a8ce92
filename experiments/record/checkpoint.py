"""Checkpoints: tensor files of a run, and the state of an optimiser as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossrag.errors import CheckpointError
from lossrag.proof import DamagedFile
from lossrag.schema import Schema, Unfit, check_schema
from lossrag.tensors import load_tensors


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
    """Load what :func:`pack_optimizer` gave; raises Unfit for anything that this optimiser would stumble over."""
    own = optimizer.state_dict()["param_groups"]
    check_schema(groups, [{"params": [int]}], "groups")
    if [group["params"] for group in groups] != [group["params"] for group in own]:
        raise Unfit("the groups of the optimiser hold other parameters")
    for group, like in zip(groups, own, strict=True):
        check_schema(group, {key: _kind(value) for key, value in like.items()}, "groups")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        if not index.isdecimal() or int(index) >= len(parameters):
            raise Unfit(f"optimizer/{name:.60} is of no parameter")
        shape = parameters[int(index)].shape
        if tensor.shape not in (shape, torch.Size([]), torch.Size([1])) or not tensor.is_floating_point():
            raise Unfit(f"optimizer/{name:.60} has the shape {tuple(tensor.shape)}, its parameter {tuple(shape)}")
        state.setdefault(int(index), {})[key] = tensor
    needed = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimizer, torch.optim.Adam) else set()
    for place, entries in state.items():
        if not needed <= entries.keys():
            raise Unfit(f"optimizer/{place} lacks {', '.join(sorted(needed - entries.keys()))}")
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _kind(value: object) -> Schema:
    """The schema of an option of an optimiser, as JSON has it."""
    if value is None or isinstance(value, bool):
        return (bool, None)
    if isinstance(value, (int, float)):
        return float
    return [_kind(value[0])] if isinstance(value, (tuple, list)) and value else object


def check_tensors(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], where: str) -> None:
    """Raise Unfit unless ``tensors`` have the names, shapes and types of those that they are to replace."""
    if other := sorted(tensors.keys() ^ like.keys()):
        what = "missing" if other[0] in like else "of nothing here"
        raise Unfit(f"{where}/{other[0]:.60} is {what}")
    for name, tensor in tensors.items():
        own = like[name]
        if (tensor.shape, tensor.dtype) != (own.shape, own.dtype):
            got, expected = (f"{tuple(t.shape)} {t.dtype}" for t in (tensor, own))
            raise Unfit(f"{where}/{name} is {got}, the run has {expected}")
