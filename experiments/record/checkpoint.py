"""Checkpoints: plain safetensors files that execute nothing, are written atomically and prove their content.

Of single flipped bits neither safetensors nor torch.load notices any, so the file's own metadata carry a
sha256 over every tensor and the rest of the metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lossrag.errors import CheckpointError
from lossrag.files import write_atomic


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able metadata to ``path``."""
    # copies: safetensors refuses tensors that share memory
    on_cpu = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    content = save(on_cpu, metadata={"meta": text, "sha256": _digest(on_cpu, text)})
    write_atomic(path, content)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and metadata of a checkpoint; raises CheckpointError when it is damaged or foreign."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be read ({error}): delete it to start this run over."
        ) from None
    if "sha256" not in header or "meta" not in header:
        raise CheckpointError(f"{path} is not a LossRAG checkpoint: it carries no checksum. Delete it or name another.")
    if _digest(tensors, header["meta"]) != header["sha256"]:
        raise CheckpointError(
            f"The checkpoint {path} is damaged: its content does not match its checksum. Delete it to start this "
            "run over, or restore it from a copy."
        )
    return tensors, json.loads(header["meta"])


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
