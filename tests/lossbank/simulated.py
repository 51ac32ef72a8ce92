"""A world in which what a loss contributes is a smooth function of the context and of its geometry."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import torch
from torch import Tensor

from lossrag.lossbank import LOSSES
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.embedding import EMBEDDING_VERSION
from lossrag.lossbank.experience.memory import Memory
from lossrag.lossbank.shape.geometry import GEOMETRY_NAMES, geometry, geometry_vectors
from tests.lossbank.oracles import built_in

NAMES = tuple(sorted(name for name in built_in() if LOSSES[name].target_kind == "classification"))
GEOMETRIES = dict(zip(NAMES, geometry_vectors([LOSSES[name] for name in NAMES]), strict=True))
TRIED = 24
"""Losses that a moment tries."""


def truth(noise: Tensor, imbalance: Tensor) -> Tensor:
    """Contributions (n, L) in tasks of so much label noise (n,) and imbalance (n,)."""
    shape = dict(zip(GEOMETRY_NAMES, torch.stack([geometry(LOSSES[name]) for name in NAMES]).T, strict=True))
    robust = -2 * shape["outlier_sensitivity"] - 0.3 - shape["growth"]
    rare = 1.5 * shape["rarity_0.5"]
    noise, imbalance = noise[:, None], imbalance[:, None]
    clean = (1 - noise) * (1 - imbalance)
    return torch.tanh(noise * robust + imbalance * rare - clean * (robust.abs() / 2 + 0.7 * rare) - 0.2)


def moments(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Contexts (n, C), true contributions (n, L), and which kind of task it is: 0 noisy, 1 imbalanced, 2 clean."""
    g = torch.Generator().manual_seed(seed)
    kind = torch.randint(3, (count,), generator=g)
    strength = 0.4 + 0.6 * torch.rand(count, generator=g)
    noise, imbalance = strength * (kind == 0), strength * (kind == 1)
    mixing = torch.randn(2, len(CONTEXT_NAMES), generator=torch.Generator().manual_seed(9))
    contexts = torch.stack([noise, imbalance], dim=1) @ mixing
    return contexts + 0.3 * torch.randn(contexts.shape, generator=g), truth(noise, imbalance), kind


def filled(seed: int, *, without: Collection[str] = (), count: int = 120) -> Memory:
    """A memory of so many moments, each of which tried 24 losses, with noise on what they contributed."""
    contexts, contributions, _ = moments(count, seed)
    g = torch.Generator().manual_seed(seed + 1)
    seen = (contributions + 0.1 * torch.randn(contributions.shape, generator=g)).clamp(-1, 1)
    memory = Memory(len(CONTEXT_NAMES), EMBEDDING_VERSION)
    for step in range(count):
        tried = torch.randperm(len(NAMES), generator=g)[:TRIED].tolist()
        tried = [place for place in tried if NAMES[place] not in without]
        memory.add(
            contexts[step].expand(len(tried), -1).numpy(),
            [NAMES[place] for place in tried],
            seen[step, tried].numpy(),
            run="simulated",
            task=f"task{step % 5}",
            step=step,
        )
    return memory


def fingerprint(memory: Memory) -> str:
    """Equal if and only if two memories are, bit for bit."""
    records = memory.records
    names = (records.runs, records.tasks, records.losses)
    digest = hashlib.sha256(repr((memory.context_size, memory.embedding_version, memory.capacity, names)).encode())
    for column in (records.run, records.task, records.loss, records.step, records.context, records.contribution):
        digest.update(column.tobytes())
    return digest.hexdigest()
